"""Whatever a flag or a file holds, it is taken, or refused in one line: no crash, hang or flood.

Files are small ones that are right, then damaged; each reader meets the same damage in every run.
"""

import ast
import gzip
import hashlib
import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from absl import flags
from hypothesis import strategies as st
from ml_collections import config_flags
from PIL import Image

from configs import dense
from tests.hostile.corpus import (
    TEXTS,
    assert_one_line,
    damages,
    few_or_many,
    refused_in_one_line,
    try_many,
)
from tests.runs import found
from trainer import cli, data
from trainer.config import flat, make_data, parse
from trainer.data.files import idx, images, numpy_files, tables
from trainer.errors import UserError
from trainer.monitoring.goodput import FILE as GOODPUT
from trainer.monitoring.goodput import Clock
from trainer.run import workdir
from trainer.run.metrics_log import is_measured, training_seconds
from trainer.serving import readers
from trainer.serving.options import StreamOptions
from trainer.storage import atomic

ROOT = Path(__file__).parents[2]
MOST_BYTES = 2**26  # of memory, for a file of a few KiB
ROOMS = ("trainer", "launch", "configs", "benchmarks", "docs")
MANY = 600  # damaged files, for each file and each reader


# Right files and who reads them.


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**members):
    file = io.BytesIO()
    np.savez(file, **members)
    return file.getvalue()


def zipped(**members):
    file = io.BytesIO()
    np.savez_compressed(file, **members)
    return file.getvalue()


def picture(form):
    file = io.BytesIO()
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def table():
    columns = {f"x{column}": np.arange(6) / (column + 1) for column in range(4)}
    return pa.table(columns | {"label": pa.array(list("abcabc"))})


def parquet():
    file = io.BytesIO()
    pyarrow.parquet.write_table(table(), file)
    return file.getvalue()


def csv():
    return b"x0,x1,x2,x3,label\n" + b"1,2.5,-3e-2,,a\n4,5,6,7,b\n" * 3


VECTORS = np.arange(24, dtype=np.float32).reshape(6, 4)
FILES = {
    "rows.npy": npy(VECTORS),
    "columns.npy": npy(np.asfortranarray(VECTORS)),
    "plain.npz": npz(train=VECTORS, train_labels=np.arange(6) % 2),
    "zipped.npz": zipped(train=VECTORS, train_labels=np.arange(6) % 2),
    "table.csv": csv(),
    "table.parquet": parquet(),
    "picture.png": picture("PNG"),
    "picture.jpg": picture("JPEG"),
    "picture.gif": picture("GIF"),
    "picture.bmp": picture("BMP"),
}


def train_on(path):
    """Reads a file as a training reads its data."""
    if path.suffix in (".npy", ".npz"):
        numpy_files.read(path, MOST_BYTES)
    elif path.suffix in tables.SUFFIXES:
        tables.read([path], label_column="label", keep_missing=True, allowed_bytes=MOST_BYTES)
    else:
        images.Decoder()(path)


def encode(path):
    """Reads a file as `encode` does, to its end."""
    is_image = path.suffix in images.SUFFIXES
    options = StreamOptions(
        array="train" if path.suffix == ".npz" else "",
        label_column="label" if path.suffix in tables.SUFFIXES else "",
    )
    training = readers.TrainingData((8, 8, 3) if is_image else (4,))
    for _ in readers.examples(path, training, options).blocks(1024):
        pass


@pytest.mark.parametrize("read", [train_on, encode], ids=lambda read: read.__name__)
@pytest.mark.parametrize("name", FILES)
@few_or_many(MANY)
def test_a_damaged_file_is_read_or_refused(tmp_path, name, read, examples):
    path = tmp_path / name

    def meet(content):
        path.write_bytes(content)
        with refused_in_one_line():
            read(path)

    try_many(examples, damages(FILES[name]), meet)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@few_or_many(MANY)
def test_a_damaged_idx_file_is_never_taken(tmp_path, suffix, examples):
    content = struct.pack(">4i", 0x803, 2, 4, 4) + bytes(range(32))
    name = "tiny-idx3-ubyte"
    original = idx.Original(len(content), hashlib.sha256(content).hexdigest())
    path = tmp_path / (name + suffix)

    def meet(damaged):
        path.write_bytes(damaged)
        with refused_in_one_line():
            assert idx.read(tmp_path, {name: original}) == {name: content}

    try_many(examples, damages(gzip.compress(content) if suffix else content), meet)


