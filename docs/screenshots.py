"""make screenshots: trains three short runs on MNIST and saves TensorBoard's pages of them."""

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.monitoring import dashboard

DOCS = Path(__file__).parent
RUNS = {
    "vae": (
        *("--config=configs/vae.py", "--config.model.code_size=16"),
        "--config.model.nll_samples=1",
    ),
    "dense": ("--config=configs/dense.py",),
    "dense-8": ("--config=configs/dense.py", "--config.model.code_size=8"),
}
_SETTINGS = (
    *("--config.data.name=mnist", "--config.num_epochs=3", "--config.batch_size=200"),
    *("--config.log_every_steps=20", "--config.validate_every_steps=95"),
)
_WINDOW = (1750, 1100)  # pixels; wide enough for all columns of the HParams table
_WIDTH = 1400  # of the saved images
_COLOURS = 256  # which halves the size of the files
_SETTLING_SECONDS = 5  # until the animations of a page have ended


def train(runs: Path) -> None:
    """Trains the runs, and evaluates the vae."""
    for name, settings in RUNS.items():
        workdir = f"--workdir={runs / name}"
        _run("trainer", workdir, *settings, *_SETTINGS)
        if name == "vae":
            _run("trainer.evaluate", workdir)


def save(runs: Path) -> None:
    """Saves a screenshot of each page in docs."""
    with dashboard.serving(runs) as board, dashboard.browsing(*_WINDOW) as browser:
        for page, ready in _pages(browser).items():
            browser.open(f"{board.address}/#{page}")
            dashboard.until(ready)
            time.sleep(_SETTLING_SECONDS)
            shown = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
            shown = shown.resize((_WIDTH, shown.height * _WIDTH // shown.width))
            path = DOCS / f"tensorboard-{page.split('&')[0]}.png"
            # MAXCOVERAGE keeps rare colours.
            reduced = shown.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2)
            reduced.save(path, optimize=True)


def _pages(browser: dashboard.Browser) -> dict[str, Callable[[], bool]]:
    """Returns the pages, each with a test whether it shows its content."""

    def codes() -> bool:
        browser.in_frames(2)
        dashboard.until(lambda: browser.texts(".numDataPoints") == ["10000"])
        browser.leave_frames()
        return True

    return {
        "scalars": lambda: browser.count(".heading") > 1,
        "images&tagFilter=samples|reconstructions&regexInput=vae": lambda: (
            browser.count("img", "element.naturalWidth > 0") > 2
        ),
        "hparams": lambda: "vae/validation" in browser.texts("vaadin-grid-cell-content"),
        "projector": codes,
    }


def _run(module: str, *flags: str) -> None:
    subprocess.run([sys.executable, "-m", module, *flags], check=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        save(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            runs = Path(folder) / "runs"
            train(runs)
            save(runs)
