"""python -m benchmarks.costs: measures what a training costs besides its steps.

Measures replicas, the size of the data, the start-up, checkpoints and the readers of files. Each
measurement runs in its own process; the cases alternate, and medians are compared. Writes a table
and JSON.
"""

import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

_ROUNDS = flags.DEFINE_integer("rounds", 3, "Measurements of each case; medians are compared.", 1)
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Seconds for which a rate is measured.", 0.1)
_COSTS = flags.DEFINE_list("costs", [], "Some of the costs; default: all.")
_DATA = flags.DEFINE_string("data", "digits", "The data set of the start-up measurement.")
_OUT = flags.DEFINE_string("out", "runs/benchmark", "The folder of costs.md and costs.json.")
_ONE = flags.DEFINE_string("one", None, "Measure this case only, as replicas/conv/4.")

_GIB = 2**30
_CHECKPOINT_EVERY_SECONDS = 60.0
_TURNS = 4  # of each reader
_DIFFERENT_JPEGS = 1000
_JPEG_SIDE, _SCALED_SIDE = 256, 64  # pixels
_WIDE_ROWS = 100

_CASES = {
    "replicas": [f"{net}/{count}" for net in ("dense", "conv") for count in (1, 2, 4)],
    "data": ["60000", "600000", "6000000"],
    "start": ["help", "wrong_flag", "first_step", "resume"],
    "checkpoints": ["dense", "deep_conv"],
    "decoding": ["25000"],
    "wide_tables": ["20000", "450000"],
}


flags.register_validator(
    "costs", lambda costs: set(costs) <= _CASES.keys(), f"allowed: {', '.join(_CASES)}"
)


def main(argv: list[str]) -> None:
    """Measures and prints the case of --one, or measures all cases and writes the table."""
    del argv
    if _ONE.value:
        cost, _, case = _ONE.value.partition("/")
        print(json.dumps(_MEASURES[cost](case)))
        return
    found: dict[str, dict[str, list[float]]] = {}
    for round_number in range(_ROUNDS.value):
        for case in _all_cases():
            for name, value in _in_a_process(case).items():
                found.setdefault(case, {}).setdefault(name, []).append(value)
                print(f"round {round_number + 1}  {case} {name} {value:,.4g}", file=sys.stderr)
    table = "\n".join(_table(found))
    out = Path(_OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    (out / "costs.md").write_text(table + "\n")
    (out / "costs.json").write_text(json.dumps(found, indent=1))
    print(table)


def replicas(case: str) -> dict[str, float]:
    """Measures images per second at batch 512 on logical CPU devices, which share the cores."""
    from benchmarks.sides import clock
    from benchmarks.sides.with_trainer import Training

    net, count = case.split("/")
    training = Training(net, 512, clock.images(), cpu_strategy=f"cpu:{count}")
    return {"images_per_second": training.rate(_SECONDS.value)}


def data_size(case: str) -> dict[str, float]:
    """Measures images per second of the dense net at batch 64 by data size, and peak memory."""
    from benchmarks.sides.with_trainer import Training
    from trainer import data
    from trainer.config import make_data

    images = data.load(make_data(f"noise:{case}", validation_fraction=0.01)).train.images
    assert isinstance(images, np.ndarray)
    training = Training("dense", 64, images)
    rate = training.rate(_SECONDS.value)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"images_per_second": rate, "gib_beyond_images": (peak - images.nbytes) / _GIB}


def start(case: str) -> dict[str, float]:
    """Measures the seconds from a command to its answer, or to its first logged step."""
    if case in ("help", "wrong_flag"):
        flag = "--help" if case == "help" else "--config.num_epoch=3"
        command = [sys.executable, "-m", "trainer", "--config=configs/dense.py", "--workdir=x"]
        began = time.perf_counter()
        subprocess.run([*command, flag], check=False, capture_output=True)
        return {"seconds": time.perf_counter() - began}
    with tempfile.TemporaryDirectory() as run:
        seconds = _seconds_to_next_row(Path(run))
        return {"seconds": _seconds_to_next_row(Path(run)) if case == "resume" else seconds}


def _seconds_to_next_row(run: Path) -> float:
    """Starts or resumes a training until its log grows, then stops it, with a checkpoint."""
    log = run / "metrics.jsonl"
    rows = len(log.read_text().splitlines()) if log.exists() else 0
    command = [sys.executable, "-m", "trainer", "--config=configs/conv.py", f"--workdir={run}"]
    command += [f"--config.data.name={_DATA.value}", "--config.log_every_steps=1"]
    began = time.perf_counter()
    training = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not log.exists() or len(log.read_text().splitlines()) <= rows:
        assert training.poll() is None, "the training ended before its first step"
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    training.terminate()
    training.wait()
    return seconds


def checkpoints(net: str) -> dict[str, float]:
    """Measures the seconds of training that a checkpoint costs, and the share at one per minute.

    Windows of training with and without a checkpoint alternate.
    """
    from benchmarks.sides import clock
    from benchmarks.sides.with_trainer import Training
    from trainer.run.background import BackgroundSaver
    from trainer.run.checkpoints import Checkpoints
    from trainer.training.resume import finite_state

    training = Training(net, 64, clock.images())
    training.warm_up()
    rates: dict[bool, list[float]] = {False: [], True: []}  # steps per second, without and with
    with tempfile.TemporaryDirectory() as folder:
        saver = BackgroundSaver(Checkpoints(Path(folder), run_id="benchmark"))
        for number in range(10):
            saves = number % 2 == 1
            steps, began = 0, time.perf_counter()
            if saves:
                state = finite_state(training.steps, number)
                saver.save(number, state, validation_loss=None, keep=1)
            while time.perf_counter() - began < _SECONDS.value:
                steps += len(training.call())
            rates[saves].append(steps / (time.perf_counter() - began))
            saver.wait()
        saver.close()
    slowdown = 1 - statistics.median(rates[True]) / statistics.median(rates[False])
    lost = slowdown * _SECONDS.value
    return {"seconds_lost": lost, "share_at_one_a_minute": lost / _CHECKPOINT_EVERY_SECONDS}


