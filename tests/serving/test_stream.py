"""Codes of one's own pictures, arrays and tables, and back: whole, in order, or one clear line."""

import functools
import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image

from configs import base
from tests.all_configs import CONFIGS, load_config
from trainer.data.dataset import to_unit
from trainer.data.files import tables
from trainer.distribution.inference import map_batches
from trainer.errors import UserError
from trainer.run import restore
from trainer.serving import readers, stream, writers
from trainer.serving.stream import decode, denoise, encode
from trainer.train import train

KINDS = {load_config(name).model.name: name for name in reversed(CONFIGS)}.values()  # one of each
FEATURES = 5
SIDE = 12
CODE = 3


def tiny(config, name):
    """Two steps of it on little data."""
    config.data.name = name
    config.batch_size = 16
    config.num_epochs = 1e-6
    config.execution = "graph"
    config.strategy = "cpu:1"
    return config


def dense_config(name):
    config = base.get_config()
    config.model = base.dense()
    config.model.hidden_units = (8,)
    config.model.code_size = CODE
    return tiny(config, name)


def vectors(count, seed=0):
    """Around 5, with deviations of 1 to 5."""
    return np.random.default_rng(seed).normal(5, np.arange(1, 1 + FEATURES), (count, FEATURES))


@pytest.fixture(scope="module")
def image_run(tmp_path_factory):
    """A dense net of grey images of 12x12, on the digits."""
    config = dense_config("digits")
    config.data.image_size = SIDE
    folder = tmp_path_factory.mktemp("runs") / "images"
    train(config, str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def vector_run(tmp_path_factory):
    """A dense net of 5 standardised numbers."""
    folder = tmp_path_factory.mktemp("runs")
    np.savez(folder / "own.npz", train=vectors(60), train_labels=np.arange(60) % 3)
    config = dense_config(f"arrays:{folder / 'own.npz'}")
    config.data.standardise = True
    config.model.output_activation = "linear"
    train(config, str(folder / "vectors"))
    return str(folder / "vectors")


@pytest.fixture(scope="module")
def loaded():
    """Each run's model, once it has been read."""
    return functools.cache(restore.load_model)


@pytest.fixture(autouse=True)
def read_once(monkeypatch, loaded):
    """Many calls on one run, in the time of one."""
    monkeypatch.setattr(restore, "load_model", loaded)


@pytest.fixture
def pictures(tmp_path):
    """A folder of five grey pictures, two of them further down, and what is no picture."""
    folder = tmp_path / "pictures"
    for number, name in enumerate(["b.png", "a.PNG", "sub/c.png", "sub/deep/d.png", "e.png"]):
        save_picture(folder / name, pixels(number))
    (folder / "notes.txt").write_text("no picture")
    save_picture(folder / ".hidden" / "f.png", pixels(9))
    return folder


def pixels(seed, shape=(SIDE, SIDE)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save_picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, "PNG" if path.suffix.lower() == ".png" else None)


def codes_of(run, rows):
    """What `evaluate` would have them be, a batch at a time."""
    model = restore.load_model(Path(run), "last").model
    return map_batches(model.encode, rows.astype(np.float32))


def write_table(path, columns):
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        options = pyarrow.csv.WriteOptions(delimiter=delimiter)
        pyarrow.csv.write_csv(table, path, options)


def read_table(path):
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    return pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter))


def features(rows):
    return {f"x{k}": rows[:, k] for k in range(rows.shape[1])}


