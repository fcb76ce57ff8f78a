"""Writes codes for TensorBoard's Embedding Projector, each with its image, label and error."""

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
_MIN_DIMENSIONS = 3  # of a code; with fewer, the projector's PCA shows nothing
_MAX_POINTS = 10_000
_MAX_VALUES = 2_000_000  # in all codes, which a browser reads as text
_MAX_SIDE = 32  # pixels of a thumbnail: 100 x 100 of them stay below a browser's limit of 8,192
# Palette and stride are the projector's own, so that its "Color by" keeps the colours.
_PALETTE = "tab10"
_PALETTE_STRIDE = 3  # between the colours of successive labels
_PALETTE_SIZE = 10


def write(
    folder: Path,
    codes: np.ndarray,
    images: np.ndarray,
    columns: Mapping[str, np.ndarray],
) -> None:
    """Writes the projector's files of codes [N, K] into a new folder.

    Images [N, H, W, C] become a sprite, coloured by the column "label" if there is one; vectors
    [N, D] have no sprite. The points show the columns [N], text or numbers, and the index of the
    image. At most 10,000 evenly spaced codes are written, and at most two million values. Codes of
    one or two dimensions are padded with zeros to three.
    """
    missing = max(0, _MIN_DIMENSIONS - codes.shape[1])
    codes = np.pad(codes, ((0, 0), (0, missing)))
    count, code_size = codes.shape
    shown = min(count, _MAX_POINTS, max(2, _MAX_VALUES // code_size))
    chosen = np.linspace(0, count - 1, shown).astype(int)
    labels = columns.get("label")
    columns = {**columns, "number": np.arange(count)}

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
    """Returns a square sheet of thumbnails of images [N, H, W, C] in [0, 1], and their size.

    The sheet is uint8 RGB; the height and width of a thumbnail are at most 32. Labels colour the
    thumbnails, since the projector colours no point by default: grey images are drawn in the
    colour on white, other images are framed.
    """
    thumbnails = images[..., :3] if images.shape[-1] >= 3 else images[..., :1]
    height, width = images.shape[1:3]
    if max(height, width) > _MAX_SIDE:
        height, width = (
            max(1, side * _MAX_SIDE // max(images.shape[1:3])) for side in (height, width)
        )
        thumbnails = tf.image.resize(thumbnails, (height, width), method="area").numpy()
    if labels is not None:
        thumbnails = _colour(np.clip(thumbnails, 0, 1), _label_colours(labels))
    side = math.ceil(math.sqrt(len(images)))
    sheet = np.zeros((side**2, *thumbnails.shape[1:]), np.float32)
    sheet[: len(images)] = thumbnails
    return figures.grid(sheet, columns=side, gap=0), height, width


def _colour(thumbnails: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Returns thumbnails [N, h, w, C] as RGB, drawn or framed in the `colours` [N, 3]."""
    tints = colours[:, np.newaxis, np.newaxis]
    if thumbnails.shape[-1] == 1:
        return 1 - thumbnails * (1 - tints)
    framed = thumbnails.copy()
    framed[:, [0, -1]] = framed[:, :, [0, -1]] = tints
    return framed


def _label_colours(labels: np.ndarray) -> np.ndarray:
    """Returns an RGB colour for each label, float [N, 3]."""
    names, numbers = np.unique(labels, return_inverse=True)
    if len(names) <= _PALETTE_SIZE:
        palette = colormaps[_PALETTE](_PALETTE_STRIDE * np.arange(len(names)) % _PALETTE_SIZE)
    else:
        palette = colormaps["turbo"](np.linspace(0, 1, len(names)))
    return palette[numbers, :3]


def _write_table(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Writes a table: a line of column names, then a line per point."""
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    lines = [
        "\t".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row)
        for row in rows
    ]
    path.write_text("\n".join(["\t".join(columns), *lines]) + "\n")
