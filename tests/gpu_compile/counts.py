"""The costs of a step of a compiled training loop: kernels, products, launches, host waits."""

import dataclasses
import re
from collections.abc import Iterator

from tests.gpu_compile.compiler import Compiled

_THUNK = re.compile(r"^( *)\d+: (k\w+)")
_PART = re.compile(r"^ *(\w+):\s*$")  # of a loop or a conditional
_CONTAINERS = ("kCommandBuffer", "kConditional", "kSequential", "kWhile")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{\s*$")
_CALLED = re.compile(r"(?:body|to_apply|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_TF32_INSTRUCTION = re.compile(r"^\s*w?g?mma\.\S*tf32", re.MULTILINE)
_HIGHEST = re.compile(r'operand_precision"?[=:][{\[]"?highest"?,"?highest"?[}\]]', re.IGNORECASE)
_TRITON_PRODUCT = re.compile(r"kernel = gemm_fusion")
_LIBRARIES = {
    "cuBLAS": re.compile(r'custom_call_target="__cublas'),
    "cuDNN": re.compile(r'custom_call_target="__cudnn'),
}


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop inside the step."""

    turns: int | None  # None: not known before it runs
    kernels: int  # a turn

    @property
    def cost(self) -> float:
        """Returns the kernels of all turns; infinity where their number is not known."""
        return float("inf") if self.turns is None else float(self.turns * self.kernels)


@dataclasses.dataclass(frozen=True)
class Counts:
    """The costs of one step; those of branches and of inner loops' turns count once each.

    A CUDA graph that holds the whole loop is one launch a call: none a step.
    """

    kernels: int  # outside of branches and inner loops; copies and memsets are among them
    branch_kernels: int
    loops: tuple[Loop, ...]
    products: dict[str, int]  # by library
    launches: int  # a CUDA graph is one
    graphs: int
    host_waits: int  # for a predicate that a kernel has computed
    tf32: int  # instructions and library calls that multiply float32 in TF32


@dataclasses.dataclass(eq=False)
class _Thunk:
    """A launch, or what holds several: a loop, a conditional, a CUDA graph."""

    kind: str
    in_condition: bool = False  # of the loop that it is part of
    children: "list[_Thunk]" = dataclasses.field(default_factory=list)

    def below(self, *, outside_of: tuple[str, ...] = ()) -> "Iterator[_Thunk]":
        """Yields all thunks below this one, but none below a thunk of the kinds `outside_of`."""
        for child in self.children:
            yield child
            if child.kind not in outside_of:
                yield from child.below(outside_of=outside_of)

    def count_kernels(self, *, outside_of: tuple[str, ...]) -> int:
        """Counts the kernels below this one, without those of a loop's condition."""
        thunks = self.below(outside_of=outside_of)
        return sum(t.kind not in _CONTAINERS and not t.in_condition for t in thunks)


def count(compiled: Compiled, *, may_use_tf32: bool) -> Counts:
    """Counts what a step of the outermost loop costs.

    `may_use_tf32` says that the products are of float32 and the device has TF32.
    """
    root = _parse_thunks(compiled.thunks)
    step = next(thunk for thunk in root.below() if thunk.kind == "kWhile")
    turns = _trip_counts(compiled.hlo)
    loops = [thunk for thunk in step.below() if thunk.kind == "kWhile"]
    assert len(turns) == 1 + len(loops), "the launches have other loops than the HLO"

    # What the host launches and waits for is what no CUDA graph holds.
    by_host = list(step.below(outside_of=("kCommandBuffer",)))
    if step not in root.below(outside_of=("kCommandBuffer",)):
        by_host = []
    graphs = sum(thunk.kind == "kCommandBuffer" for thunk in by_host)
    singles = sum(thunk.kind not in _CONTAINERS for thunk in by_host)
    dynamic = [loop for loop, n in zip([step, *loops], turns, strict=True) if n is None]
    waits = sum(loop is step or loop in by_host for loop in dynamic) if by_host else 0
    waits += sum(thunk.kind == "kConditional" for thunk in by_host)

    conditionals = step.below(outside_of=("kConditional", "kWhile"))
    lines = compiled.hlo.splitlines()
    libraries = {
        name: sum(bool(pattern.search(line)) for line in lines if " = " in line)
        for name, pattern in _LIBRARIES.items()
    }
    libraries["Triton"] = len(_TRITON_PRODUCT.findall(compiled.thunks))
    return Counts(
        kernels=step.count_kernels(outside_of=("kConditional", "kWhile")),
        branch_kernels=sum(
            thunk.count_kernels(outside_of=("kWhile",))
            for thunk in conditionals
            if thunk.kind == "kConditional"
        ),
        loops=tuple(
            Loop(n, loop.count_kernels(outside_of=("kWhile",)))
            for n, loop in zip(turns[1:], loops, strict=True)
        ),
        products={name: number for name, number in libraries.items() if number},
        launches=singles + graphs,
        graphs=graphs,
        host_waits=waits,
        tf32=_count_tf32(lines, compiled.ptx) if may_use_tf32 else 0,
    )


def _count_tf32(lines: list[str], ptx: str) -> int:
    calls = [line for line in lines if any(call.search(line) for call in _LIBRARIES.values())]
    return len(_TF32_INSTRUCTION.findall(ptx)) + sum(not _HIGHEST.search(line) for line in calls)


def _parse_thunks(text: str) -> _Thunk:
    """Builds the tree that the indentation of XLA's text of a thunk sequence shows."""
    root = _Thunk("kSequential")
    open_thunks = [(-1, root)]
    part = ""
    for line in text.splitlines():
        label, found = _PART.match(line), _THUNK.match(line)
        if label:
            part = label[1]
        if not found:
            continue
        indentation = len(found[1])
        while open_thunks[-1][0] >= indentation:
            open_thunks.pop()
        thunk = _Thunk(found[2], in_condition=part == "condition")
        open_thunks[-1][1].children.append(thunk)
        open_thunks.append((indentation, thunk))
        if found[2] == "kWhile":
            part = ""
    return root


def _trip_counts(hlo: str) -> list[int | None]:
    """Returns the known numbers of turns of all loops, an outer one before those inside it."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    entry = ""
    for line in hlo.splitlines():
        if found := _COMPUTATION.match(line):
            lines = computations[found[2]] = []
            entry = found[2] if found[1] else entry
        else:
            lines.append(line)

    def walk(name: str) -> Iterator[int | None]:
        for line in computations[name]:
            if re.search(r" (while|conditional|call)\(", line):
                if " while(" in line:
                    known = _TRIP_COUNT.search(line)
                    yield int(known[1]) if known else None
                branches = ",".join(_BRANCHES.findall(line)).replace("%", "").split(",")
                for called in [*_CALLED.findall(line), *map(str.strip, filter(None, branches))]:
                    yield from walk(called)

    return list(walk(entry))
