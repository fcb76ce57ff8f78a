"""What is read from a compiled program and from the document, by small examples."""

import dataclasses
import math

from tests.gpu_compile import table
from tests.gpu_compile.compiler import Compiled
from tests.gpu_compile.counts import Counts, Loop, count

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
    *("conv, 64", "xla", "float32", "A100", "44 + 3 in branches", "7 x 4", "14 cuDNN"),
    *("29 (14 graphs)", "1", "0"),
)
COSTS = {"kernels": 44, "branch_kernels": 3, "loop_kernels": 28, "launches": 29}
COSTS |= {"host_waits": 1, "tf32": 0}


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


def test_a_row_is_written_with_all_its_costs():
    case, about = table.Case("conv", "xla"), {"batch_size": 64, "execution": "xla"}
    counts = Counts(44, 3, (Loop(7, 4),), {"cuDNN": 14}, 29, 14, 1, 0)
    assert table.make_row(case, about, "a100", counts) == ROW
    assert ROW.costs() == COSTS
    endless = dataclasses.replace(ROW, loops="unknown x 7", launches="one graph a call")
    assert endless.costs() == COSTS | {"loop_kernels": math.inf, "launches": 0}


def test_the_document_gives_back_the_rows_that_it_was_given(tmp_path):
    document = tmp_path / "document.md"
    document.write_text("above\n<!-- gpu_compile -->\nold\n<!-- /gpu_compile -->\nbelow\n")
    refusals = {"t4": "error: out of registers"}
    case = table.Case("conv", "xla")
    table.write(table.render([table.Measured(case, (ROW,), refusals)]), document)
    assert table.parse(table.baseline(document)) == {ROW.name: ROW}
    text = document.read_text()
    assert text.startswith("above\n") and "out of registers" in text and text.endswith("below\n")


def test_a_row_that_costs_more_is_named_with_both_values():
    after = dataclasses.replace(ROW, launches="34")
    assert after.worse_than(ROW) == [f"{ROW.name}: 34 launches, 29 before"]
    assert not ROW.worse_than(after)