def only(folder):
    """The names of all that is in a folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir())


def test_pictures_come_out_by_their_names_and_with_their_own_codes(image_run, pictures, tmp_path):
    assert encode(image_run, str(pictures), str(tmp_path / "codes.npz"), batch_size=2) == 5
    with np.load(tmp_path / "codes.npz") as written:
        assert written["files"].tolist() == [
            *("a.PNG", "b.png", "e.png", "sub/c.png", "sub/deep/d.png")
        ]
        images = np.stack([pixels(seed) for seed in (1, 0, 4, 2, 3)])[..., np.newaxis] / 255
        assert written["codes"].dtype == np.float32
        np.testing.assert_allclose(
            written["codes"], codes_of(image_run, images), rtol=1e-4, atol=1e-5
        )
    assert only(tmp_path) == ["codes.npz", "pictures"]


def test_colour_becomes_grey_and_other_sizes_are_scaled_if_told(image_run, tmp_path):
    grey = np.full((30, 20), 100, np.uint8)
    save_picture(tmp_path / "in" / "colour.png", np.stack([grey] * 3, axis=-1))
    save_picture(tmp_path / "in" / "grey.jpg", grey)
    save_picture(tmp_path / "in" / "seen_through.png", np.stack([grey] * 4, axis=-1))
    encode(image_run, str(tmp_path / "in"), str(tmp_path / "codes.npy"), resize=True)
    codes = np.load(tmp_path / "codes.npy")
    expected = codes_of(image_run, np.full((3, SIDE, SIDE, 1), 100 / 255))
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-5)


def test_grey_becomes_colour_for_a_model_of_colours(tmp_path):
    save_picture(tmp_path / "grey.png", pixels(0))
    (block,) = readers.examples(tmp_path / "grey.png", (SIDE, SIDE, 3)).blocks(4)
    np.testing.assert_array_equal(block.rows[0], np.stack([pixels(0)] * 3, axis=-1))
    with pytest.raises(UserError, match="takes images of 2 channels; pictures have 1, 3, 4"):
        readers.examples(tmp_path / "grey.png", (SIDE, SIDE, 2))


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_picture_becomes_a_square_as_the_run_made_its_own(tmp_path, fit):
    for number in range(40):
        save_picture(tmp_path / "own" / f"{number:02}.png", pixels(number, (9, 20)))
    config = dense_config(f"images:{tmp_path / 'own'}")
    config.data.update({"image_size": SIDE, "fit": fit})
    run = str(tmp_path / "run")
    train(config, run)
    encode(run, str(tmp_path / "own"), str(tmp_path / "codes.npz"), resize=True)
    encode(run, "test", str(tmp_path / "test.npz"))
    with np.load(tmp_path / "codes.npz") as every, np.load(tmp_path / "test.npz") as test:
        codes = dict(zip(every["files"], every["codes"], strict=True))
        assert len(test["files"]) == 8
        ours = [codes[name] for name in test["files"]]
        np.testing.assert_allclose(test["codes"], ours, rtol=1e-4, atol=1e-5)


def test_a_picture_is_scaled_to_a_height_and_a_width_that_differ(tmp_path):
    halves = np.full((20, 40), 200, np.uint8)
    halves[:, :20] = 0
    save_picture(tmp_path / "a.png", halves)
    (block,) = readers.examples(tmp_path / "a.png", (4, 8, 1), resize=True).blocks(2)
    np.testing.assert_array_equal(
        block.rows[0, :, [0, 1, 2, 5, 6, 7], 0].T, [[0] * 3 + [200] * 3] * 4
    )


def test_a_picture_of_16_bits_is_seen_as_in_a_training(image_run, tmp_path):
    save_picture(tmp_path / "in" / "deep.png", pixels(0).astype(np.uint16) * 257)
    save_picture(tmp_path / "in" / "flat.png", pixels(0))
    encode(image_run, str(tmp_path / "in"), str(tmp_path / "codes.npy"))
    deep, flat = np.load(tmp_path / "codes.npy")
    np.testing.assert_array_equal(deep, flat)


def test_a_picture_of_so_many_pixels_that_it_is_a_trap_is_told(
    image_run, pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE - 1)
    with pytest.raises(UserError, match=r"a\.PNG cannot be read as an image .* exceeds limit"):
        encode(image_run, str(pictures), str(tmp_path / "codes.npz"))


def test_a_picture_is_turned_upright_as_its_camera_says(image_run, tmp_path):
    upright = pixels(0)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees to the right
    Image.fromarray(np.rot90(upright)).save(tmp_path / "turned.png", exif=exif)
    save_picture(tmp_path / "upright.png", upright)
    for name in ("turned", "upright"):
        encode(image_run, str(tmp_path / f"{name}.png"), str(tmp_path / f"{name}.npy"))
    np.testing.assert_array_equal(
        np.load(tmp_path / "turned.npy"), np.load(tmp_path / "upright.npy")
    )


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_row_has_the_same_bits_whatever_comes_along_and_all_but_so_at_any_batch_size(
    image_run, tmp_path, batch_size
):
    images = pixels(0, (23, SIDE, SIDE))
    np.save(tmp_path / "all.npy", images)
    np.save(tmp_path / "some.npy", images[3:12])
    for name in ("all", "some"):
        source, output = (str(tmp_path / f"{name}{end}.npy") for end in ("", "_codes"))
        encode(image_run, source, output, batch_size=batch_size, overwrite=True)
    codes = np.load(tmp_path / "all_codes.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "some_codes.npy"), codes[3:12])
    expected = codes_of(image_run, images[..., np.newaxis] / 255)
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-5)


def test_whole_batches_have_the_bits_that_evaluation_has(image_run, tmp_path):
    images = pixels(0, (512, SIDE, SIDE, 1))
    np.save(tmp_path / "images.npy", images)
    encode(image_run, str(tmp_path / "images.npy"), str(tmp_path / "codes.npy"))
    np.testing.assert_array_equal(
        np.load(tmp_path / "codes.npy"), codes_of(image_run, to_unit(images))
    )


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_parts_of_the_runs_own_data_come_with_their_labels(vector_run, tmp_path, part):
    encode(vector_run, part, str(tmp_path / "codes.npz"))
    own = getattr(restore.load(Path(vector_run)).dataset, part)
    rows, labels = own.read()
    with np.load(tmp_path / "codes.npz") as written:
        np.testing.assert_array_equal(written["labels"], labels)
        np.testing.assert_allclose(written["codes"], codes_of(vector_run, rows), rtol=1e-5)


@pytest.mark.parametrize("run", ["image_run", "vector_run"])
def test_the_errors_are_mean_squares_of_pixels_or_in_the_users_units(run, request, tmp_path):
    folder = request.getfixturevalue(run)
    encode(folder, "test", str(tmp_path / "codes.npz"), errors=True)
    whole = restore.load(Path(folder))
    own = to_unit(whole.dataset.test.read()[0])
    ours = map_batches(whole.model, own)
    if whole.scaling is not None:
        own, ours = whole.scaling.undo(own), whole.scaling.undo(ours)
    squares = np.square(ours - own).mean(axis=tuple(range(1, own.ndim)))
    with np.load(tmp_path / "codes.npz") as written:
        np.testing.assert_allclose(written["errors"], squares, rtol=1e-4)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".npz", ".npy"])
def test_vectors_have_the_same_codes_from_any_file_and_in_any_file(vector_run, tmp_path, suffix):
    rows, labels = vectors(9, seed=1), np.arange(9) % 2
    source, output = tmp_path / f"rows{suffix}", tmp_path / f"codes{suffix}"
    label = "kind" if suffix in tables.SUFFIXES else ""
    if suffix == ".npy":
        np.save(source, rows)
    elif suffix == ".npz":
        np.savez_compressed(source, train=rows, train_labels=labels)
    else:
        named = features(rows)
        write_table(source, {"x0": named.pop("x0"), "kind": labels, **named})
    encode(vector_run, str(source), str(output), label_column=label, batch_size=4)

    model = restore.load_model(Path(vector_run), "last")
    assert model.scaling is not None
    expected = codes_of(vector_run, model.scaling.apply(rows.astype(np.float32)))
    if suffix == ".npy":
        codes = np.load(output)
    elif suffix == ".npz":
        with np.load(output) as written:
            codes = written["codes"]
            np.testing.assert_array_equal(written["labels"], labels)
    else:
        table = read_table(output)
        assert table.column_names == [*(f"code_{k}" for k in range(CODE)), "label"]
        assert table["label"].to_pylist() == labels.tolist()
        codes = np.stack([table[f"code_{k}"].to_numpy() for k in range(CODE)], axis=1)
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-5)


def test_arrays_are_taken_that_lie_by_columns_and_are_chosen_by_name(vector_run, tmp_path):
    rows = vectors(6)
    np.savez(tmp_path / "two.npz", train=rows, test=np.asfortranarray(rows[::-1]))
    np.save(tmp_path / "test.npy", rows[::-1].astype(np.float32))
    encode(vector_run, str(tmp_path / "two.npz"), str(tmp_path / "a.npy"), array="test")
    encode(vector_run, str(tmp_path / "test.npy"), str(tmp_path / "b.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_numbers_of_another_byte_order_are_read(vector_run, tmp_path):
    rows, labels = vectors(6), np.arange(6)
    np.savez(tmp_path / "a.npz", rows=rows, labels=labels)
    np.savez(tmp_path / "b.npz", rows=rows.astype(">f8"), labels=labels.astype(">i8"))
    for name in ("a", "b"):
        encode(vector_run, str(tmp_path / f"{name}.npz"), str(tmp_path / f"{name}.tsv"))
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    """A dense net of a table's 5 standardised columns, with holes that are filled in."""
    folder = tmp_path_factory.mktemp("runs")
    for part, seed in (("train", 0), ("test", 1)):
        rows = vectors(60, seed)
        rows[::7, 2] = np.nan
        kinds = [["rose", "iris"][number % 2] for number in range(60)]
        content = features(rows) | {"kind": kinds, "id": np.arange(60)}
        write_table(folder / f"{part}.csv", content)
    config = dense_config(f"table:{folder / 'train.csv'},{folder / 'test.csv'}")
    settings = {"label_column": "kind", "drop_columns": "id", "impute": "median"}
    config.data.update({**settings, "standardise": True})
    config.model.output_activation = "linear"
    train(config, str(folder / "run"))
    return str(folder / "run")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_is_seen_as_in_the_training_in_any_order_of_its_columns(
    table_run, tmp_path, suffix
):
    table = read_table(Path(table_run).parent / "test.csv")
    write_table(tmp_path / f"all{suffix}", table.select(table.column_names[::-1]))
    bare = table.drop_columns(["kind", "id"])
    write_table(tmp_path / f"bare{suffix}", bare)
    encode(table_run, "test", str(tmp_path / "expected.npz"))
    encode(table_run, str(tmp_path / f"all{suffix}"), str(tmp_path / "all.npz"))
    encode(table_run, str(tmp_path / f"bare{suffix}"), str(tmp_path / "bare.npz"))
    with (
        np.load(tmp_path / "expected.npz") as expected,
        np.load(tmp_path / "all.npz") as whole,
        np.load(tmp_path / "bare.npz") as alone,
    ):
        for written in (whole, alone):
            np.testing.assert_allclose(written["codes"], expected["codes"], rtol=1e-4, atol=1e-5)
        assert whole["labels"].tolist() == table["kind"].to_pylist()
        assert "labels" not in alone


