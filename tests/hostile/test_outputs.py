"""No name and no link makes a verb write outside of its folder."""

import os

import numpy as np
import pytest
from hypothesis import strategies as st

from tests.hostile.corpus import TEXTS, few_or_many, refused_in_one_line, try_many
from trainer.errors import UserError
from trainer.run.checkpoints import Checkpoints
from trainer.serving import writers
from trainer.storage import paths

PART = TEXTS | st.sampled_from(
    ["..", ".", "a", "a.png", "a.png/b", "link", "~", "C:", "a\\..", "…"]
)
UPWARDS = ["../../a", "../../../secret", "a/../../../b", "/tmp/a", "a\0.png", "..x"]
NAMES = st.lists(PART, min_size=1, max_size=3).map("/".join) | st.sampled_from(UPWARDS)
IMAGES = np.zeros((2, 2, 2, 1), np.float32)


def everything(folder):
    return {path: path.is_dir() or path.read_bytes() for path in sorted(folder.rglob("*"))}


@few_or_many(600)
def test_an_image_of_any_name_stays_in_its_folder(tmp_path, examples):
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    (tmp_path / "secret.png").write_text("before")
    before = everything(tmp_path)

    def meet(files):
        output = inside / "out"
        with refused_in_one_line(), writers.create(str(output)) as write:
            images = np.zeros((len(files), 2, 2, 1), np.float32)
            write({"images": images, "files": np.array(files, object)})
        for path in sorted(output.rglob("*"), reverse=True):
            assert path.is_dir() or path.suffix == ".png"
            path.rmdir() if path.is_dir() else path.unlink()
        if output.exists():
            output.rmdir()
        assert everything(tmp_path) == before

    try_many(examples, st.lists(NAMES, min_size=1, max_size=3), meet)


@pytest.mark.parametrize("suffix", ["", ".npz", ".csv"])
def test_an_output_that_is_a_link_is_replaced_and_not_followed(tmp_path, suffix):
    elsewhere = tmp_path / f"elsewhere{suffix}"
    if not suffix:
        elsewhere.mkdir()
    (elsewhere if suffix else elsewhere / "kept.png").write_text("before")
    before = everything(tmp_path)
    link = tmp_path / f"out{suffix}"
    link.symlink_to(elsewhere)
    paths.check_input_and_output("test", str(link), overwrite=True)
    with writers.create(str(link)) as write:
        write({"images": IMAGES[:, 0, :, 0] if suffix else IMAGES})
    assert not link.is_symlink()
    assert {path: held for path, held in everything(tmp_path).items() if path in before} == before


def test_a_link_inside_an_output_of_images_is_replaced_and_not_followed(tmp_path):
    elsewhere, output = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    (elsewhere / "00000000.png").write_text("before")
    output.mkdir()
    (output / "00000000.png").symlink_to(elsewhere / "00000000.png")
    (output / "linked").symlink_to(elsewhere)
    with writers.create(str(output)) as write:
        write({"images": IMAGES, "files": np.array(["00000000", "linked/00000000"])})
    assert (elsewhere / "00000000.png").read_text() == "before"
    assert not (output / "linked").is_symlink()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_name_that_no_table_can_hold_is_refused(tmp_path, suffix):
    name = os.fsdecode(b"caf\xe9.png")
    with (
        pytest.raises(UserError, match="is not UTF-8, as the text of a table must be"),
        writers.create(str(tmp_path / f"out{suffix}")) as write,
    ):
        write({"codes": np.zeros((1, 2), np.float32), "files": np.array([name])})
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_place_of_an_old_checkpoint_is_removed_and_not_followed(tmp_path):
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    state = {"model/kernel": np.ones(3, np.float32)}
    Checkpoints(folder, "own").save(1, state, validation_loss=None, keep=1)
    (folder / "step-0000000001").rename(elsewhere)
    (folder / "step-0000000001").symlink_to(elsewhere)
    (folder / ".writing-step-0000000002").symlink_to(elsewhere)
    before = everything(elsewhere)
    Checkpoints(folder, "own").save(2, state, validation_loss=None, keep=1)
    assert [path.name for path in folder.iterdir()] == ["step-0000000002"]
    assert everything(elsewhere) == before
