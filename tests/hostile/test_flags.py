"""Whatever stands behind a flag of any command is taken, or refused in one line with status 2."""

import multiprocessing
from concurrent import futures
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.cli.test_cli import COMMANDS
from tests.hostile.corpus import TEXTS, assert_one_line, few_or_many, parse, try_many

ROOT = Path(__file__).parents[2]
LAUNCHERS = ["launch.local", "launch.slurm", "launch.kubernetes", "launch.sweep"]
MANY = 600
RIGHT = {
    "trainer.__main__": [f"--config={ROOT}/configs/dense.py", "--workdir=w"],
    "launch.kubernetes": ["--image=i", "--volume_claim=c"],
}
OF_A_TRAINER = ["--", "--config=c.py", "--workdir=/runs/w"]


@pytest.mark.parametrize("module", [*COMMANDS, *LAUNCHERS])
@few_or_many(MANY)
def test_any_flag_of_a_command_is_taken_or_refused_in_one_line(module, examples):
    spawned = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=spawned) as process:
        names = process.submit(parse, module, None).result()
        flag = st.tuples(st.sampled_from(names), TEXTS).map(lambda drawn: "--{}={}".format(*drawn))
        arguments = st.lists(flag | TEXTS, min_size=1, max_size=3)

        def meet(drawn):
            end = OF_A_TRAINER if module in LAUNCHERS else []
            argv = [*RIGHT.get(module, []), *drawn, *end]
            told, status = process.submit(parse, module, argv).result()
            assert status in (0, 2)
            if status:
                assert_one_line(told)

        try_many(examples, arguments, meet)
