"""Readers of examples: any layout of numbers, in little memory, or one line on what is wrong."""

import io
import zipfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tests.serving.conftest import vectors
from tests.serving.files import save_images, write
from tests.verbs.refusals import refused
from tests.verbs.sources import FEATURES, SIDE, pixels
from trainer.serving import readers
from trainer.serving.options import StreamOptions

VECTORS = readers.Preprocessing((FEATURES,))


def read(path, training=VECTORS, size=4, **options):
    blocks = readers.examples(path, training, StreamOptions(**options)).blocks(size)
    rows, *others = zip(*(block[:3] for block in blocks), strict=True)
    return np.concatenate(rows), *(None if x[0] is None else np.concatenate(x) for x in others)


def test_a_grey_image_becomes_one_of_colours(tmp_path):
    (grey,) = pixels((SIDE, SIDE), 1)
    save_images(tmp_path, {"a.png": grey})
    rows, _, files = read(tmp_path / "a.png", readers.Preprocessing((SIDE, SIDE, 3)))
    np.testing.assert_array_equal(rows, [np.stack([grey] * 3, axis=-1)])
    assert files.tolist() == ["a.png"]


def test_an_image_is_resized_to_a_height_and_a_width_that_differ(tmp_path):
    halves = np.full((20, 40), 200, np.uint8)
    halves[:, :20] = 0
    save_images(tmp_path, {"a.png": halves})
    rows, *_ = read(tmp_path / "a.png", readers.Preprocessing((4, 8, 1)), resize=True)
    np.testing.assert_array_equal(rows[0, :, [0, 1, 2, 5, 6, 7], 0].T, [[0] * 3 + [200] * 3] * 4)


def test_arrays_are_read_in_any_layout_and_by_their_names(tmp_path):
    rows, labels = vectors(9), np.arange(9)
    for layout in (np.asfortranarray(rows), rows.astype(">f8")):
        arrays = {"x": layout, "x_labels": labels.astype(">i8"), "y": rows[::-1]}
        np.save(tmp_path / "x.npy", layout)
        np.savez(tmp_path / "plain.npz", **arrays)
        np.savez_compressed(tmp_path / "compressed.npz", **arrays)
        for name, array in (("x.npy", ""), ("plain.npz", "x"), ("compressed.npz", "x")):
            found, its_labels, _ = read(tmp_path / name, array=array)
            np.testing.assert_array_equal(found, rows.astype(np.float32))
            assert found.dtype == np.float32
            if array:
                np.testing.assert_array_equal(its_labels, labels)
                assert its_labels.dtype == np.int64


def test_arrays_that_a_training_takes_are_read_by_the_same_names_with_their_labels(tmp_path):
    rows, labels = vectors(9), np.arange(9) % 3
    same: dict[str, Any] = {
        "y": labels,
        "target": labels[:, np.newaxis],
        "y_train": np.eye(3)[labels],
        "labels": labels.astype("S"),
    }
    for name, given in same.items():
        arrays: dict[str, Any] = {"X": rows, name: given}
        np.savez(tmp_path / "clean.npz", **arrays)
        found, its_labels, _ = read(tmp_path / "clean.npz")
        np.testing.assert_array_equal(found, rows.astype(np.float32))
        np.testing.assert_array_equal(its_labels.astype(int), labels)
    splits: dict[str, Any] = {
        "x_train": rows,
        "y_train": labels,
        "x_test": rows[:4],
        "y_test": labels[4:8],
    }
    for names in (("x_test", "labels"), ("test", "y")):
        np.savez(tmp_path / "test.npz", **dict(zip(names, (rows, labels), strict=True)))
        np.testing.assert_array_equal(read(tmp_path / "test.npz")[1], labels)
    np.savez(tmp_path / "splits.npz", **splits)
    found, its_labels, _ = read(tmp_path / "splits.npz", array="x_test")
    np.testing.assert_array_equal(found, rows[:4].astype(np.float32))
    np.testing.assert_array_equal(its_labels, labels[4:8])
    with refused("holds 'x_train', 'y_train', 'x_test', 'y_test'; --array", tmp_path):
        read(tmp_path / "splits.npz")
    np.savez(tmp_path / "wrong.npz", X=rows, y=rows)
    with refused("is not one-hot", tmp_path):
        read(tmp_path / "wrong.npz")
    np.savez(tmp_path / "bytes.npz", X=rows, y=np.array(["ä".encode()] * 9))
    with refused("not ASCII", tmp_path):
        read(tmp_path / "bytes.npz")


def test_an_array_that_ends_too_early_is_refused(tmp_path):
    whole = io.BytesIO()
    np.save(whole, vectors(9))
    (tmp_path / "x.npy").write_bytes(whole.getvalue()[:-8])
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", whole.getvalue()[:-8])
    for name in ("x.npy", "x.npz"):
        with refused("it ends too early", tmp_path):
            read(tmp_path / name)


def test_labels_of_a_csv_file_keep_the_type_of_its_first_block(tmp_path):
    count = 2**17  # rows, of more than one block
    labels = [*map(str, range(count - 1)), "b"]
    write(tmp_path / "rows.csv", vectors(count).round(3), labels=labels)
    with refused("the column 'label' of", tmp_path):
        read(tmp_path / "rows.csv", label_column="label", size=2**12)


def test_a_table_is_read_in_less_memory_than_its_numbers_take(tmp_path):
    rows = vectors(200_000)
    table = pa.table({f"x{k}": column for k, column in enumerate(rows.T)})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet", 20_000)
    before = pa.total_allocated_bytes()
    blocks = readers.examples(tmp_path / "rows.parquet", VECTORS).blocks(512)
    assert max(pa.total_allocated_bytes() - before for _ in blocks) < rows.nbytes / 2