def decoding(case: str) -> dict[str, float]:
    """Measures the decoding of JPEGs of 256x256 to 64x64 by all cores, without a cache of them.

    "pillow" is a loop of threads that read JPEGs at a fraction of their size; "trainer" also writes
    the cache. The two alternate.
    """
    import tensorflow  # noqa: F401, which no measurement includes

    from trainer import data
    from trainer.config import make_data

    def read_with_trainer(files: list[Path]) -> object:
        with tempfile.TemporaryDirectory() as cache:
            name, size = f"images:{files[0].parent}", _SCALED_SIDE
            return data.load(make_data(name, image_size=size, cache_dir=cache))

    with tempfile.TemporaryDirectory() as folder:
        files = _write_jpegs(Path(folder), int(case))
        return _alternate({"trainer": read_with_trainer, "pillow": _read_with_pillow}, files)


def _read_with_pillow(files: list[Path]) -> np.ndarray:
    scaled = np.empty((len(files), _SCALED_SIDE, _SCALED_SIDE, 3), np.uint8)

    def read(number: int) -> None:
        with Image.open(files[number]) as image:
            image.draft("RGB", (2 * _SCALED_SIDE,) * 2)
            pixels = image.resize((_SCALED_SIDE,) * 2, Image.Resampling.BILINEAR)
            scaled[number] = np.asarray(pixels)

    with ThreadPool() as pool:
        pool.map(read, range(len(files)))
    return scaled


def _write_jpegs(folder: Path, count: int) -> list[Path]:
    """Writes random crops of scikit-learn's two photographs in several qualities, many twice."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    generator = np.random.default_rng(0)
    contents = []
    for number in range(min(count, _DIFFERENT_JPEGS)):
        photograph = photographs[number % len(photographs)]
        y, x = generator.integers(np.subtract(photograph.shape[:2], _JPEG_SIDE))
        crop = Image.fromarray(photograph[y : y + _JPEG_SIDE, x : x + _JPEG_SIDE])
        crop.save(content := io.BytesIO(), "JPEG", quality=int(generator.integers(70, 96)))
        contents.append(content.getvalue())
    files = [folder / f"{number:06d}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        file.write_bytes(contents[number % len(contents)])
    return files


def wide_tables(case: str) -> dict[str, float]:
    """Measures the reading of a CSV of 100 rows by its columns; pyarrow and the trainer alternate.

    pyarrow finds the types of the columns in one block, since its own blocks of 1 MB hold no row.
    """
    import pyarrow.csv

    from trainer.data.files import training_tables

    count = int(case)
    numbers = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "wide.csv")
        with file.open("w") as lines:
            lines.write(",".join(f"gene_{number}" for number in range(count)) + "\n")
            for _ in range(_WIDE_ROWS):
                row = numbers.normal(size=count)
                lines.write(",".join(f"{number:.4f}" for number in row) + "\n")
        one_block = pyarrow.csv.ReadOptions(block_size=file.stat().st_size + 1)
        readers = {
            "trainer": lambda files: training_tables.read(files),
            "pyarrow": lambda files: pyarrow.csv.read_csv(files[0], one_block),
        }
        return _alternate(readers, [file])


def _alternate(
    readers: dict[str, Callable[[list[Path]], object]], files: list[Path]
) -> dict[str, float]:
    """Returns the medians of the seconds and CPU seconds of readers that take turns."""
    found: dict[str, list[float]] = {}
    for _ in range(_TURNS):
        for name, read in readers.items():
            began, cpu_began = time.perf_counter(), time.process_time()
            read(files)
            found.setdefault(f"{name}_cpu_seconds", []).append(time.process_time() - cpu_began)
            found.setdefault(f"{name}_seconds", []).append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in found.items()}


_MEASURES = {
    "replicas": replicas,
    "data": data_size,
    "start": start,
    "checkpoints": checkpoints,
    "decoding": decoding,
    "wide_tables": wide_tables,
}


def _all_cases() -> Iterator[str]:
    for cost in _COSTS.value or _CASES:
        yield from (f"{cost}/{case}" for case in _CASES[cost])


def _in_a_process(case: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.costs", f"--one={case}"]
    command += [f"--seconds={_SECONDS.value}", f"--data={_DATA.value}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout.splitlines()[-1])


def _table(found: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    """Yields the lines of a Markdown table: the median and the range of each value."""
    yield "| case | value | median | lowest | highest |\n|---|---|---|---|---|"
    for case, measured in found.items():
        for name, values in measured.items():
            cells = (statistics.median(values), min(values), max(values))
            shown = " | ".join(
                f"{value:,.0f}" if value >= 100 else f"{value:.4f}" for value in cells
            )
            yield f"| {case} | {name} | {shown} |"


if __name__ == "__main__":
    app.run(main)