@pytest.mark.parametrize(
    ("change", "label", "message"),
    [
        ({"height": [1.0] * 9}, "", "the column 'height' of {} was not in the training; --label_c"),
        ({"x3": None}, "", "{} has no column 'x3'; its columns are x0"),
        ({}, "x1", "label_column='x1' is a feature of the run"),
        ({"x1": [np.inf] * 9}, "", "{} holds inf in row 1, column 'x1'; only finite"),
    ],
)
def test_a_table_unlike_that_of_the_training_is_told(table_run, tmp_path, change, label, message):
    content = {k: v for k, v in (features(vectors(9)) | change).items() if v is not None}
    source = tmp_path / "rows.csv"
    write_table(source, content)
    with pytest.raises(UserError) as error:
        encode(table_run, str(source), str(tmp_path / "c.npz"), label_column=label)
    assert message.format(source) in str(error.value)
    assert only(tmp_path) == ["rows.csv"]


def test_labels_that_do_not_go_on_as_numbers_are_told(vector_run, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 300)
    labels = [str(number) for number in range(30)] + ["b"]
    write_table(tmp_path / "rows.csv", features(vectors(31).round(2)) | {"kind": labels})
    with pytest.raises(UserError, match=r"the column 'kind' of .* begins as int64, but does not"):
        encode(
            vector_run,
            str(tmp_path / "rows.csv"),
            str(tmp_path / "codes.npz"),
            label_column="kind",
        )


