"""Small files of each format: right ones, and ones that are larger than they look or say."""

import gzip
import hashlib
import io
import struct
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from trainer.data.files import idx

VECTORS = np.arange(24, dtype=np.float32).reshape(6, 4)
LABELS = np.arange(6) % 2
OBJECTS = np.array([{}] * 6, object)
IDX_NAME, IDX = "tiny-idx3-ubyte", struct.pack(">4i", 0x803, 2, 4, 4) + bytes(range(32))
ORIGINAL = idx.Original(len(IDX), hashlib.sha256(IDX).hexdigest())


def written(write, *arguments, **named):
    """What a function writes into a file."""
    file = io.BytesIO()
    write(file, *arguments, **named)
    return file.getvalue()


def picture(form):
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    return written(Image.fromarray(pixels).save, form)


def parquet(columns, **others):
    def write(file):
        pyarrow.parquet.write_table(pa.table(columns | others), file, store_schema=False)

    return written(write)


FOUR_COLUMNS = {f"x{column}": np.arange(6) / (column + 1) for column in range(4)}
RIGHT = {
    "rows.npy": written(np.save, VECTORS),
    "columns.npy": written(np.save, np.asfortranarray(VECTORS)),
    "plain.npz": written(np.savez, train=VECTORS, train_labels=LABELS),
    "zipped.npz": written(np.savez_compressed, train=VECTORS, train_labels=LABELS),
    "table.csv": b"x0,x1,x2,x3,label\n" + b"1,2.5,-3e-2,,a\n4,5,6,7,b\n" * 3,
    "table.parquet": parquet(FOUR_COLUMNS, label=list("abcabc")),
    "picture.png": picture("PNG"),
    "picture.jpg": picture("JPEG"),
    "picture.gif": picture("GIF"),
    "picture.bmp": picture("BMP"),
    IDX_NAME: IDX,
    f"{IDX_NAME}.gz": gzip.compress(IDX),
}


def claimed(shape, by_columns=False):
    """An .npy file of this shape by its header, and of 64 bytes."""
    header = {"descr": "<f4", "fortran_order": by_columns, "shape": shape}
    return written(np.lib.format.write_array_header_1_0, header) + bytes(64)


def archive(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(f"{name}.npy", content)
    return file.getvalue()


def bomb(said_bytes=None):
    """An .npz file of 25 KB that unpacks to 24 MiB, whatever its directory says."""
    content = archive(train=claimed((6 * 2**18, 4)) + bytes(24 * 2**20))
    at = content.rindex(b"PK\x01\x02") + 24
    size = content[at : at + 4] if said_bytes is None else struct.pack("<I", said_bytes)
    return content[:at] + size + content[at + 4 :]


def version_to_come():
    content = bytearray(RIGHT["zipped.npz"])
    content[content.index(b"PK\x01\x02") + 6] = 255  # the version that reading it needs
    return bytes(content)


def huge_png():
    """A PNG of 100,000 x 100,000 pixels in some bytes."""
    size = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = {b"IHDR": size, b"IDAT": zlib.compress(bytes(1000)), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))
        for kind, held in chunks.items()
    )


def long_words(rows):
    """A table of a few KB, each of whose labels is the same text of a million bytes."""
    words = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["x" * 10**6])
    return parquet({f"x{column}": np.zeros(rows) for column in range(4)}, label=words)


def long_lists(rows):
    """The same, of which a column holds a million numbers in each row."""
    lists = pa.array([[0.0] * 10**6] * rows)
    return parquet({f"x{column}": lists for column in range(4)}, label=["a"] * rows)


TOO_SHORT = "ends too early for its shape"
WRONG = {  # what makes it, and what the line says of it to a training and to `encode`; None: taken
    "rows.npy": (lambda: claimed((10**15, 4)), TOO_SHORT),
    "cut.npz": (lambda: RIGHT["plain.npz"][:-100], r"is not an \.npz or \.npy file"),
    "overflow.npy": (lambda: claimed((2**62, 2**62)), TOO_SHORT),
    "negative.npy": (lambda: claimed((-1, 4)), "there is no number"),
    "columns.npz": (lambda: archive(train=claimed((10**15, 4), by_columns=True)), TOO_SHORT),
    "bomb.npz": (bomb, ("GiB of memory", None)),  # which a stream takes row by row
    "modest.npz": (lambda: bomb(said_bytes=1000), "^'train' in .*Bad CRC-32"),
    "words.npz": (
        lambda: written(np.savez_compressed, train=VECTORS, labels=["x" * 10**6] * 6),
        ("GiB of memory", "texts of at most 4,096 characters"),
    ),
    "objects.npy": (lambda: written(np.save, OBJECTS[:, None]), "holds Python objects"),
    "objects.npz": (
        lambda: written(np.savez, train=VECTORS, train_labels=OBJECTS),
        "'train_labels' in .* holds Python objects",
    ),
    "new.npz": (version_to_come, "zip file version 25.5"),
    "escape.npz": (
        lambda: archive(**dict.fromkeys(["../train", "/tmp/train", "train"], RIGHT["rows.npy"])),
        (r"holds '\.\./train', '/tmp/train', 'train'", None),
    ),
    "book.csv": (
        lambda: b"x0,x1,x2,x3,label\n1,2,3,4,a\n5,6,7,8," + b"x" * 10**6 + b"\n",
        "1,000,000 bytes; at most",
    ),
    "words.parquet": (lambda: long_words(10_000), "1,000,000 bytes; at most"),
    "lists.parquet": (lambda: long_lists(4), "is of type list"),
    "huge.png": (huge_png, "10,000 megapixels"),
    "text.png": (lambda: b"no image at all", "cannot identify image file"),
    f"{IDX_NAME}.gz": (lambda: gzip.compress(bytes(2**24)) * 64, "holds more bytes"),
}
