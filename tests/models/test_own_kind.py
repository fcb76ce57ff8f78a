"""A kind may be a package outside the project."""

import pytest

from trainer import models
from trainer.config import defaults, kind_settings, parse_model
from trainer.errors import UserError


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lab_of_somebody" / "half").mkdir(parents=True)
    (tmp_path / "lab_of_somebody" / "half" / "__init__.py").write_text("""
import dataclasses

from trainer.config import key
from trainer.models import dense


@dataclasses.dataclass(frozen=True)
class Settings(dense.Settings):
    share: float = key(0.5, "Share of the penalty.", at_least=0)
""")
    (tmp_path / "lab_of_somebody" / "half" / "model.py").write_text("""
from trainer.models.dense import model


class Model(model.Model):
    pass
""")
    return "lab_of_somebody.half"


def test_a_package_of_ones_own_is_a_kind(own):
    config = defaults(own)
    assert config.model.share == 0.5
    model = models.create((6,), parse_model(config.model.to_dict() | {"code_size": 2}))
    assert type(model).__module__ == f"{own}.model"
    with pytest.raises(UserError, match=r"share=-1"):
        parse_model(config.model.to_dict() | {"share": -1.0})


@pytest.mark.parametrize("name", ["lab_of_nobody.kind", "trainer.models", "os.path", ".", "..a", 5])
def test_what_is_no_kind_is_refused_in_one_line(name):
    with pytest.raises(UserError, match=r"model\.name="):
        kind_settings(name)