def test_codes_are_told_by_the_names_of_their_columns(vector_run, tmp_path):
    np.save(tmp_path / "rows.npy", vectors(9))
    encode(vector_run, str(tmp_path / "rows.npy"), str(tmp_path / "codes.parquet"))
    table = read_table(tmp_path / "codes.parquet")
    write_table(tmp_path / "turned.csv", table.select(table.column_names[::-1]))
    for name in ("codes.parquet", "turned.csv"):
        decode(vector_run, str(tmp_path / name), str(tmp_path / f"{name}.npy"))
    back, turned = (np.load(tmp_path / f"{name}.npy") for name in ("codes.parquet", "turned.csv"))
    np.testing.assert_allclose(turned, back, rtol=1e-5)


def test_labels_may_be_text_that_grows_longer(vector_run, tmp_path):
    labels = ["a", "bb", "a", 'c"\t,c', "dddddd"]
    write_table(tmp_path / "rows.parquet", {**features(vectors(5)), "label": labels})
    for suffix in (".npz", ".tsv", ".csv"):
        output = tmp_path / f"codes{suffix}"
        source = str(tmp_path / "rows.parquet")
        encode(vector_run, source, str(output), label_column="label", batch_size=2)
        if suffix == ".npz":
            with np.load(output) as written:
                assert written["labels"].tolist() == labels
        else:
            assert read_table(output)["label"].to_pylist() == labels


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".parquet", ".tsv", ".csv"])
def test_codes_become_pictures_again_by_their_names(image_run, pictures, tmp_path, suffix):
    codes = str(tmp_path / f"codes{suffix}")
    encode(image_run, str(pictures), codes, errors=suffix != ".npy")
    decode(image_run, codes, f"{tmp_path}/out/")
    names = ["a.png", "b.png", "e.png", "sub/c.png", "sub/deep/d.png"]
    if suffix == ".npy":
        names = [f"{number:08d}.png" for number in range(5)]
    assert [
        path.relative_to(tmp_path / "out").as_posix()
        for path in sorted((tmp_path / "out").rglob("*.png"))
    ] == names
    images = np.stack([pixels(seed) for seed in (1, 0, 4, 2, 3)])[..., np.newaxis] / 255
    model = restore.load_model(Path(image_run), "last").model
    rebuilt = map_batches(model, images.astype(np.float32))
    for name, image in zip(names, rebuilt, strict=True):
        shown = np.asarray(Image.open(tmp_path / "out" / name))
        assert shown.shape == (SIDE, SIDE)
        np.testing.assert_allclose(shown / 255, image[..., 0], atol=0.51 / 255)