# The files of a workdir.


@pytest.fixture
def run(tmp_path):
    """A workdir as a run leaves it, but for its state."""
    config = dense.get_config()
    run = workdir.open_run(tmp_path, parse(config), "0123abcd", {"image_shape": [28, 28, 1]})
    run.write()
    for step in (2, 4):
        row = {"step": step, "split": "train", "loss": 0.5, "images_per_second": 1e4}
        run.log.append(row)
        state = {"model/kernel": np.ones(3, np.float32)}
        run.checkpoints.save(step, state, validation_loss=0.5, keep=3)
    atomic.write_json(tmp_path / workdir.METRICS, {"step": 4, "mse": 0.5})
    Clock().write(tmp_path)
    return tmp_path


def look_at(run):
    """Reads what a workdir holds, as the commands do."""
    opened = workdir.open_run(run, parse(dense.get_config()), "0123abcd", {})
    training_seconds(opened.log.rows(), 64)
    is_measured(run)
    workdir.read_metrics(run)
    Clock().resume(run)
    for checkpoint in ("last", "best"):
        assert found(run, checkpoint).state()["model/kernel"].tolist() == [1, 1, 1]
    opened.log.forget_after(2)


@pytest.mark.parametrize(
    "name",
    [
        *(workdir.CONFIG, workdir.METRICS_LOG, workdir.METRICS, GOODPUT),
        *(
            f"{workdir.CHECKPOINTS}/step-0000000004/{name}"
            for name in ("manifest.json", "state.npz")
        ),
    ],
)
@few_or_many(MANY)
def test_a_damaged_file_of_a_workdir_is_read_or_refused(run, name, examples):
    path = run / name
    content = path.read_bytes()
    log = (run / workdir.METRICS_LOG).read_bytes()

    def meet(damaged):
        (run / workdir.METRICS_LOG).write_bytes(log)
        path.write_bytes(damaged)
        with refused_in_one_line():
            look_at(run)

    try_many(examples, damages(content), meet)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@pytest.mark.parametrize("name", [workdir.CONFIG, workdir.METRICS_LOG, workdir.METRICS, GOODPUT])
@few_or_many(MANY)
def test_json_of_another_meaning_is_read_or_refused(run, name, examples):
    path = run / name
    lines = path.read_text().splitlines() if name == workdir.METRICS_LOG else [path.read_text()]
    right = [json.loads(line) for line in lines]
    log = (run / workdir.METRICS_LOG).read_bytes()

    def meet(drawn):
        number, value = drawn
        keys = list(right[0])
        other = dict(right[0]) | {keys[number % len(keys)]: value} if number else value
        (run / workdir.METRICS_LOG).write_bytes(log)
        path.write_text("\n".join(map(json.dumps, [*right[1:], other])) + "\n")
        with refused_in_one_line():
            look_at(run)

    try_many(examples, st.tuples(st.integers(0, 8), JSON), meet)


def test_no_manifest_leads_out_of_its_folder(run):
    outside = run / "outside"
    outside.mkdir()
    folder = run / workdir.CHECKPOINTS
    steps: list[object] = ["../../outside", "/etc/passwd", -1, 10**12, "4", None, [], 4.5]
    own = workdir.read(run)
    for step in steps:
        digests = {"run_id": own.run_id, "state_sha256": "0" * 64}
        manifest = {"step": step, "validation_loss": 0.1} | digests
        digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        signed = json.dumps({"manifest": manifest, "manifest_sha256": digest})
        (folder / "step-0000000004" / "manifest.json").write_text(signed)
        assert found(run).path == folder / "step-0000000002"
        state = {"model/kernel": np.ones(3, np.float32)}
        own.checkpoints.save(6, state, validation_loss=None, keep=3)
        own.checkpoints.set_aside_after(4)
        assert sorted(path.name for path in run.iterdir() if path.is_dir()) == [
            "checkpoints",
            "outside",
        ]


