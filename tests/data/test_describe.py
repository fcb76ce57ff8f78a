"""A data set is described and shown before a long run, as the run will read it."""

import re

import numpy as np
import pytest
from matplotlib.image import imread, imsave

from trainer import data
from trainer.config import make_data
from trainer.data.describe import prepare


def rows_of(description):
    """The rows of a description by their titles."""
    return {line[:12].strip(): line[13:] for line in description.splitlines()}


def test_a_folder_of_images_is_described_and_shown(tmp_path):
    for number in range(20):
        path = tmp_path / "own" / ("cat" if number % 4 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        imsave(path, np.full((8, 8, 3), 10 * number, np.uint8))
    name, sheet = f"images:{tmp_path / 'own'}", tmp_path / "sheet.png"
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


def test_large_images_are_shown_small(tmp_path, save):
    sheet = tmp_path / "sheet.png"
    settings = make_data(save(train=np.zeros((20, 1000, 300), np.uint8)))
    prepare(settings, contact_sheet=str(sheet))
    assert imread(sheet).shape[:2] == (2 * 125 + 2, 10 * 38 + 9 * 2)


def test_a_table_is_described(tmp_path):
    rows = "".join(f"{number},7,{'xy'[number % 2]}\n" for number in range(20))
    (tmp_path / "own.csv").write_text("a,b,kind\n" + rows)
    settings = make_data(f"table:{tmp_path / 'own.csv'}", label_column="kind")
    assert rows_of(prepare(settings)) == {
        "data set": settings.name,
        "vectors": "2",
        "examples": "15 to train, 1 to validate, 4 to test",
        "numbers": "float32 from 0 to 19, mean 8.25, std 4.265",
        "features": "a, b",
        "a": "numbers from 0 to 19, mean 10.47, std 5.875",
        "b": "1 different from 7 to 7, mean 7, std 0",
        "constant": "b",
        "labels": "x: 10, y: 10",
        "fingerprint": data.load(settings).fingerprint(),
    }


@pytest.mark.parametrize("placement", ["host", "records"])
@pytest.mark.parametrize("standardise", [False, True])
def test_a_table_is_described_alike_wherever_and_however_it_is_held(
    tmp_path, placement, standardise
):
    rows = "".join(f"{n % 3 * 5},{n % 2},{n / 7},{n % 30},{n * 1e6}\n" for n in range(200))
    (tmp_path / "own.csv").write_text("region,sex,share,month,income\n" + rows)
    settings = make_data(
        f"table:{tmp_path / 'own.csv'}", placement=placement, standardise=standardise
    )
    description = prepare(settings)
    found = rows_of(description)
    assert found["categories"] == "likely, yet numbers: region (3 different)"
    assert re.match(r"3 different from 0 to 10, mean 4\.\d+, std 4\.\d+$", found["region"])
    assert re.match(
        r"numbers from 0 to 1\.9\de\+08, mean .*e\+0\d, std 5\.\d+e\+07$", found["income"]
    )
    assert ("data.standardise=true" in description) == (not standardise)


def test_only_the_first_of_many_names_are_shown(save):
    name = save(train=np.ones((50, 20)), train_labels=np.arange(50))
    description = rows_of(prepare(make_data(name)))
    assert description["constant"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more"
    assert description["labels"].endswith("11: 1 and 38 more")
    assert description["numbers"] == "float32 from 1 to 1, mean 1, std 0"


def test_a_contact_sheet_that_cannot_be_drawn_is_refused(tmp_path, save, refused):
    settings = make_data(save(train=np.ones((20, 3))))
    for sheet, named in (
        ("sheet.jpg", "must end in .png"),
        ("none/sheet.png", "none is not a folder"),
        ("sheet.png", "holds vectors"),
    ):
        assert named in refused(prepare, settings, contact_sheet=str(tmp_path / sheet))
    assert [path.name for path in tmp_path.iterdir()] == ["own.npz"]