def test_decoded_vectors_are_in_the_users_units(vector_run, tmp_path):
    rows = vectors(7, seed=2).astype(np.float32)
    np.savez(tmp_path / "rows.npz", rows=rows, labels=np.arange(7))
    encode(vector_run, str(tmp_path / "rows.npz"), str(tmp_path / "codes.npz"))
    decode(vector_run, str(tmp_path / "codes.npz"), str(tmp_path / "back.npz"))
    denoise(vector_run, str(tmp_path / "rows.npz"), str(tmp_path / "back.parquet"))
    run = restore.load_model(Path(vector_run), "last")
    assert run.scaling is not None
    expected = run.scaling.undo(map_batches(run.model, run.scaling.apply(rows)))
    with np.load(tmp_path / "back.npz") as written:
        np.testing.assert_allclose(written["vectors"], expected, rtol=1e-4)
        np.testing.assert_array_equal(written["labels"], np.arange(7))
    table = read_table(tmp_path / "back.parquet")
    np.testing.assert_allclose(table["vector_4"].to_numpy(), expected[:, 4], rtol=1e-4)


def test_a_folder_is_denoised_under_the_same_names(image_run, pictures, tmp_path):
    denoise(image_run, str(pictures), str(tmp_path / "clean"))
    encode(image_run, str(pictures), str(tmp_path / "codes.npz"))
    decode(image_run, str(tmp_path / "codes.npz"), str(tmp_path / "decoded"))
    for path in sorted((tmp_path / "decoded").rglob("*.png")):
        name = path.relative_to(tmp_path / "decoded")
        assert (tmp_path / "clean" / name).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "clean").rglob("*.png"))) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_encodes_decodes_and_denoises(name, tmp_path):
    config = tiny(load_config(name), "digits")
    config.data.resplit_test = 0.0
    run = str(tmp_path / "run")
    train(config, run)
    images = pixels(0, (3, 28, 28))
    np.save(tmp_path / "images.npy", images)
    encode(
        run, str(tmp_path / "images.npy"), str(tmp_path / "codes.npz"), errors=True, batch_size=4
    )
    decode(run, str(tmp_path / "codes.npz"), str(tmp_path / "decoded.npy"), batch_size=4)
    denoise(run, str(tmp_path / "images.npy"), str(tmp_path / "clean.npy"), batch_size=4)
    with np.load(tmp_path / "codes.npz") as written:
        np.testing.assert_allclose(
            written["codes"], codes_of(run, images[..., np.newaxis] / 255), rtol=1e-3, atol=1e-4
        )
        assert np.isfinite(written["errors"]).all()
    decoded = np.load(tmp_path / "decoded.npy")
    assert decoded.shape == (3, 28, 28, 1)
    np.testing.assert_array_equal(decoded, np.load(tmp_path / "clean.npy"))


