"""What is read from a compiled program and from the document, by small examples."""

import dataclasses

import pytest

from tests.gpu_compile import table
from tests.gpu_compile.compiler import Compiled
from tests.gpu_compile.counts import Loop, count

HLO = """
%inner_body (p: s32[]) -> s32[] {
  %a = f32[8,8]{1,0} custom-call(%x, %y), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"operand_precision":["DEFAULT","DEFAULT"]}}
}
%body (p: s32[]) -> s32[] {
  %w = s32[] while(%p), condition=%c, body=%inner_body, \
backend_config={"known_trip_count":{"n":"7"}}
  %b = f32[8,8]{1,0} custom-call(%x, %y), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"operand_precision":["HIGHEST","HIGHEST"]}}
}
ENTRY %main (p: s32[]) -> s32[] {
  %w = s32[] while(%p), condition=%c, body=%body
}
"""
BY_HOST = """
001: kCopy
009: kWhile
condition:
    002: kKernel  , kernel = wrapped_compare
  body:
    000: kCommandBuffer
        003: kKernel  , kernel = loop_fusion
        004: kKernel  , kernel = gemm_fusion_1
    005: kConvolution
    008: kWhile
condition:
        006: kKernel  , kernel = wrapped_compare
      body:
        007: kGemm
    010: kGemm
"""
IN_GRAPH = """
000: kCommandBuffer
    009: kWhile
condition:
        002: kKernel  , kernel = wrapped_compare
      body:
        003: kKernel  , kernel = loop_fusion
        008: kWhile
condition:
            006: kKernel  , kernel = wrapped_compare
          body:
            007: kGemm
        010: kGemm
"""
ROW = table.Row(
    net="conv, 64",
    execution="xla",
    precision="float32",
    device="A100",
    kernels=44,
    branch_kernels=3,
    loop_kernels=28.0,
    loops="7 x 4",
    products="14 cuDNN",
    launches=29,
    graphs=14,
    host_waits=1,
    tf32=0,
)


def test_launches_of_the_host_are_those_outside_of_graphs():
    counts = count(Compiled(HLO, BY_HOST, ptx=""), may_use_tf32=True)
    assert counts.kernels == 4
    assert counts.loops == (Loop(turns=7, kernels=1),)
    assert (counts.launches, counts.graphs) == (6, 1)
    assert counts.host_waits == 1  # the outer loop, of an unknown number of turns
    assert counts.products == {"cuBLAS": 2, "Triton": 1}


def test_a_loop_in_a_graph_costs_the_host_nothing_a_step():
    counts = count(Compiled(HLO, IN_GRAPH, ptx=""), may_use_tf32=True)
    assert counts.kernels == 2
    assert (counts.launches, counts.graphs, counts.host_waits) == (0, 0, 0)


def test_tf32_is_seen_in_libraries_and_instructions():
    ptx = "\tmma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32\t{%r1}\n"
    compiled = Compiled(HLO, IN_GRAPH, ptx)
    assert count(compiled, may_use_tf32=True).tf32 == 2
    assert count(compiled, may_use_tf32=False).tf32 == 0


def test_the_document_gives_back_the_rows_that_it_was_given(tmp_path):
    case = table.Case("conv", "xla")
    endless = dataclasses.replace(
        ROW, device="H100", loops="unknown x 7", loop_kernels=float("inf"), launches=0, graphs=0
    )
    document = tmp_path / "document.md"
    document.write_text("above\n<!-- gpu_compile -->\nold\n<!-- /gpu_compile -->\nbelow\n")
    refusals = {"t4": "error: out of registers"}
    tables = table.render([table.Measured(case, (ROW, endless), refusals)])
    table.write(tables, document)
    assert table.parse(table.baseline(document)) == {row.name: row for row in (ROW, endless)}
    assert "out of registers" in document.read_text()
    assert document.read_text().startswith("above\n")
    assert document.read_text().endswith("below\n")


@pytest.mark.parametrize(
    "field", ["kernels", "branch_kernels", "loop_kernels", "launches", "host_waits", "tf32"]
)
def test_a_row_that_costs_more_is_named_with_both_values(field):
    before = getattr(ROW, field)
    after = dataclasses.replace(ROW, **{field: before + 5})
    (worse,) = after.worse_than(ROW)
    assert all(part in worse for part in (ROW.name, field, f"{before:g}", f"{before + 5:g}"))
    assert not ROW.worse_than(after)