def test_no_archive_writes_beside_itself(tmp_path):
    path = tmp_path / "in" / "escape.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../train.npy", "/tmp/train.npy", "train.npy"):
            archive.writestr(name, npy(VECTORS))
    before = sorted(tmp_path.rglob("*"))
    for read in (train_on, encode):
        with refused_in_one_line():
            read(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_of_a_version_to_come_is_refused(tmp_path):
    content = bytearray(zipped(train=VECTORS))
    content[content.index(b"PK\x01\x02") + 6] = 255  # the version that it needs
    path = tmp_path / "new.npz"
    path.write_bytes(content)
    for read in (train_on, encode):
        with refused_in_one_line():
            read(path)


# What claims to be larger than it is.


def absurd_npy(shape, by_columns=False, descr="<f4"):
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": by_columns, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + bytes(64)


def npz_of(content, method=zipfile.ZIP_DEFLATED, **others):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, other in {"train": content, **others}.items():
            archive.writestr(f"{name}.npy", other)
    return file.getvalue()


def bomb():
    """An .npz file of 100 KB that unpacks to 100 MB."""
    return npz_of(absurd_npy((6 * 2**20, 4)) + bytes(96 * 2**20))


def modest_bomb():
    """The same, whose directory says that it unpacks to 1,000 bytes."""
    content = bomb()
    at = content.rindex(b"PK\x01\x02") + 24
    return content[:at] + struct.pack("<I", 1000) + content[at + 4 :]


def huge_png():
    """A PNG of 100,000 x 100,000 pixels in some bytes."""

    def chunk(kind, held):
        return (
            struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))
        )

    size = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("read", [train_on, encode], ids=lambda read: read.__name__)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.npy", lambda: absurd_npy((10**15, 4))),
        ("row.npy", lambda: absurd_npy((1, 10**15))),
        ("overflow.npy", lambda: absurd_npy((2**62, 2**62))),
        ("negative.npy", lambda: absurd_npy((-1, 4))),
        ("columns.npy", lambda: absurd_npy((10**15, 4), by_columns=True)),
        ("rows.npz", lambda: npz_of(absurd_npy((10**15, 4)))),
        ("columns.npz", lambda: npz_of(absurd_npy((10**15, 4), by_columns=True))),
        ("large.npz", lambda: npz_of(absurd_npy((6 * 10**6, 4), by_columns=True))),
        ("words.npz", lambda: npz_of(npy(VECTORS), labels=absurd_npy((6,), descr="<U100000000"))),
        ("bomb.npz", bomb),
        ("modest.npz", modest_bomb),
        ("huge.png", huge_png),
    ],
)
def test_what_claims_to_be_huge_is_refused_before_it_takes_memory(tmp_path, name, content, read):
    path = tmp_path / name
    path.write_bytes(content())
    tracemalloc.start()
    try:
        with refused_in_one_line():
            read(path)
            assert (name, read) == ("bomb.npz", encode), "a stream alone takes it, row by row"
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def long_words(rows):
    """A table of a few KB, each of whose labels is the same text of a million bytes."""
    words = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["x" * 10**6])
    numbers = {f"x{column}": np.zeros(rows) for column in range(4)}
    return pa.table(numbers | {"label": words})


def long_lists(rows):
    """The same, of which a column holds a million numbers in each row."""
    lists = pa.array([[0.0] * 10**6] * rows)
    return pa.table({f"x{column}": lists for column in range(4)} | {"label": ["a"] * rows})


