"""Makes data sets as people have them, of what ships inside installed packages; no download."""

from pathlib import Path

import numpy as np

_STYLES = 32  # fonts, sizes and places of each character
_CHARACTERS = [chr(code) for code in range(33, 127)]


def tables() -> dict[str, np.ndarray]:
    """Returns the feature columns [N, D] of scikit-learn's tables, and of two made ones.

    "curves" are points of a curved surface of two dimensions in 20, with noise; "gaussian" are of a
    linear model of five factors, on which no autoencoder should be better than PCA.
    """
    from sklearn import datasets

    random = np.random.default_rng(0)
    surface = np.sin(2 * random.uniform(-1, 1, (3000, 2)) @ random.normal(size=(2, 20)))
    factors = random.normal(size=(2000, 5)) @ random.normal(size=(5, 25))
    loaded = {
        "breast_cancer": datasets.load_breast_cancer().data,
        "digits": datasets.load_digits().data,
        "wine": datasets.load_wine().data,
        "iris": datasets.load_iris().data,
        "diabetes": datasets.load_diabetes().data,
        "curves": surface + 0.1 * random.normal(size=surface.shape),
        "gaussian": factors + 0.5 * random.normal(size=factors.shape),
    }
    return {name: rows.astype(np.float32) for name, rows in loaded.items()}


def letters(side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Draws 94 characters in 32 styles each, in random colours on random backgrounds.

    Returns images, uint8 [3008, side, side, 3], and the characters' numbers, int64 [3008].
    """
    from PIL import Image, ImageDraw, ImageFont

    random = np.random.default_rng(0)
    fonts = _fonts()
    images, labels = [], []
    for style in range(_STYLES):
        for label, character in enumerate(_CHARACTERS):
            size = int(side * random.uniform(0.5, 0.8))
            font = ImageFont.truetype(fonts[style % len(fonts)], size)
            background, colour = random.integers(0, 256, (2, 3)).tolist()
            image = Image.new("RGB", (side, side), tuple(background))
            place = side / 2 + random.uniform(-0.08, 0.08, 2) * side
            draw = ImageDraw.Draw(image)
            draw.text(tuple(place), character, tuple(colour), font, anchor="mm")
            images.append(np.asarray(image))
            labels.append(label)
    return np.stack(images), np.array(labels)


def patches(side: int = 16, count: int = 5000) -> np.ndarray:
    """Cuts squares from scikit-learn's two photographs, uint8 [count, side, side, 3]."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    photographs = load_sample_images().images
    cut = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        top, left = (random.integers(0, length - side) for length in photograph.shape[:2])
        cut.append(photograph[top : top + side, left : left + side])
    return np.stack(cut)


def _fonts() -> list[Path]:
    """Returns fonts with letters, of those that ship inside matplotlib."""
    import matplotlib

    without = ("LastResort", "Display", "STIXSiz", "NonUni", "cmex", "cmsy")
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    paths = sorted(folder.glob("*.ttf"))
    return [path for path in paths if not any(name in path.name for name in without)]
