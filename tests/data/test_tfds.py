"""Data sets of TFDS are prepared once, in memory or in files the same, and never read in part."""

import errno
import fcntl
import functools
import gzip
import hashlib
import http.server
import os
import shutil
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow_datasets.image_classification import mnist

from tests.data.conftest import sizes_of, splits_of
from tests.runs import assert_same_bits
from tests.tiny_colour import TinyColour
from trainer import data
from trainer.config import make_data
from trainer.data.dataset import Records
from trainer.data.describe import prepare
from trainer.data.files import idx, tfds_prepare
from trainer.training.train import train

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
COUNTS = {"train": 40, "t10k": 10}
COLOUR = {"image_size": 6, "validation_fraction": 0.25}
IN_FILES: list[dict[str, Any]] = [{"placement": "records"}, {"memory_gib": 1e-6}]


def idx_file(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


TINY_MNIST = {}  # files like MNIST's, of noise, by their names
for split, count in COUNTS.items():
    noise = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
    TINY_MNIST[f"{split}-images-idx3-ubyte"] = idx_file(noise)
    TINY_MNIST[f"{split}-labels-idx1-ubyte"] = idx_file(noise[:, 0, 0] % 10)
ORIGINALS = {
    name: idx.Original(len(content), hashlib.sha256(content).hexdigest())
    for name, content in TINY_MNIST.items()
}


@pytest.fixture
def files(tmp_path):
    """The folder of the four files, two of them gzipped."""
    for name, content in TINY_MNIST.items():
        path = tmp_path / "files" / (f"{name}.gz" if "images" in name else name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(content) if "images" in name else content)
    return path.parent


@pytest.fixture
def in_array_records(prepared, monkeypatch):
    """Has TFDS find the tiny data set in files that are read by index."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared["array_record"]))


@pytest.fixture
def of_tiny_mnist(monkeypatch):
    """Has the trainer and TFDS expect the tiny files in place of MNIST's."""
    monkeypatch.setattr(idx, "read", functools.partial(idx.read, originals=ORIGINALS))
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", COUNTS["train"])
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", COUNTS["t10k"])


def test_the_four_files_of_mnist_are_read_gzipped_or_not_and_refused_if_wrong(files, refused):
    assert idx.read(files, ORIGINALS) == TINY_MNIST
    packed, plain = files / "train-images-idx3-ubyte.gz", files / "t10k-labels-idx1-ubyte"
    images, labels = packed.read_bytes(), plain.read_bytes()
    for path, damaged, named in (
        (plain, labels[:-1], "17 bytes, unpacked; it must hold 18"),
        (plain, labels + b"1", "more bytes, unpacked; it must hold 18"),
        (plain, labels[:-1] + b"\xff", "SHA-256"),
        (plain, labels, ""),
        (packed, images[:-20], "31,376 bytes"),
        (packed, b"<html>", "Not a gzipped file"),
        (packed, images[:99] + bytes(99) + images[198:], "cannot be read"),
    ):
        path.write_bytes(damaged)
        if named:
            line = refused(idx.read, files, ORIGINALS)
            assert named in line
            assert str(path) in line
    packed.unlink()
    assert "train-images-idx3-ubyte nor" in refused(idx.read, files, ORIGINALS)


@pytest.mark.usefixtures("of_tiny_mnist")
@pytest.mark.parametrize("placement", ["auto", "records"])
def test_mnist_is_prepared_from_its_files_once_and_never_in_part(
    files, tmp_path, refused, monkeypatch, placement
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "data"
    settings = make_data("mnist", placement=placement)
    with monkeypatch.context() as patch:
        patch.setattr(mnist, "_extract_mnist_labels", full)
        assert "No space left" in refused(prepare, settings, str(folder), from_idx=str(files))
    assert not list(folder.glob("mnist/*"))

    description = prepare(settings, str(folder), from_idx=str(files))
    rows = {line[:12].strip(): line[13:] for line in description.splitlines()}
    assert rows["data set"] == "mnist 3.0.1, prepared"
    assert rows["splits"] == "train 40, test 10"
    assert rows["images"] == "28x28x1"
    assert rows["to use it"] == f"TFDS_DATA_DIR={folder}"
    assert sorted(path.name for path in folder.iterdir()) == [".mnist.lock", "mnist"]
    dataset = data.load(settings, folder=str(folder))
    assert rows["fingerprint"] == dataset.fingerprint()
    images, labels = dataset.test.read(slice(None))
    expected = np.frombuffer(TINY_MNIST["t10k-images-idx3-ubyte"][16:], np.uint8)
    stored = {image.tobytes() for image in expected.reshape(10, 28, 28)}
    assert {image.tobytes() for image in images} == stored
    np.testing.assert_array_equal(labels, images[:, 0, 0, 0] % 10)

    # Again, as in a folder that nothing may be written to: neither files nor lock are needed.
    (folder / ".mnist.lock").unlink()
    again = prepare(settings, str(folder), from_idx="none")
    assert again == description.replace(", prepared\n", ", was there already\n")
    assert [path.name for path in folder.iterdir()] == ["mnist"]


def test_a_part_of_a_data_set_is_refused(tmp_path, refused):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    for text in (None, '{"name": "mn'):
        if text:
            (folder / "dataset_info.json").write_text(text)
        line = refused(tfds_prepare.find, "mnist", str(tmp_path))
        assert "dataset_info.json" in line
        assert "prepare" in line


def test_what_cannot_be_prepared_is_refused_at_once(tmp_path, refused):
    for name, flags, named in (
        ("fashion_mnist", {"from_idx": "files"}, "from_idx='files'"),
        ("ag_news_subset", {}, "ag_news_subset holds no images"),
    ):
        assert named in refused(prepare, make_data(name), str(tmp_path / "data"), **flags)
        assert not (tmp_path / "data").exists()


def test_images_of_many_sizes_are_resized_and_a_test_split_is_cut(
    prepared, load, refused, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared["tfrecord"]))
    colour = load("tiny_colour", **COLOUR)
    assert colour.image_shape == (6, 6, 3)
    assert sizes_of(colour) == [12, 4, 4]
    for split in splits_of(colour):
        np.testing.assert_array_equal(split.images[:, 0, 0, 0], 10 * split.labels)

    assert "set data.image_size" in refused(load, "tiny_colour")
    for settings in IN_FILES:  # TFRecord files cannot be read by index
        line = refused(load, "tiny_colour", **COLOUR, **settings)
        assert "--dataset=tiny_colour --records" in line


@pytest.mark.parametrize("settings", IN_FILES)
@pytest.mark.usefixtures("in_array_records")
def test_a_set_larger_than_the_memory_stays_in_its_files_and_is_the_same(load, refused, settings):
    memory, files = load("tiny_colour", **COLOUR), load("tiny_colour", **COLOUR, **settings)
    assert isinstance(memory.train.images, np.ndarray)
    assert isinstance(files.train.images, Records)
    assert files.fingerprint() == memory.fingerprint()
    indices = np.array([[3, 1], [11, 3]])
    np.testing.assert_array_equal(files.train.images[indices], memory.train.images[indices])
    for name in ("train", "validation", "test"):
        ours, theirs = getattr(files, name), getattr(memory, name)
        assert ours.images.shape == theirs.images.shape
        for read, expected in zip(
            *(split.read(split.evenly_spaced(3)) for split in (ours, theirs)), strict=True
        ):
            np.testing.assert_array_equal(read, expected)
    line = refused(load, "tiny_colour", **COLOUR, **settings, binarise=True)
    assert "'tiny_colour' stays in its files" in line


@pytest.mark.usefixtures("in_array_records")
def test_training_from_files_is_the_same_bits(digits_config, tmp_path):
    digits_config.data.update({"name": "tiny_colour", **COLOUR})
    digits_config.update({"batch_size": 4, "num_epochs": 2.0, "figures": False})
    for placement in ("device", "records"):
        digits_config.data.placement = placement
        train(digits_config, str(tmp_path / placement))
    assert_same_bits(tmp_path / "device", tmp_path / "records")


def test_a_server_that_is_out_of_reach_is_not_waited_for(tmp_path, refused, monkeypatch):
    silence = threading.Event()

    def say_nothing(*_, **__):
        silence.wait()
        raise OSError("broken off")

    def refuse(request, **_):
        raise OSError(f"{request.full_url}: no network")

    monkeypatch.setattr(tfds_prepare, "_TIMEOUT_SECONDS", 0.1)
    for answer, named in ((refuse, "no network"), (say_nothing, "no answer")):
        monkeypatch.setattr(urllib.request, "urlopen", answer)
        line = refused(prepare, make_data("mnist"), str(tmp_path / "data"))
        for text in (named, "trainer.prepare --dataset=mnist", "--from_idx=FILES"):
            assert text in line
    silence.set()
    assert not (tmp_path / "data").exists()


class StallingServer(http.server.BaseHTTPRequestHandler):
    """Answers, and sends a part of a file and no more."""

    stalled = threading.Event()

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(bytes(10))
        self.wfile.flush()
        self.stalled.wait(60)

    def log_message(self, *_):
        pass


def test_a_download_that_stalls_ends_in_one_line(tmp_path, refused, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StallingServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(mnist.MNIST, "URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(tfds_prepare, "_reach", lambda _: None)  # of the original server
    monkeypatch.setattr(tfds_prepare, "_STALL_SECONDS", 0.5)
    line = refused(prepare, make_data("mnist"), str(tmp_path / "data"))
    assert "mnist/3.0.1 cannot be prepared" in line
    assert "Read timed out" in line
    StallingServer.stalled.set()
    server.shutdown()
    server.server_close()
    assert not list((tmp_path / "data").glob("mnist/*"))


def test_a_process_waits_for_another_and_does_not_prepare_again(
    tmp_path, prepared, hold_lock, monkeypatch, capsys
):
    def prepare_again(*_, **__):
        raise AssertionError("another process has prepared the data set")

    name = TinyColour.name
    lock = tmp_path / f".{name}.lock"
    hold_lock(lock, lambda: shutil.copytree(prepared["tfrecord"] / name, tmp_path / name))
    monkeypatch.setattr(TinyColour, "download_and_prepare", prepare_again)
    tfds_prepare.download(name, str(tmp_path))
    assert str(lock) in capsys.readouterr().out
    assert tfds_prepare.is_prepared(tfds_prepare.find(name, str(tmp_path)))


def test_a_folder_that_cannot_be_locked_is_refused(tmp_path, refused, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    line = refused(tfds_prepare.download, "tiny_colour", str(tmp_path))
    assert "cannot be locked" in line
    assert "prepare tiny_colour in another folder" in line


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason=f"MNIST is not in {SHARED}")
def test_mnist_from_its_files_is_what_tfds_makes_of_it(tmp_path):
    settings = make_data("mnist")
    description = prepare(settings, str(tmp_path), from_idx=str(SHARED / "idx"))
    theirs = data.load(settings, folder=str(SHARED / "tfds"))
    assert f"fingerprint  {theirs.fingerprint()}" in description