@pytest.mark.parametrize("read", [train_on, encode], ids=lambda read: read.__name__)
@pytest.mark.parametrize("table", [long_words(10_000), long_lists(4)], ids=["words", "lists"])
def test_a_table_that_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path, table, read):
    path = tmp_path / "bomb.parquet"
    pyarrow.parquet.write_table(table, path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 2**17
    pool = pa.system_memory_pool()
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        held = pool.max_memory()
        with pytest.raises(UserError, match=r"1,000,000 bytes; at most|is of type list"):
            read(path)
        assert pool.max_memory() - held < MOST_BYTES
    finally:
        pa.set_memory_pool(before)


def test_a_label_as_long_as_a_book_is_refused(tmp_path):
    path = tmp_path / "book.csv"
    path.write_bytes(b"x0,x1,x2,x3,label\n1,2,3,4," + b"x" * 10**6 + b"\n")
    for read in (train_on, encode):
        with pytest.raises(UserError, match="1,000,000 bytes; at most"):
            read(path)


def test_an_idx_file_that_unpacks_to_gigabytes_is_read_up_to_its_right_size(tmp_path):
    original = idx.Original(48, "0" * 64)
    block = gzip.compress(bytes(2**24))
    (tmp_path / "tiny-idx3-ubyte.gz").write_bytes(block * 64)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="holds more bytes"):
            idx.read(tmp_path, {"tiny-idx3-ubyte": original})
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


def test_links_that_lead_back_are_not_walked_for_ever(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "one.png").write_bytes(picture("PNG"))
    for name in ("a", "b"):
        (tmp_path / "cats" / name).symlink_to(tmp_path)
    for read in (images.names, images.scan):
        with pytest.raises(UserError, match="is the same folder as"):
            read(tmp_path)


def test_no_reader_takes_a_pickle(tmp_path):
    objects = np.array([[{}], [{}]], object)
    for name, content, readings in (
        ("rows.npy", npy(objects), (train_on, encode)),
        ("rows.npz", npz(train=objects), (train_on, encode)),
        ("deep.npz", npz(train=VECTORS, train_labels=objects[:, 0]), (train_on,)),
    ):
        (tmp_path / name).write_bytes(content)
        for read in readings:
            with pytest.raises(UserError):
                read(tmp_path / name)


def test_every_load_of_arrays_forbids_pickles_and_nothing_evaluates_text():
    for path in [path for room in ROOMS for path in ROOT.glob(f"{room}/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named = {alias.name.partition(".")[0] for alias in node.names}
                assert not named & {"pickle", "joblib", "marshal", "shelve", "dill"}, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "__import__"), path
                assert "unsafe_deserialization" not in called, path
                if called in ("np.load", "np.lib.format.read_array"):
                    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    assert given.get("allow_pickle") == "False", f"{path}:{node.lineno}"
                if called.endswith("models.load_model"):  # of Keras, as ours needs no mode
                    given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                    assert given.get("safe_mode") == "True", f"{path}:{node.lineno}"


# The command line.

KEYS = sorted(flat(dense.get_config().to_dict()))


@few_or_many(MANY)
def test_any_flag_is_taken_or_refused_in_one_line(monkeypatch, capsys, examples):
    key = (
        st.sampled_from(KEYS)
        | st.sampled_from(["model", "data", "optimizer"])
        | st.text(max_size=8)
    )
    argument = st.tuples(key, TEXTS).map(lambda pair: f"--config.{pair[0]}={pair[1]}")
    argument |= TEXTS.map(lambda value: f"--config={value}")
    argument |= TEXTS.map(lambda value: f"--{value}")
    argument |= TEXTS

    def meet(some):
        values = flags.FlagValues()
        config_flags.DEFINE_config_file("config", flag_values=values)
        monkeypatch.setattr(flags, "FLAGS", values)
        try:
            cli._parse(["trainer", f"--config={ROOT}/configs/dense.py", *some])
        except SystemExit as end:
            assert end.code == UserError.exit_status
            told = capsys.readouterr().err
            assert told.startswith("error: ")
            assert_one_line(told.removesuffix("\n"))

    try_many(examples, st.lists(argument, min_size=1, max_size=3), meet)


@few_or_many(MANY)
def test_any_name_of_data_is_known_or_refused(tmp_path, monkeypatch, examples):
    monkeypatch.chdir(tmp_path)
    kinds = st.sampled_from(["", "arrays:", "images:", "table:", "mnist:", "huggingface:"])

    def meet(drawn):
        kind, rest = drawn
        with refused_in_one_line():
            data.load(make_data(f"{kind}{rest}"))
        assert list(tmp_path.iterdir()) == []

    names = TEXTS | st.sampled_from([".", "..", "/", "~", "1.0.0", "x/a=b"])
    try_many(examples, st.tuples(kinds, names), meet)
