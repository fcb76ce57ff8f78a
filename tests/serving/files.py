"""Writes and reads the files that the verbs exchange, by their suffixes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from PIL import Image

SEPARATORS = {".csv": ",", ".tsv": "\t"}


def write(path, content, labels=None):
    """Writes bytes, an array, arrays by name, or a table, whose vectors have the columns x0, x1."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".npz":
        arrays = content if isinstance(content, dict) else {"rows": content}
        np.savez(path, **arrays, **({} if labels is None else {"labels": labels}))
    else:
        if isinstance(content, np.ndarray):
            content = {f"x{k}": column for k, column in enumerate(content.T)}
        if isinstance(content, dict):
            content = pa.table(content | ({} if labels is None else {"label": labels}))
        write_arrow(path, content)


def write_arrow(path, table):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        options = pyarrow.csv.WriteOptions(delimiter=SEPARATORS[path.suffix])
        pyarrow.csv.write_csv(table, path, options)


def read_table(path):
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path)
    options = pyarrow.csv.ParseOptions(delimiter=SEPARATORS[path.suffix])
    return pyarrow.csv.read_csv(path, parse_options=options)


def array_of(path, prefix):
    """Reads the rows [N, K] of an output, of whose columns in a table the names begin so."""
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays[f"{prefix}s"]
    table = read_table(path)
    names = [name for name in table.column_names if name.startswith(prefix)]
    return np.stack([table[name].to_numpy() for name in names], axis=1)


def save_images(folder, images):
    """Writes files below a folder: of pixels [H, W] or [H, W, C], or of bytes as they are."""
    for name, image in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            Image.fromarray(image).save(path, "PNG" if path.suffix.lower() == ".png" else None)


def names_in(folder):
    """The names of all that is in a folder, hidden or not."""
    return sorted(path.name for path in Path(folder).iterdir())
