"""Whatever stands behind a flag of any command is taken, or refused in one line with status 2."""

import multiprocessing
from concurrent import futures
from pathlib import Path

import pytest
from hypothesis import strategies as st

from configs import dense
from tests.hostile.corpus import (
    TEXTS,
    assert_one_line,
    few_or_many,
    parse,
    refused_in_one_line,
    try_many,
)
from tests.verbs.test_commands import COMMANDS as MODULES
from trainer import data
from trainer.config import flat, make_data

ROOT = Path(__file__).parents[2]
COMMANDS = [name if "." in name else f"{name}.__main__" for name in MODULES]
LAUNCHERS = ["launch.local", "launch.slurm", "launch.kubernetes", "launch.sweep"]
EACH_KIND = ["trainer.__main__", "trainer.prepare", "trainer.encode", *LAUNCHERS[1:3]]
RIGHT = {
    "trainer.__main__": [f"--config={ROOT}/configs/dense.py", "--workdir=w"],
    "launch.kubernetes": ["--image=i", "--volume_claim=c"],
}
OF_A_TRAINER = ["--", "--config=c.py", "--workdir=/runs/w"]
KEYS = ["model", "data", "optimizer", *sorted(flat(dense.get_config().to_dict()))]


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(module, marks=[] if module in EACH_KIND else pytest.mark.faults)
        for module in [*COMMANDS, *LAUNCHERS]
    ],
)
@few_or_many(600)
def test_any_flag_of_a_command_is_taken_or_refused_in_one_line(module, examples):
    spawned = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=spawned) as process:
        names = st.sampled_from(process.submit(parse, module, None).result())
        if module == "trainer.__main__":
            keys = st.sampled_from(KEYS) | st.text(max_size=8)
            names |= keys.map("config.{}".format) | TEXTS
        flag = st.tuples(names, TEXTS).map(lambda drawn: "--{}={}".format(*drawn))
        arguments = st.lists(flag | TEXTS, min_size=1, max_size=3)

        def meet(drawn):
            end = OF_A_TRAINER if module in LAUNCHERS else []
            argv = [*RIGHT.get(module, []), *drawn, *end]
            told, status = process.submit(parse, module, argv).result()
            assert status in (0, 2)
            if status:
                assert_one_line(told)

        try_many(examples, arguments, meet)


@few_or_many(600)
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
