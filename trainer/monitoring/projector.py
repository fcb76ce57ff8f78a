"""TensorBoard's Embedding Projector: codes as a cloud, each with its image, label and error."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from matplotlib import colormaps
from tensorboard.plugins.projector import ProjectorConfig

from trainer.monitoring import figures

CONFIG = "projector_config.pbtxt"  # TensorBoard looks for this name
CODES = "codes.tsv"
METADATA = "metadata.tsv"
SPRITE = "sprite.png"
_FEWEST_NUMBERS = 3  # in a code: of fewer the projector's PCA shows nothing
_MOST_POINTS = 10_000
_MOST_NUMBERS = 2_000_000  # in all codes together, which a browser reads as text
_THUMBNAIL_SIDE = 32  # pixels at most: 100 x 100 of them stay below the 8,192 a browser takes
_PALETTE = "tab10"  # the projector's own, so that its "Color by" keeps the colours
_PALETTE_STRIDE = 3  # from a label's colour to the next one's, likewise
_PALETTE_SIZE = 10


def write(
    folder: Path,
    codes: np.ndarray,
    images: np.ndarray,
    errors: np.ndarray,
    labels: np.ndarray | None,
) -> None:
    """Writes the projector's files of codes [N, K] into a folder of their own, which it makes.

    `images` [N, H, W, C] become a sprite, coloured by the labels; vectors have none. `errors` and
    `labels` [N] are columns by which the points can be coloured, beside the image's number. Of more
    than 10,000 codes, or of more than two million numbers, as many are taken, evenly spread. Codes
    of one number or two lie in a plane.
    """
    missing = max(0, _FEWEST_NUMBERS - codes.shape[1])
    codes = np.pad(codes, ((0, 0), (0, missing)))
    count, code_size = codes.shape
    shown = min(count, _MOST_POINTS, max(2, _MOST_NUMBERS // code_size))
    chosen = np.linspace(0, count - 1, shown).astype(int)
    columns = {"label": labels} if labels is not None else {}
    columns |= {"mse": errors, "number": np.arange(count)}

    folder.mkdir()
    config = ProjectorConfig()
    embedding = config.embeddings.add(
        tensor_name="codes",
        tensor_shape=(shown, code_size),
        tensor_path=CODES,
        metadata_path=METADATA,
    )
    np.savetxt(folder / CODES, codes[chosen], fmt="%.6g", delimiter="\t")
    _write_table(folder / METADATA, {name: column[chosen] for name, column in columns.items()})
    if images.ndim == 4:
        sheet, height, width = sprite(images[chosen], None if labels is None else labels[chosen])
        (folder / SPRITE).write_bytes(figures.png(sheet))
        embedding.sprite.image_path = SPRITE
        embedding.sprite.single_image_dim.extend([width, height])
    (folder / CONFIG).write_text(text_format.MessageToString(config))


def sprite(images: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, int, int]:
    """Thumbnails of images [N, H, W, C] in [0, 1] on a square sheet, and their height and width.

    The sheet is uint8 RGB, its thumbnails at most 32 pixels high or wide. The projector opens
    without colours, so that the thumbnails bring theirs: grey images are drawn in the colour of
    their label on white, others are framed with it.
    """
    thumbnails = images[..., :3] if images.shape[-1] >= 3 else images[..., :1]
    height, width = images.shape[1:3]
    if max(height, width) > _THUMBNAIL_SIDE:
        height, width = (
            max(1, side * _THUMBNAIL_SIDE // max(images.shape[1:3])) for side in (height, width)
        )
        thumbnails = tf.image.resize(thumbnails, (height, width), method="area").numpy()
    if labels is not None:
        thumbnails = _coloured(np.clip(thumbnails, 0, 1), _colours(labels))
    side = math.ceil(math.sqrt(len(images)))
    sheet = np.zeros((side**2, *thumbnails.shape[1:]), np.float32)
    sheet[: len(images)] = thumbnails
    return figures.grid(sheet, columns=side, gap=0), height, width


def _coloured(thumbnails: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Thumbnails [N, h, w, C] and a colour [N, 3] for each to RGB ones."""
    own = colours[:, np.newaxis, np.newaxis]
    if thumbnails.shape[-1] == 1:
        return 1 - thumbnails * (1 - own)
    framed = thumbnails.copy()
    framed[:, [0, -1]] = framed[:, :, [0, -1]] = own
    return framed


def _colours(labels: np.ndarray) -> np.ndarray:
    """The colour of each label, float [N, 3]."""
    names, numbers = np.unique(labels, return_inverse=True)
    if len(names) <= _PALETTE_SIZE:
        palette = colormaps[_PALETTE](_PALETTE_STRIDE * np.arange(len(names)) % _PALETTE_SIZE)
    else:
        palette = colormaps["turbo"](np.linspace(0, 1, len(names)))
    return palette[numbers, :3]


def _write_table(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """One line of names, and one for each point."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    lines = [
        "\t".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row)
        for row in rows
    ]
    path.write_text("\n".join(["\t".join(columns), *lines]) + "\n")
