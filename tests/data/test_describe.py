"""A data set is described and shown before a long run, as the run will read it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread, imsave

from trainer import data
from trainer.config import make_data
from trainer.data.describe import prepare

ROOT = Path(__file__).parents[2]


def rows_of(description):
    """The rows of a description by their titles."""
    return {line[:12].strip(): line[13:] for line in description.splitlines()}


def test_a_folder_of_images_is_described_and_shown(tmp_path):
    for number in range(20):
        path = tmp_path / "own" / ("cat" if number % 4 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        imsave(path, np.full((8, 8, 3), 10 * number, np.uint8))
    sheet = tmp_path / "sheet.png"
    name = f"images:{tmp_path / 'own'}"
    settings = make_data(name, image_size=4, channels=1)
    description = rows_of(prepare(settings, contact_sheet=str(sheet)))
    dataset = data.load(settings)
    assert description == {
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
    # The images of a class stand together.
    assert isinstance(dataset.train.images, np.ndarray)
    of_cats = np.sort(dataset.train.images[:, 0, 0, 0][dataset.train.labels == 0])
    cells = 255 * drawn[::6, ::6, 0].ravel()
    np.testing.assert_allclose(np.sort(cells[: len(of_cats)]), of_cats, atol=1e-3)


def test_only_the_first_of_many_names_are_shown(save):
    name = save(train=np.ones((50, 20)), train_labels=np.arange(50))
    description = rows_of(prepare(make_data(name)))
    assert description["constant"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more"
    assert description["labels"].endswith("11: 1 and 38 more")


def test_large_images_are_shown_small(tmp_path, save):
    sheet = tmp_path / "sheet.png"
    settings = make_data(save(train=np.zeros((20, 1000, 300), np.uint8)))
    prepare(settings, contact_sheet=str(sheet))
    assert imread(sheet).shape[:2] == (2 * 125 + 2, 10 * 38 + 9 * 2)


def test_a_table_is_described(tmp_path):
    rows = "".join(f"{number},7,{'xy'[number % 2]}\n" for number in range(20))
    (tmp_path / "own.csv").write_text("a,b,kind\n" + rows)
    settings = make_data(f"table:{tmp_path / 'own.csv'}", label_column="kind")
    description = rows_of(prepare(settings))
    assert description.pop("fingerprint") == data.load(settings).fingerprint()
    del description["data set"]
    assert description == {
        "vectors": "2",
        "examples": "15 to train, 1 to validate, 4 to test",
        "numbers": "float32 from 0 to 19, mean 8.25, std 4.265",
        "features": "a, b",
        "constant": "b",
        "labels": "x: 10, y: 10",
    }


@pytest.mark.parametrize(
    ("sheet", "named"),
    [
        ("sheet.jpg", "must end in .png"),
        ("there.png", "--overwrite"),
        ("none/sheet.png", "none is no folder"),
        ("sheet.png", "holds vectors"),
    ],
)
def test_a_contact_sheet_that_cannot_be_drawn_is_refused(tmp_path, save, refused, sheet, named):
    settings = make_data(save(train=np.ones((20, 3))))
    (tmp_path / "there.png").touch()
    before = sorted(tmp_path.iterdir())
    assert named in refused(prepare, settings, contact_sheet=str(tmp_path / sheet))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--config=dense", "--config.data.name=table:{}", "--config.data.drop_columns=b"], "a"),
        (["--dataset=table:{}"], "a, b"),
        ([], None),
    ],
)
def test_the_command_wants_a_data_set_or_a_config(tmp_path, flags, named):
    (tmp_path / "own.csv").write_text("a,b\n" + "1,2\n3,4\n" * 10)
    flags = [flag.format(tmp_path / "own.csv") for flag in flags]
    command = [sys.executable, "-m", "trainer.prepare", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if named:
        assert rows_of(result.stdout)["features"] == named
    else:
        assert result.returncode == 2
        assert {"--dataset", "--config"} <= set(re.findall(r"--\w+", result.stderr))
