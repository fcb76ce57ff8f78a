"""Encoding, decoding and denoising: every row in its order, equal to the model's own outputs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serving.conftest import vectors
from tests.serving.files import array_of, names_in, read_table, save_images, write
from tests.verbs.refusals import contents, refused
from tests.verbs.sources import FEATURES, SIDE, Source, config_of, pixels
from trainer.data.dataset import to_unit
from trainer.distribution.inference import map_batches
from trainer.errors import UserError
from trainer.run import restore
from trainer.serving import batched_model
from trainer.serving.options import StreamOptions
from trainer.serving.stream import decode, denoise, encode
from trainer.training.train import train

CODE = 3  # numbers in a code of the dense runs
FILES = ("a.PNG", "b.png", "sub/c.png", "sub/deep/d.png")


@pytest.fixture
def images(tmp_path):
    """Grey images [4, 8, 8, 1], which are also in a folder `in`, by FILES."""
    rows = pixels((SIDE, SIDE), 4)
    save_images(tmp_path / "in", dict(zip(FILES, rows, strict=True)))
    (tmp_path / "in" / "notes.txt").write_text("no image")
    save_images(tmp_path / "in" / ".hidden", {"e.png": rows[0]})
    return rows[..., np.newaxis]


def codes_of(run, rows):
    """Computes codes as the evaluation does."""
    return map_batches(restore.load_model(run, "last").model.encode, rows.astype(np.float32))


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_images_of_a_folder_get_codes_with_their_names(image_run, images, tmp_path):
    codes = tmp_path / "codes.npz"
    options = StreamOptions(batch_size=3)
    assert encode(image_run, str(tmp_path / "in"), str(codes), options) == 4
    with np.load(codes) as written:
        assert written["files"].tolist() == list(FILES)
        assert written["codes"].dtype == np.float32
        assert_close(written["codes"], codes_of(image_run, images / 255))
    assert names_in(tmp_path) == ["codes.npz", "in"]


def test_a_broken_image_costs_no_other_its_code_and_is_named(image_run, images, tmp_path):
    codes = tmp_path / "codes.npz"
    (tmp_path / "in" / "broken.png").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"holds 4 examples; unreadable files left out \(1\): .*broken\.png"
    ):
        encode(image_run, str(tmp_path / "in"), str(codes), StreamOptions(batch_size=3))
    with np.load(codes) as written:
        assert written["files"].tolist() == list(FILES)
        assert_close(written["codes"], codes_of(image_run, images / 255))


def test_images_are_made_grey_and_on_request_resized(image_run, tmp_path):
    grey = np.full((30, 20), 100, np.uint8)
    channels = {
        "rgb.png": np.stack([grey] * 3, axis=-1),
        "rgba.png": np.dstack([grey] * 3 + [np.full_like(grey, 255)]),
    }
    save_images(tmp_path / "in", {"grey.jpg": grey, **channels})
    codes = tmp_path / "codes.npy"
    encode(image_run, str(tmp_path / "in"), str(codes), StreamOptions(resize=True))
    assert_close(np.load(codes), codes_of(image_run, np.full((3, SIDE, SIDE, 1), 100 / 255)))


def test_images_are_resized_as_the_training_resized_its_own(tmp_path):
    own = {f"{number:02}.png": image for number, image in enumerate(pixels((9, 20)))}
    save_images(tmp_path / "own", own)
    settings = {"name": f"images:{tmp_path / 'own'}", "image_size": SIDE, "fit": "crop"}
    run = str(tmp_path / "run")
    train(config_of("dense", Source(settings, (SIDE, SIDE, 1), False, "")), run)
    encode(run, str(tmp_path / "own"), str(tmp_path / "codes.npz"), StreamOptions(resize=True))
    encode(run, "validation", str(tmp_path / "split.npz"))
    with np.load(tmp_path / "codes.npz") as every, np.load(tmp_path / "split.npz") as split:
        codes = dict(zip(every["files"], every["codes"], strict=True))
        assert_close(split["codes"], [codes[name] for name in split["files"]])


def test_a_row_gets_the_same_bits_whatever_other_rows_there_are(image_run, tmp_path):
    rows = pixels((SIDE, SIDE), 23)
    for name, some in (("all", rows), ("some", rows[3:12])):
        np.save(tmp_path / f"{name}.npy", some)
        source, output = str(tmp_path / f"{name}.npy"), str(tmp_path / f"{name}_codes.npy")
        encode(image_run, source, output, StreamOptions(batch_size=7))
    codes = np.load(tmp_path / "all_codes.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "some_codes.npy"), codes[3:12])
    assert_close(codes, codes_of(image_run, rows[..., np.newaxis] / 255))


def test_whole_batches_get_the_bits_of_an_evaluation(image_run, tmp_path):
    rows = pixels((SIDE, SIDE, 1), 512)
    np.save(tmp_path / "images.npy", rows)
    encode(image_run, str(tmp_path / "images.npy"), str(tmp_path / "codes.npy"))
    codes = np.load(tmp_path / "codes.npy")
    np.testing.assert_array_equal(codes, codes_of(image_run, to_unit(rows)))


def test_a_batch_is_no_larger_than_the_input(image_run, tmp_path):
    np.save(tmp_path / "images.npy", pixels((SIDE, SIDE), 9))
    source, codes, back = (str(tmp_path / f"{name}.npy") for name in ("images", "codes", "back"))
    options = StreamOptions(batch_size=10**9, overwrite=True)  # no memory holds such a batch
    assert encode(image_run, source, codes, options) == 9
    assert decode(image_run, codes, back, options) == 9
    assert denoise(image_run, source, back, options) == 9


def test_splits_of_the_runs_own_data_keep_their_labels(vector_run, tmp_path):
    for split in ("train", "validation", "test"):
        encode(vector_run, split, f"{tmp_path}/{split}.npz")
        rows, labels = getattr(restore.load(vector_run).dataset, split).read()
        with np.load(f"{tmp_path}/{split}.npz") as written:
            np.testing.assert_array_equal(written["labels"], labels)
            assert_close(written["codes"], codes_of(vector_run, rows))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".npz", ".npy"])
def test_vectors_become_codes_and_vectors_of_their_units_in_any_file(vector_run, tmp_path, suffix):
    rows, labels = vectors(9, seed=1), np.arange(9) % 2
    source, codes, back = (tmp_path / f"{name}{suffix}" for name in ("rows", "codes", "back"))
    is_table = suffix in (".csv", ".tsv", ".parquet")
    write(source, rows, labels=labels)
    options = StreamOptions(label_column="label" if is_table else "", batch_size=4)
    encode(vector_run, str(source), str(codes), options)
    decode(vector_run, str(codes), str(back))
    run = restore.load_model(vector_run, "last")
    assert run.scaling is not None
    expected = codes_of(vector_run, run.scaling.apply(rows))
    assert_close(array_of(codes, "code"), expected)
    expected = run.scaling.undo(map_batches(run.model.decode, expected))
    np.testing.assert_allclose(array_of(back, "vector"), expected, rtol=1e-4)
    if is_table:
        assert read_table(codes).column_names == [*(f"code_{k}" for k in range(CODE)), "label"]
    for path in (codes, back):
        if is_table:
            assert read_table(path)["label"].to_pylist() == labels.tolist()
        elif suffix == ".npz":
            np.testing.assert_array_equal(np.load(path)["labels"], labels)


def test_a_table_is_read_as_in_the_training_in_any_order_of_its_columns(table_run, tmp_path):
    table = read_table(Path(table_run).parent / "test.csv")
    write(tmp_path / "all.csv", table.select(table.column_names[::-1]))
    write(tmp_path / "features.csv", table.drop_columns(["kind", "id"]))
    for source in ("test", f"{tmp_path}/all.csv", f"{tmp_path}/features.csv"):
        encode(table_run, source, f"{tmp_path}/{Path(source).stem}.npz")
    expected, every, unlabelled = (
        dict(np.load(tmp_path / f"{name}.npz")) for name in ("test", "all", "features")
    )
    assert_close(every["codes"], expected["codes"])
    assert_close(unlabelled["codes"], expected["codes"])
    assert every["labels"].tolist() == table["kind"].to_pylist()
    assert "labels" not in unlabelled


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".tsv"])
def test_codes_become_images_again_by_their_names(image_run, images, tmp_path, suffix):
    codes = str(tmp_path / f"codes{suffix}")
    encode(image_run, str(tmp_path / "in"), codes, StreamOptions(errors=suffix != ".npy"))
    decode(image_run, codes, f"{tmp_path}/out/")
    names = [Path(name).with_suffix(".png").as_posix() for name in FILES]
    if suffix == ".npy":  # which holds no names
        names = [f"{number:08d}.png" for number in range(4)]
    out = tmp_path / "out"
    assert [str(path.relative_to(out)) for path in sorted(out.rglob("*.png"))] == names
    model = restore.load_model(image_run, "last").model
    reconstructions = map_batches(model, to_unit(images))
    for name, image in zip(names, reconstructions, strict=True):
        decoded = np.asarray(Image.open(out / name))
        assert decoded.shape == (SIDE, SIDE)
        np.testing.assert_allclose(decoded / 255, image[..., 0], atol=0.51 / 255)


def test_a_tables_codes_are_found_by_the_names_of_their_columns(vector_run, tmp_path):
    np.save(tmp_path / "rows.npy", vectors(9))
    encode(vector_run, str(tmp_path / "rows.npy"), str(tmp_path / "codes.parquet"))
    table = read_table(tmp_path / "codes.parquet")
    write(tmp_path / "reversed.csv", table.select(table.column_names[::-1]))
    for name in ("codes.parquet", "reversed.csv"):
        decode(vector_run, str(tmp_path / name), str(tmp_path / f"{name}.npy"))
    assert_close(np.load(tmp_path / "reversed.csv.npy"), np.load(tmp_path / "codes.parquet.npy"))


@pytest.mark.parametrize("output", ["out.npz", "out/"])
def test_an_interrupted_verb_leaves_the_output_before_it(image_run, tmp_path, monkeypatch, output):
    codes = tmp_path / "codes.npy"
    np.save(codes, np.zeros((6, CODE)))
    decode(image_run, str(codes), f"{tmp_path}/{output}")
    before, calls = contents(tmp_path), []
    original = batched_model.in_batches

    def in_batches(*arguments):
        function = original(*arguments)

        def interrupted(rows):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return function(rows)

        return interrupted

    monkeypatch.setattr(batched_model, "in_batches", in_batches)
    options = StreamOptions(batch_size=2, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        decode(image_run, str(codes), f"{tmp_path}/{output}", options)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("images")
def test_a_folder_of_images_is_replaced_whole(image_run, tmp_path):
    save_images(tmp_path / "clean", {"before.png": pixels((SIDE, SIDE))[0]})
    denoise(image_run, f"{tmp_path}/in", f"{tmp_path}/clean", StreamOptions(overwrite=True))
    assert names_in(tmp_path / "clean") == ["a.png", "b.png", "sub"]
    assert names_in(tmp_path) == ["clean", "in"]


# Bad inputs: by the name of the input its content, and what the line must name.


def columns(rows, **others):
    return {f"x{k}": column for k, column in enumerate(rows.T)} | others


def with_value(value):
    rows = vectors(9)
    rows[7, 2] = value
    return rows


GOOD = vectors(9)
IMAGES = {f"{name}.png": pixels((SIDE, SIDE))[0] for name in "ab"}
SHAPE = "but the model takes vectors of 5"
BAD_IMAGES = {
    "damaged": ({"c.png": b"\x89PNG"}, "c.png (cannot identify image file"),
    "size": (IMAGES | {"c.png": pixels((SIDE + 1, SIDE))[0]}, "c.png is 9x8 pixels"),
    "empty": ({"notes.txt": b"x"}, "holds no image that ends in .png, .jpg"),
}
BAD_ARRAYS = {
    "float.npy": (np.full((2, SIDE, SIDE), 1.5), "holds 1.5 in row 0"),
    "int.npy": (np.full((2, SIDE, SIDE), 300), "holds 300 in row 0"),
    "channels.npy": (np.zeros((2, SIDE, SIDE, 3)), "(2, 8, 8, 3), but the model takes images of 8"),
}
BAD_VECTORS = {
    "two.npz": ({"train": GOOD, "test": GOOD}, "holds 'train', 'test'; --array"),
    "none.npz": ({"labels": np.arange(3)}, "--array"),
    "width.npz": ({"x": GOOD[:, :4]}, f"(9, 4), {SHAPE}"),
    "rows.npy": (GOOD[:0], "there is no number"),
    "complex.npy": (GOOD.astype(complex), "complex128; vectors are real"),
    "object.npz": ({"x": GOOD.astype(object)}, "it holds Python objects"),
    "large.npy": (np.full((3, FEATURES), 1e300), "holds 1e+300 in row 0, column 0"),
    "nan.npy": (with_value(np.nan), "holds nan in row 7, column 2"),
    "labels.npz": (
        {"x": GOOD, "x_labels": np.arange(4)},
        "shape (4,); labels and file names must be 9 numbers",
    ),
    "label.npz": ({"x": GOOD, "labels": np.full(9, 1j)}, "labels and file names must"),
    "magic.npy": (b"\x93NUM", "magic.npy is not an .npz or .npy"),
    "magic.npz": (b"PK", "magic.npz is not an .npz or .npy"),
}
BAD_TABLES = {
    "nan.csv": (columns(with_value(np.nan)), "'x2' has missing values: 1 (nan: 1; first in row 8)"),
    "nan.parquet": (columns(with_value(np.nan)), "'x2' has missing values: 1"),
    "infinite.csv": (columns(with_value(np.inf)), "'x2' holds inf in row 8"),
    "width.csv": (columns(GOOD[:, :4]), f"has 4 columns of numbers, {SHAPE}"),
    "label.parquet": (columns(GOOD, kind=["a"] * 9), f"has 6 columns of numbers, {SHAPE}; --label"),
    "rows.csv": (columns(GOOD[:0]), "has no row"),
    "rows.parquet": (columns(GOOD[:0]), "has no row"),
    "empty.csv": (b"", "has no row"),
    "short.csv": (b"a,b,c,d,e\n1,2,3\n", "Expected 5 columns, got 3"),
    "text.csv": (b"a,b,c,d,e\n1,2,3,4,5\n1,2,x,4,5\n", "'c' holds 'x' in row 2"),
    "header.csv": (b"1,2,3,4,5\n1,2,3,4,5\n", "names or numbers?"),
    "names.csv": (b"a,b,c,d,a\n1,2,3,4,5\n", "the same name: 'a'"),
    "magic.parquet": (b"PAR1", "magic.parquet cannot be read"),
}
BAD_COLUMNS = {
    "unknown.csv": (columns(GOOD, height=GOOD[:, 0]), "did not have: 'height'"),
    "missing.csv": (columns(GOOD[:, :4]), "has no column 'x4'"),
    "text.csv": (columns(GOOD, x2=["many"] * len(GOOD)), "correct the file"),
}
BAD_CODES = {
    "width.npz": ({"codes": np.zeros((3, 4))}, "(3, 4), but the model takes codes of 3"),
    "width.csv": ({"code_0": [1.0], "label": [1]}, "has 1 columns of codes, but the model takes"),
    "nan.npy": (np.full((3, CODE), np.nan), "holds nan in row 0, column 0"),
    "nan.csv": ({f"code_{k}": [np.nan] for k in range(CODE)}, "'code_0' has missing values: 1"),
    "rows.npy": (np.zeros((0, CODE)), "there is no number"),
    "absolute.npz": ({"codes": np.zeros((1, CODE)), "files": ["/tmp/a.png"]}, "'/tmp/a.png'"),
    "twice.npz": ({"codes": np.zeros((2, CODE)), "files": ["a.png", "a.jpg"]}, "'a.jpg'"),
}
BAD_LABELS = {  # by the column of the labels
    "none": ({}, "has no column 'none'; its columns are 'x0', 'x1'"),
    "holes": ({"holes": [1, 2, 3, None, 5, 6, 7, 8, 9]}, "holds nothing in row 4, column 'holes'"),
}


@pytest.mark.parametrize(
    ("fixture", "inputs"),
    [
        ("image_run", BAD_IMAGES),
        ("image_run", BAD_ARRAYS),
        ("vector_run", BAD_VECTORS),
        ("vector_run", BAD_TABLES),
        ("table_run", BAD_COLUMNS),
    ],
)
def test_a_bad_input_gets_one_line_and_leaves_nothing(fixture, inputs, request, tmp_path):
    run = request.getfixturevalue(fixture)
    for name, (content, message) in inputs.items():
        (save_images if inputs is BAD_IMAGES else write)(tmp_path / name, content)
        with refused(message, tmp_path):
            source, output = str(tmp_path / name), f"{tmp_path}/new/codes.npz"
            encode(run, source, output, StreamOptions(batch_size=2))


def test_a_bad_label_column_is_named(vector_run, table_run, tmp_path):
    source, output = str(tmp_path / "rows.csv"), str(tmp_path / "codes.npz")
    for label, (others, message) in BAD_LABELS.items():
        write(tmp_path / "rows.csv", columns(GOOD, **others))
        with refused(message, tmp_path):
            encode(vector_run, source, output, StreamOptions(label_column=label))
    write(tmp_path / "rows.csv", columns(GOOD))
    with refused("label_column='x1' is a feature of the run", tmp_path):
        encode(table_run, source, output, StreamOptions(label_column="x1"))


def test_bad_codes_get_one_line_and_leave_nothing(image_run, tmp_path):
    for name, (content, message) in BAD_CODES.items():
        write(tmp_path / name, content)
        with refused(message, tmp_path):
            decode(image_run, str(tmp_path / name), f"{tmp_path}/new/out/")