# What is wrong with pictures: what is done to the folder of five, and the line.
def truncate(folder):
    whole = (folder / "e.png").read_bytes()
    (folder / "e.png").write_bytes(whole[: len(whole) // 2])


def empty(folder):
    for path in folder.rglob("*.[pP][nN][gG]"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "e.png cannot be read as an image"),
        (lambda folder: (folder / "a.jpg").write_text("x"), "a.jpg cannot be read as an image"),
        (
            lambda folder: save_picture(folder / "e.png", pixels(0, (SIDE + 1, SIDE))),
            "e.png is 13x12 pixels, but the model takes 12x12; --resize",
        ),
        (empty, "pictures holds no picture that ends in .png, .jpg, .jpeg, .bmp, .gif"),
    ],
)
def test_a_picture_that_will_not_do_is_told_and_nothing_is_left(
    image_run, pictures, tmp_path, spoil, message
):
    spoil(pictures)
    for verb, output in ((encode, "codes.npz"), (encode, "codes.tsv"), (denoise, "clean")):
        with pytest.raises(UserError) as error:
            verb(image_run, str(pictures), str(tmp_path / output), batch_size=1)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    assert only(tmp_path) == ["pictures"]


def with_nan(rows):
    rows[7, 2] = np.nan
    return features(rows)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("columns", "label", "message"),
    [
        (with_nan(vectors(9)), "", "has no number in row 8, column 'x2'"),
        (
            features(vectors(9)[:, :4]),
            "",
            "has 4 columns of numbers, but the model takes vectors of 5",
        ),
        (
            features(vectors(9)) | {"kind": ["a"] * 9},
            "",
            "has 6 columns of numbers, but the model takes vectors of 5; --label_column names",
        ),
        (features(vectors(9)), "kind", "has no column 'kind'; its columns are x0, x1"),
        (
            features(vectors(9)) | {"kind": [1, 2, 3, None, 5, 6, 7, 8, 9]},
            "kind",
            "holds nothing in row 4, column 'kind'",
        ),
        (features(vectors(0)), "", "has no row"),
    ],
)
def test_a_table_that_will_not_do_is_told(vector_run, tmp_path, suffix, columns, label, message):
    source = tmp_path / f"rows{suffix}"
    write_table(source, columns)
    with pytest.raises(UserError) as error:
        encode(vector_run, str(source), str(tmp_path / "c.npz"), label_column=label, batch_size=2)
    assert message in str(error.value)
    assert only(tmp_path) == [source.name]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"", "rows.csv cannot be read"),
        ("rows.csv", b"a,b,c,d,e\n1,2,3\n", "Expected 5 columns, got 3"),
        (
            "rows.csv",
            b"a,b,c,d,e\n1,2,3,4,5\n1,2,x,4,5\n",
            "holds 'x' in row 2, column 'c', which is no number",
        ),
        ("rows.csv", b"1,2,3,4,5\n1,2,3,4,5\n", "has no header: its first row is 1, 2, 3; it must"),
        ("rows.csv", b"a,b,c,d,a\n1,2,3,4,5\n", "two columns of"),
        ("rows.parquet", b"PAR1", "rows.parquet cannot be read"),
        ("rows.npy", b"\x93NUM", "rows.npy cannot be read"),
        ("rows.npz", b"PK", "rows.npz cannot be read"),
        ("rows.txt", b"1 2", "is not known; allowed: train, validation, test"),
        ("rows.png", b"", "holds pictures, but the model takes vectors of 5"),
    ],
)
def test_a_file_that_is_none_gets_one_line(vector_run, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        encode(vector_run, str(tmp_path / name), str(tmp_path / "codes.parquet"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert only(tmp_path) == [name]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train": vectors(3), "test": vectors(3)}, "holds 'train', 'test'; --array says which"),
        ({"labels": np.arange(3)}, "--array says which"),
        ({"x": vectors(3)[:, :4]}, "has the shape (3, 4), but the model takes vectors of 5"),
        ({"x": vectors(0)}, "in which there is no example"),
        ({"x": vectors(3).astype(complex)}, "is of type complex128; vectors must be real numbers"),
        ({"x": vectors(3).astype(object)}, "it holds Python objects"),
        ({"x": np.full((3, FEATURES), 1e300)}, "holds 1e+300 in row 0, column 0"),
        ({"x": vectors(3), "x_labels": np.arange(4)}, "3 rows, but not as many labels"),
        ({"x": vectors(3), "labels": np.full(3, 1j)}, "file names of numbers or text"),
    ],
)
def test_arrays_that_will_not_do_are_told(vector_run, tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError) as error:
        encode(vector_run, str(tmp_path / "x.npz"), str(tmp_path / "codes.npz"))
    assert message in str(error.value)
    assert only(tmp_path) == ["x.npz"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, SIDE, SIDE), 1.5), "reach from 1.5 to 1.5; floats must lie in [0, 1]"),
        (np.full((2, SIDE, SIDE), 7), "must be uint8, or floats in [0, 1]"),
        (np.zeros((2, SIDE, SIDE, 3)), "has the shape (2, 12, 12, 3), but the model takes images"),
    ],
)
def test_images_that_will_not_do_are_told(image_run, tmp_path, images, message):
    np.save(tmp_path / "x.npy", images)
    with pytest.raises(UserError) as error:
        encode(image_run, str(tmp_path / "x.npy"), str(tmp_path / "codes.npz"))
    assert message in str(error.value)


