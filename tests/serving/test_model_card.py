"""The card of an export: its code makes the vectors that the trainer makes of a table."""

import runpy

import numpy as np
import pandas as pd
import pytest

from tests.test_api import small
from trainer import train
from trainer.config import load_config
from trainer.run import restore
from trainer.serving import export as exporting
from trainer.serving import model_card, readers
from trainer.serving.export import export


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
    code = (tmp_path / "out" / model_card.README).read_text().split("```python\n")[1]
    (tmp_path / "vectors.py").write_text(code.partition("```")[0])
    vectors_of = runpy.run_path(str(tmp_path / "vectors.py"))["vectors_of"]
    vectors = vectors_of(frame.assign(colour=" " + frame.colour))
    training = readers.training_data(restore.load_model(tmp_path / "run"))
    given = readers.examples(tmp_path / "own.csv", training)
    expected = np.concatenate([block.rows for block in given.blocks(100)])
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="pink"):
        vectors_of(frame.assign(colour="pink"))
    if not has_gaps:
        with pytest.raises(ValueError, match="missing"):
            vectors_of(frame.assign(weight=np.nan))
