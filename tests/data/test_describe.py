"""Data sets of TFDS: prepared once, from a server or from MNIST's files, and never in part."""

import errno
import fcntl
import functools
import gzip
import hashlib
import os
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread, imsave
from tensorflow_datasets.image_classification import mnist

from configs import base
from tests.tiny_colour import TinyColour
from trainer import data
from trainer.config import make_data
from trainer.data import describe
from trainer.data.files import idx, tfds_prepare
from trainer.errors import UserError

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
COUNTS = {"train": 40, "t10k": 10}


def idx_file(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


@functools.cache
def tiny_mnist():
    """Files like MNIST's, of noise, by their names."""
    generator = np.random.default_rng(0)
    files = {}
    for part, count in COUNTS.items():
        images = generator.integers(0, 256, (count, 28, 28), np.uint8)
        files[f"{part}-images-idx3-ubyte"] = idx_file(images)
        files[f"{part}-labels-idx1-ubyte"] = idx_file(images[:, 0, 0] % 10)
    return files


def originals():
    return {
        name: idx.Original(len(content), hashlib.sha256(content).hexdigest())
        for name, content in tiny_mnist().items()
    }


@pytest.fixture
def files(tmp_path):
    """The folder of the four files: two of them packed, two not."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in tiny_mnist().items():
        if "images" in name:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def of_tiny_mnist(monkeypatch):
    """What is right of MNIST is, for once, what the tiny files hold."""
    monkeypatch.setattr(idx, "read", functools.partial(idx.read, originals=originals()))
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", COUNTS["train"])
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", COUNTS["t10k"])


def test_the_four_files_are_read_packed_or_not(files):
    assert idx.read(files, originals()) == tiny_mnist()


PACKED, PLAIN = "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (PACKED, lambda _: None, "holds neither train-images-idx3-ubyte nor train-images-idx3-"),
        (PLAIN, lambda content: content[:-1], "holds 17 bytes, unpacked; 18 are right"),
        (PLAIN, lambda content: content + b"1", "holds more bytes, unpacked; 18 are right"),
        (PLAIN, lambda _: b"", "begins with nothing, in hexadecimal digits; 00000801 is right"),
        (PLAIN, lambda content: b"\0\0\x08\3" + content[4:], "begins with 00000803"),
        (PLAIN, lambda content: content[:-1] + b"\xff", "SHA-256 is [0-9a-f]{64}; [0-9a-f]{64} is"),
        (PACKED, lambda content: content[:-20], r"cannot be read \(.*31,376 bytes are right"),
        (PACKED, lambda _: b"<html>", "cannot be read .Not a gzipped file"),
        (PACKED, lambda content: content[:99] + bytes(99) + content[198:], "cannot be read"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_right(files, name, damage, message):
    content = damage((files / name).read_bytes())
    if content is None:
        (files / name).unlink()
    else:
        (files / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        idx.read(files, originals())
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_nowhere_get_one_line(tmp_path):
    with pytest.raises(UserError, match="none' is no folder; it must hold train-images-idx3-ubyte"):
        idx.read(tmp_path / "none")


@pytest.mark.usefixtures("of_tiny_mnist")
@pytest.mark.parametrize("records", [False, True])
def test_mnist_is_prepared_from_its_files_once(files, tmp_path, records):
    folder = tmp_path / "data"
    settings = make_data("mnist", placement="records" if records else "auto")
    told = describe.prepare(settings, str(folder), from_idx=str(files))
    lines = dict(line.split(maxsplit=1) for line in told.replace("data set", "set").splitlines())
    assert lines["set"] == "mnist 3.0.1, prepared"
    assert lines["splits"] == "train 40, test 10"
    assert lines["images"] == "28x28x1"
    assert told.endswith(f"TFDS_DATA_DIR={folder}")
    assert sorted(path.name for path in folder.iterdir()) == [".mnist.lock", "mnist"]

    dataset = data.load(settings, folder=str(folder))
    assert lines["fingerprint"] == dataset.fingerprint()
    images, labels = dataset.test.read()
    expected = np.frombuffer(tiny_mnist()["t10k-images-idx3-ubyte"][16:], np.uint8)
    assert {image.tobytes() for image in images} == {
        image.tobytes() for image in expected.reshape(10, 28, 28)
    }
    np.testing.assert_array_equal(labels, images[:, 0, 0, 0] % 10)

    # Again, of a folder that nothing may be written to: neither files nor lock are asked for.
    (folder / ".mnist.lock").unlink()
    again = describe.prepare(settings, str(folder), from_idx="none")
    assert again == told.replace(", prepared\n", ", was there already\n")
    assert [path.name for path in folder.iterdir()] == ["mnist"]


@pytest.mark.usefixtures("of_tiny_mnist")
def test_a_preparation_that_breaks_off_leaves_nothing_and_can_be_repeated(
    files, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(mnist, "_extract_mnist_labels", full)
        with pytest.raises(UserError, match=r"mnist/3\.0\.1 cannot be prepared .*No space left"):
            describe.prepare(make_data("mnist"), str(tmp_path / "data"), from_idx=str(files))
    assert not list((tmp_path / "data").glob("mnist/*"))
    assert "prepared" in describe.prepare(
        make_data("mnist"), str(tmp_path / "data"), from_idx=str(files)
    )


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ({}, "holds a part of a data set, without its dataset_info.json"),
        ({"dataset_info.json": '{"name": "mn'}, "the dataset_info.json of mnist .*cannot be read"),
    ],
)
def test_a_part_of_a_data_set_is_told(tmp_path, left, message):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    for name, text in left.items():
        (folder / name).write_text(text)
    with pytest.raises(UserError, match=message):
        tfds_prepare.find("mnist", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("digits", {}, "--data_dir is not allowed with 'digits'; it is of data sets of TFDS alone"),
        ("fashion_mnist", {"from_idx": "files"}, "from_idx='files' is not allowed with fashion_m"),
        ("ag_news_subset", {}, "ag_news_subset holds no images"),
    ],
)
def test_what_is_not_to_be_prepared_is_refused_at_once(tmp_path, name, settings, message):
    with pytest.raises(UserError, match=message):
        describe.prepare(make_data(name), str(tmp_path / "data"), **settings)
    assert not (tmp_path / "data").exists()


def rows_of(description):
    """What was told, by its titles."""
    return {line[:12].strip(): line[13:] for line in description.splitlines()}


def test_the_fingerprint_told_is_that_of_a_run_of_the_base_config():
    read = data.load(base.get_config().data)
    assert read.fingerprint() in describe.prepare(make_data("digits"))


def test_a_folder_of_images_is_described_and_shown(tmp_path):
    for number in range(20):
        path = tmp_path / "own" / ("cat" if number % 4 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        imsave(path, np.full((8, 8, 3), 10 * number, np.uint8))
    sheet = tmp_path / "sheet.png"
    name = f"images:{tmp_path / 'own'}"
    settings = make_data(name, image_size=4, channels=1)
    told = rows_of(describe.prepare(settings, contact_sheet=str(sheet)))
    dataset = data.load(settings)
    assert told == {
        "data set": name,
        "images": "4x4x1",
        "examples": "15 to train, 1 to validate, 4 to test",
        "numbers": "uint8 from 0 to 190, mean 95, std 57.66",
        "labels": "cat: 15, dog: 5",
        "fingerprint": dataset.fingerprint(),
        "sheet": str(sheet),
    }
    drawn = imread(sheet)
    assert drawn.shape[:2] == (2 * 4 + 2, 10 * 4 + 9 * 2)
    # Each class's images stand together.
    assert isinstance(dataset.train.images, np.ndarray)
    assert isinstance(dataset.train.labels, np.ndarray)
    of_cats = np.sort(dataset.train.images[:, 0, 0, 0][dataset.train.labels == 0])
    cells = 255 * drawn[::6, ::6, 0].ravel()
    np.testing.assert_allclose(np.sort(cells[: len(of_cats)]), of_cats, atol=1e-3)
    again = describe.prepare(settings)
    assert rows_of(again) == {key: told[key] for key in told if key != "sheet"}


def test_large_images_are_shown_small(tmp_path):
    np.savez(tmp_path / "own.npz", train=np.zeros((20, 1000, 300), np.uint8))
    sheet = tmp_path / "sheet.png"
    describe.prepare(make_data(f"arrays:{tmp_path / 'own.npz'}"), contact_sheet=str(sheet))
    assert imread(sheet).shape[:2] == (2 * 125 + 2, 10 * 38 + 9 * 2)


def test_a_table_is_described(tmp_path):
    rows = "".join(f"{number},7,{'xy'[number % 2]}\n" for number in range(20))
    (tmp_path / "own.csv").write_text("a,b,kind\n" + rows)
    settings = make_data(f"table:{tmp_path / 'own.csv'}", label_column="kind")
    told = rows_of(describe.prepare(settings))
    del told["data set"], told["fingerprint"]
    assert told == {
        "vectors": "2",
        "examples": "15 to train, 1 to validate, 4 to test",
        "numbers": "float32 from 0 to 19, mean 8.25, std 4.265",
        "features": "a, b",
        "constant": "b",
        "labels": "x: 10, y: 10",
    }


def test_many_names_are_not_all_told(tmp_path):
    np.savez(tmp_path / "own.npz", train=np.ones((50, 20)), train_labels=np.arange(50))
    told = rows_of(describe.prepare(make_data(f"arrays:{tmp_path / 'own.npz'}")))
    assert told["constant"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more"
    assert told["labels"].endswith("11: 1 and 38 more")


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ("sheet.jpg", "sheet.jpg is not allowed; it must end in .png"),
        ("there.png", "there.png exists; --overwrite replaces it"),
        ("none/sheet.png", "none is no folder"),
        ("sheet.png", "--contact_sheet needs images; 'arrays:{}/own.npy' holds vectors"),
    ],
)
def test_a_contact_sheet_that_cannot_be_drawn_is_refused(tmp_path, sheet, message):
    np.save(tmp_path / "own.npy", np.ones((20, 3)))
    (tmp_path / "there.png").touch()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as error:
        describe.prepare(
            make_data(f"arrays:{tmp_path / 'own.npy'}"), contact_sheet=str(tmp_path / sheet)
        )
    assert message.format(tmp_path) in str(error.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_the_command_wants_a_data_set_or_a_config():
    command = [sys.executable, "-m", "trainer.prepare"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == (
        "error: one of --dataset=NAME and --config=FILE is to be given, and not both\n"
    )


@pytest.mark.slow
def test_the_command_describes_the_data_of_a_config(tmp_path):
    (tmp_path / "own.csv").write_text("a,b\n" + "1,2\n3,4\n" * 10)
    own = [f"--config.data.name=table:{tmp_path / 'own.csv'}", "--config.data.drop_columns=b"]
    command = [sys.executable, "-m", "trainer.prepare", "--config=configs/dense.py", *own]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert rows_of(result.stdout)["features"] == "a"


def test_a_server_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    silence = threading.Event()

    def say_nothing(*_, **__):
        silence.wait()
        raise OSError("broken off")

    monkeypatch.setattr(urllib.request, "urlopen", say_nothing)
    monkeypatch.setattr(tfds_prepare, "_REACH_SECONDS", 0.1)
    message = r"no answer.*trainer\.prepare --dataset=mnist .* --from_idx=FILES.* TFDS_DATA_DIR"
    with pytest.raises(UserError, match=message):
        describe.prepare(make_data("mnist"), str(tmp_path / "data"))
    silence.set()
    assert not (tmp_path / "data").exists()


HOLDER = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print(flush=True)
time.sleep(60)
"""


def test_one_waits_for_another_and_not_for_the_dead(tmp_path, capsys):
    path = tmp_path / f".{TinyColour.name}.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    killing = threading.Timer(1, holder.kill)
    killing.start()
    tfds_prepare.download("tiny_colour", str(tmp_path))
    assert holder.wait() < 0
    holder.stdout.close()
    assert f"waiting for the process that holds {path}" in capsys.readouterr().out
    assert tfds_prepare.is_prepared(tfds_prepare.find("tiny_colour", str(tmp_path)))


def test_a_file_system_that_cannot_lock_is_told(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"cannot be locked \(.*\); prepare tiny_colour in another"):
        tfds_prepare.download("tiny_colour", str(tmp_path))


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=r"cannot be written \(.*\); prepare tiny_colour in another"
    ):
        tfds_prepare.download("tiny_colour", str(tmp_path / "file"))


