"""python -m docs.configuration: writes configuration.md, the tables of every key of a config."""

import typing
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.config import (
    Augment,
    Averaging,
    Config,
    Data,
    Group,
    Key,
    LossSpikes,
    Optimizer,
    Pretrain,
    Stop,
    defaults_of,
    keys,
    kind_settings,
    kinds,
    source_settings,
)
from trainer.models.settings import ACTIVATIONS

PAGE = Path(__file__).with_suffix(".md")
_INTRODUCTION = """\
# Configuration

Every key of a config, made from the code by `python -m docs.configuration`. A config in `configs/`
begins with the defaults and edits some; `--config.key=value` on the command line edits one more.
"On a resume" says whether a run that is started again may have another value; every other key
must keep its value.
"""
_COLUMNS = ("key", "type", "default", "allowed", "on a resume", "meaning")


def page() -> str:
    """Returns the page in Markdown."""
    return "\n".join([_INTRODUCTION, *_sections()])


def _sections() -> Iterator[str]:
    yield _table("Runs", "", Config)
    yield _table("Optimizer", "optimizer.", Optimizer)
    yield _table("Averaged weights", "averaging.", Averaging)
    yield _table("Loss spikes", "spikes.", LossSpikes)
    yield _table("Early stopping", "stop.", Stop)
    yield _table("Layer-wise pretraining", "pretrain.", Pretrain)
    yield _table("Augmentation of training images", "augment.", Augment)
    yield _table("Data", "data.", Data)
    for source, group in source_settings().items():
        if len(keys(group)) > len(keys(Data)):
            yield _table(f"Data of `{source}`", "data.", group, left_out=keys(Data))
    for kind in kinds():
        yield _table(f"Model of kind `{kind}`", "model.", kind_settings(kind), name=kind)
    yield f"## Activations\n\nThose of `keras.activations`: {_names(ACTIVATIONS)}.\n"


def _table(
    title: str, prefix: str, group: type[Group], left_out: Container[str] = (), **values: Any
) -> str:
    shown = defaults_of(group) | values
    rows = [
        (f"`{prefix}{name}`", _type(kind), f"`{shown[name]!r}`", *_key(key))
        for name, (kind, key) in keys(group).items()
        if name not in left_out
    ]
    lines = [_COLUMNS, ("---",) * len(_COLUMNS), *rows]
    return f"## {title}\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _type(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"tuple of {typing.get_args(kind)[0].__name__}"
    return kind.__name__


def _key(key: Key) -> tuple[str, str, str]:
    allowed = _names(key.choices) or key.range_in_words()
    if key.choices == ACTIVATIONS:
        allowed = "an [activation](#activations)"
    return allowed, "may change" if key.may_change else "", key.comment


def _names(choices: Sequence[Any]) -> str:
    return ", ".join(f"`{choice!r}`" for choice in choices)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