def test_a_file_that_ends_too_early_is_told_and_nothing_is_left(vector_run, tmp_path):
    whole = io.BytesIO()
    np.save(whole, vectors(9))
    (tmp_path / "x.npy").write_bytes(whole.getvalue()[:-8])
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", whole.getvalue()[:-8])
    for name in ("x.npy", "x.npz"):
        with pytest.raises(UserError, match="it ends too early"):
            encode(vector_run, str(tmp_path / name), str(tmp_path / "codes.npz"), batch_size=2)
    assert only(tmp_path) == ["x.npy", "x.npz"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"source": "none.npz"}, "input='none.npz' is not there"),
        ({"source": ""}, "input='' is not allowed"),
        ({"source": "test", "resize": True}, "resize=True is not for input='test'"),
        ({"label_column": "x"}, "label_column='x' is for tables only"),
        ({"resize": True}, "resize is of pictures"),
        ({"source": "x.npy", "array": "x"}, "array='x' is for .npz files only"),
        ({"array": "y"}, "has no array 'y'; it holds 'x'"),
        ({"output": "codes"}, "output='codes' is not allowed for codes; these go to .npy, .npz"),
        ({"output": "codes.npy", "errors": True}, "errors are not for output='codes.npy'"),
        ({"output": "none/x.npz", "source": "none"}, "input='none' lie one in the other"),
        ({"output": "x.npz", "overwrite": True}, "lie one in the other"),
    ],
)
def test_flags_that_do_not_go_together_get_one_line(
    vector_run, tmp_path, monkeypatch, flags, message
):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=vectors(3))
    np.save("x.npy", vectors(3))
    settings = {"source": "x.npz", "output": "codes.npz"} | flags
    with pytest.raises(UserError) as error:
        encode(vector_run, **settings)
    assert message in str(error.value)
    assert only(tmp_path) == ["x.npy", "x.npz"]


def test_codes_that_are_not_the_models_are_told(vector_run, tmp_path):
    np.savez(tmp_path / "codes.npz", codes=np.zeros((3, CODE + 1)))
    write_table(tmp_path / "codes.csv", {"code_0": [1.0], "label": [1]})
    for name, message in (
        ("codes.npz", "has the shape (3, 4), but the model takes codes of 3"),
        ("codes.csv", "has 1 columns of codes, but the model takes codes of 3"),
    ):
        with pytest.raises(UserError) as error:
            decode(vector_run, str(tmp_path / name), str(tmp_path / "back.npz"))
        assert message in str(error.value)


def test_vectors_are_no_pictures_and_images_no_table(vector_run, image_run, tmp_path):
    np.save(tmp_path / "codes.npy", np.zeros((2, CODE)))
    for run, output, message in (
        (vector_run, "out", "is not allowed for vectors; these go to .npy, .npz, .csv, "),
        (image_run, "out.csv", "is not allowed for images; these go to FOLDER/, .npy, .npz"),
    ):
        with pytest.raises(UserError, match=message):
            decode(run, str(tmp_path / "codes.npy"), str(tmp_path / output))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["../a.png", "b"], "'../a.png' cannot be the name of a picture in a folder"),
        (["/tmp/a.png", "b"], "'/tmp/a.png' cannot be the name"),
        (["a.png", "a.jpg"], "two files would become a.png; 'a.jpg' is the second"),
    ],
)
def test_names_that_cannot_be_those_of_pictures_are_told(image_run, tmp_path, names, message):
    np.savez(tmp_path / "codes.npz", codes=np.zeros((2, CODE)), files=names)
    with pytest.raises(UserError) as error:
        decode(image_run, str(tmp_path / "codes.npz"), str(tmp_path / "out"))
    assert message in str(error.value)
    assert only(tmp_path) == ["codes.npz"]


