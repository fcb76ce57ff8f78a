"""The card of an export: its code makes the inputs that the trainer makes of tables and images."""

import ast
import runpy
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.test_api import small
from trainer import train
from trainer.config import load_config
from trainer.run import restore
from trainer.serving import export as exporting
from trainer.serving import model_card, readers
from trainer.serving.export import export
from trainer.serving.options import StreamOptions


def names_of_the_first_code(folder):
    """What the first code of the card in `out` defines, run there."""
    code = (folder / "out" / model_card.README).read_text().split("```python\n")[1]
    (folder / "code.py").write_text(code.partition("```")[0])
    return runpy.run_path(str(folder / "code.py"))


@pytest.mark.parametrize("has_gaps", [False, True])
def test_its_code_makes_the_vectors_of_a_table(has_gaps, tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "weight": generator.normal(size=40),
            "colour": ["red", "green"] * 20,
            "new": [True, False, False, True] * 10,
            "size": np.arange(40),
        }
    )
    if has_gaps:
        frame.loc[:9, "weight"] = np.nan
        frame.loc[[3, 12], "colour"] = None
    frame.to_csv(tmp_path / "own.csv", index=False)
    config = small(load_config("dense"))
    config.data.name = f"table:{tmp_path / 'own.csv'}"
    config.data.update({"categorical": "onehot", "standardise": True})
    config.data.impute = "mean" if has_gaps else config.data.impute
    config.model.update({"code_size": 2, "output_activation": "linear"})
    train(config, tmp_path / "run")
    monkeypatch.setattr(exporting, "compare", lambda *_: {"keras": {"encode": 0.0}})
    export(str(tmp_path / "run"), str(tmp_path / "out"), formats=["keras"])

    monkeypatch.chdir(tmp_path / "out")
    vectors_of = names_of_the_first_code(tmp_path)["vectors_of"]
    vectors = vectors_of(frame.assign(colour=" " + frame.colour))
    training = readers.preprocessing_of(restore.load_model(tmp_path / "run"))
    given = readers.examples(tmp_path / "own.csv", training)
    expected = np.concatenate([block.rows for block in given.blocks(100)])
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="pink"):
        vectors_of(frame.assign(colour="pink"))
    if not has_gaps:
        with pytest.raises(ValueError, match="missing"):
            vectors_of(frame.assign(weight=np.nan))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_its_code_makes_the_images_of_files(dtype, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 4), np.uint8)
    folder = tmp_path / "own"
    folder.mkdir()
    for number in range(20):
        Image.fromarray(np.roll(pixels, number, axis=1)).save(folder / f"{number:02d}.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    # Large enough that Pillow decodes it at a fraction of its size.
    Image.fromarray(pixels[..., :3]).save(folder / "a.jpg", exif=turned)
    config = small(load_config("dense"))
    config.data.name = f"images:{folder}"
    config.data.update({"image_size": 8, "channels": 3, "fit": "crop", "background": "red"})
    train(config, tmp_path / "run")
    monkeypatch.setattr(exporting, "compare", lambda *_: {"keras": {"encode": 0.0}})
    export(str(tmp_path / "run"), str(tmp_path / "out"), formats=["keras"], images=dtype)

    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.syspath_prepend(tmp_path / "out")
    monkeypatch.delitem(sys.modules, "decoder", raising=False)
    tree = ast.parse((tmp_path / "out" / "decoder.py").read_text())
    nodes = list(ast.walk(tree))
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {n.name for node in nodes if isinstance(node, ast.Import) for n in node.names}
    own = {"contextlib", "dataclasses", "math", "pathlib"}
    assert imported == own | {"numpy", "PIL", "pillow_heif"}
    training = readers.preprocessing_of(restore.load_model(tmp_path / "run"))
    for name in ("a.jpg", "03.png"):
        shutil.copy(folder / name, "photo.jpg")
        images = names_of_the_first_code(tmp_path)["images"]
        (block,) = readers.examples(folder / name, training, StreamOptions(resize=True)).blocks(1)
        expected = block.rows if dtype == "uint8" else block.rows / np.float32(255)
        assert images.dtype == dtype
        np.testing.assert_array_equal(images, expected)
    (tmp_path / "out" / "photo.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"photo\.jpg cannot be read: cannot identify"):
        names_of_the_first_code(tmp_path)
