"""XLA's GPU compiler takes every kind's training loop, and none costs more than it did."""

import pytest

from tests.gpu_compile import table
from tests.gpu_compile.compiler import missing_tool

MISSING = missing_tool()
pytestmark = [
    pytest.mark.gpu_compile,
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory, pytestconfig):
    cases = table.measure(tmp_path_factory.mktemp("gpu_compile"))
    pytestconfig.pluginmanager.getplugin("terminalreporter").write(f"\n{table.render(cases)}\n")
    return cases


def test_every_device_takes_every_net(measured):
    refused = [f"{m.case}, {device}: {why}" for m in measured for device, why in m.refusals.items()]
    assert not refused


def test_no_row_is_missing_from_the_document(measured):
    names = {row.name for row in table.shown_rows(measured)}
    assert names == table.parse(table.baseline()).keys()


def test_no_step_costs_more_than_the_document_says(measured):
    before = table.parse(table.baseline())
    rows = [row for row in table.shown_rows(measured) if row.name in before]
    assert not [worse for row in rows for worse in row.worse_than(before[row.name])]


def test_float32_is_multiplied_in_float32(measured):
    rows = [row for case in measured for row in case.rows if row.precision == "float32"]
    assert not [row.name for row in rows if row.costs()["tf32"]]


def test_no_step_holds_a_loop_of_single_updates(measured):
    rows = [row for case in measured for row in case.rows]
    costly = [row for row in rows if 1000 < row.costs()["loop_kernels"] < 1e9]
    assert not [f"{row.name}: {row.loops}" for row in costly]