# Starts once the other is there too, and leaves a mark where it prepares.
RACER = """
import os, sys, time
from pathlib import Path
from tests.tiny_colour import TinyColour
from trainer.data.files import tfds_prepare
folder, marks = map(Path, sys.argv[1:])
original = TinyColour._generate_examples

def marked(self):
    (marks / f"prepared by {os.getpid()}").touch()
    time.sleep(1)
    return original(self)

TinyColour._generate_examples = marked
(marks / f"here {os.getpid()}").touch()
while len(list(marks.glob("here *"))) < 2:
    time.sleep(0.01)
tfds_prepare.download("tiny_colour", str(folder), "array_record")
"""


@pytest.mark.slow
def test_of_two_processes_at_once_one_prepares(tmp_path):
    folder, marks = tmp_path / "data", tmp_path / "marks"
    marks.mkdir()
    command = [sys.executable, "-c", RACER, folder, marks]
    racers = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [racer.communicate()[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert len(list(marks.glob("prepared by *"))) == 1
    assert sum("waiting" in output for output in outputs) == 1
    assert tfds_prepare.is_prepared(tfds_prepare.find("tiny_colour", str(folder)))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason=f"MNIST is not in {SHARED}")
def test_mnist_from_its_files_is_what_tfds_makes_of_it(tmp_path):
    told = describe.prepare(make_data("mnist"), str(tmp_path), from_idx=str(SHARED / "idx"))
    theirs = data.load(make_data("mnist"), folder=str(SHARED / "tfds"))
    assert f"fingerprint  {theirs.fingerprint()}" in told