def test_an_output_that_is_there_is_replaced_only_if_told(image_run, pictures, tmp_path):
    output, folder = tmp_path / "codes.tsv", tmp_path / "clean"
    output.write_text("before")
    save_picture(folder / "before.png", pixels(0))
    for verb, path in ((encode, output), (denoise, folder)):
        with pytest.raises(UserError, match="is there; --overwrite replaces it"):
            verb(image_run, str(pictures), str(path))
    assert output.read_text() == "before"
    assert only(folder) == ["before.png"]
    encode(image_run, str(pictures), str(output), overwrite=True)
    denoise(image_run, str(pictures), str(folder), overwrite=True)
    assert read_table(output).num_rows == 5
    assert only(folder) == ["a.png", "b.png", "e.png", "sub"]
    assert only(tmp_path) == ["clean", "codes.tsv", "pictures"]


def test_a_folder_of_more_than_pictures_is_never_replaced(image_run, pictures, tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match="holds more than pictures"):
        denoise(image_run, str(pictures), str(folder), overwrite=True)
    with pytest.raises(UserError, match="is a folder, and is not replaced"):
        (tmp_path / "codes.npz").mkdir()
        encode(image_run, str(pictures), str(tmp_path / "codes.npz"), overwrite=True)
    assert (folder / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize("output", ["out.npz", "out.npy", "out/"])
def test_what_is_interrupted_leaves_what_was_there(image_run, tmp_path, monkeypatch, output):
    np.save(tmp_path / "codes.npy", np.zeros((6, CODE)))
    decode(image_run, str(tmp_path / "codes.npy"), f"{tmp_path}/{output}")
    before = only(tmp_path)
    shown, calls = stream._as_given, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return shown(*arguments)

    monkeypatch.setattr(stream, "_as_given", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode(
            image_run,
            str(tmp_path / "codes.npy"),
            f"{tmp_path}/{output}",
            batch_size=2,
            overwrite=True,
        )
    assert only(tmp_path) == before
    if output == "out/":
        assert len(only(tmp_path / "out")) == 6
    elif output == "out.npy":
        assert np.load(tmp_path / "out.npy").shape == (6, SIDE, SIDE, 1)


def test_a_place_that_cannot_be_written_gets_one_line(image_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"codes.npz' cannot be written: "):
        encode(image_run, "test", str(tmp_path / "file" / "codes.npz"))


def test_a_table_of_many_row_groups_is_whole(vector_run, tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "_ROW_GROUP_BYTES", 60)
    np.save(tmp_path / "rows.npy", vectors(50))
    for suffix in tables.SUFFIXES:
        encode(vector_run, str(tmp_path / "rows.npy"), str(tmp_path / f"c{suffix}"), batch_size=4)
    encode(vector_run, str(tmp_path / "rows.npy"), str(tmp_path / "c.npy"), batch_size=4)
    codes = np.load(tmp_path / "c.npy")
    for suffix in tables.SUFFIXES:
        table = read_table(tmp_path / f"c{suffix}")
        np.testing.assert_array_equal(table["code_1"].to_numpy().astype(np.float32), codes[:, 1])
    assert pyarrow.parquet.ParquetFile(tmp_path / "c.parquet").num_row_groups > 5


def test_a_table_is_read_in_less_memory_than_it_has_numbers(tmp_path):
    rows = vectors(200_000)
    pyarrow.parquet.write_table(pa.table(features(rows)), tmp_path / "rows.parquet", 20_000)
    before = pa.total_allocated_bytes()
    blocks = readers.examples(tmp_path / "rows.parquet", (FEATURES,)).blocks(512)
    assert max(pa.total_allocated_bytes() - before for _ in blocks) < rows.nbytes / 2


def test_a_batch_is_no_larger_than_what_there_is_to_encode(image_run, tmp_path):
    np.save(tmp_path / "images.npy", pixels(0, (9, SIDE, SIDE)))
    source, codes, back = (str(tmp_path / f"{name}.npy") for name in ("images", "codes", "back"))
    assert encode(image_run, source, codes, batch_size=10**9) == 9
    assert decode(image_run, codes, back, batch_size=10**9) == 9
    assert denoise(image_run, source, back, batch_size=10**9, overwrite=True) == 9
