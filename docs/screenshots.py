"""make screenshots: trains three short runs on MNIST and keeps TensorBoard's pages of them."""

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
_WINDOW = (1750, 1100)  # pixels, which all columns of the HParams table need
_WIDTH = 1400  # of the pictures
_COLOURS = 256  # few make half the bytes
_SETTLING_SECONDS = 5  # until what a page shows has come to rest


def train(runs: Path) -> None:
    """Trains the three, and evaluates the vae."""
    for name, settings in RUNS.items():
        workdir = f"--workdir={runs / name}"
        _run("trainer", workdir, *settings, *_SETTINGS)
        if name == "vae":
            _run("trainer.evaluate", workdir)


def keep(runs: Path) -> None:
    """Writes a picture of each page into docs."""
    with dashboard.serving(runs) as board, dashboard.browsing(*_WINDOW) as browser:
        for page, ready in _pages(browser).items():
            browser.open(f"{board.address}/#{page}")
            dashboard.until(ready)
            time.sleep(_SETTLING_SECONDS)
            shown = Image.open(io.BytesIO(browser.picture())).convert("RGB")
            shown = shown.resize((_WIDTH, shown.height * _WIDTH // shown.width))
            path = DOCS / f"tensorboard-{page.split('&')[0]}.png"
            few = shown.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2)  # keeps the rare
            few.save(path, optimize=True)


def _pages(browser: dashboard.Browser) -> dict[str, Callable[[], bool]]:
    """The pages, with what they are to show, and how to tell that they do."""

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
        keep(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            runs = Path(folder) / "runs"
            train(runs)
            keep(runs)
