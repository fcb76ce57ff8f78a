"""Small faults of a Python file, derived from its syntax tree and chosen by a digest.

No fault is bound to a line number: statements that two versions of a file share give both the same
faults, in the same order of choice.
"""

import ast
import copy
import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_MAX_CONSTANT = 64  # one more or less of a larger one is a matter of tuning
_COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
}  # fmt: skip
_NAMES = {
    "reduce_mean": "reduce_sum", "reduce_sum": "reduce_mean", "mean": "sum", "min": "max",
    "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any",
    "cos": "sin", "sin": "cos", "log1p": "log", "square": "abs", "exp": "expm1", "add": "subtract",
    "reduce_logsumexp": "reduce_max", "isfinite": "isnan", "isnan": "isfinite",
}  # fmt: skip
_MESSAGES = ("print", "cast", "writing")  # calls whose arguments are for people or type checkers
_PATHS = ("path", "folder", "root", "workdir", "tmp", "_run", "aside")  # / joins these


@dataclass(frozen=True)
class Fault:
    """One small change of a file."""

    target: str  # what the file is called in tests.mutation.targets, wherever it lies
    path: str
    operator: str
    statement: str  # the statement it is in, as the syntax tree prints it
    ordinal: int  # of several alike
    text: str  # of the whole file, with the fault

    @property
    def key(self) -> str:
        """Names the fault in every version of the file that has its statement."""
        parts = (self.target, self.operator, self.statement, str(self.ordinal))
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=6).hexdigest()

    def diff(self, original: str) -> str:
        """Returns the change as a unified diff with one line of context."""
        before, after = original.splitlines(True), self.text.splitlines(True)
        return "".join(difflib.unified_diff(before, after, self.path, self.path, n=1))


def choose(
    target: str, path: str, text: str, count: int, roots: tuple[str, ...] = ()
) -> list[Fault]:
    """Chooses up to `count` faults, the operators in turn and no statement twice.

    `roots` name functions: faults are then planted in these alone, and in the functions and
    constants of the same file that they use.
    """
    tree = ast.parse(text)
    turns: Counter[str] = Counter()
    ranked = []
    for fault in sorted(derive(target, path, text, roots), key=lambda fault: fault.key):
        ranked.append((turns[fault.operator], fault.key, fault))
        turns[fault.operator] += 1
    chosen: dict[str, Fault] = {}
    for _, _, fault in sorted(ranked, key=lambda entry: entry[:2]):
        if len(chosen) == count:
            break
        if fault.statement not in chosen and _differs(fault.text, tree):
            chosen[fault.statement] = fault
    return list(chosen.values())


def derive(target: str, path: str, text: str, roots: tuple[str, ...] = ()) -> list[Fault]:
    """Derives every fault of a file; a few may not parse, or say the same as before."""
    tree = ast.parse(text)
    source = text.encode()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    seen: Counter[tuple[str, str]] = Counter()
    faults = []
    for statement, function in _statements(tree, roots):
        head = ast.unparse(_without_body(statement))
        for operator, old, new in _changes(statement, function):
            begin = starts[old.lineno - 1] + old.col_offset
            end = starts[old.end_lineno - 1] + old.end_col_offset
            written = new if isinstance(new, str) else f"({ast.unparse(new)})"
            changed = (source[:begin] + written.encode() + source[end:]).decode()
            faults.append(Fault(target, path, operator, head, seen[operator, head], changed))
            seen[operator, head] += 1
    return faults


def _differs(text: str, tree: ast.Module) -> bool:
    try:
        return ast.dump(ast.parse(text)) != ast.dump(tree)
    except SyntaxError:
        return False


def _statements(
    tree: ast.Module, roots: tuple[str, ...]
) -> Iterator[tuple[ast.stmt, ast.FunctionDef | None]]:
    """Yields the statements that compute something, with the function that each is in."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    scopes: list[ast.AST] = [tree]
    if roots:
        wanted, scopes = set(roots), []
        named: list[tuple[str, ast.stmt]] = [(function.name, function) for function in functions]
        named += [
            (target.id, node)
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        ]
        while new := [node for name, node in named if name in wanted and node not in scopes]:
            scopes += new
            for node in (node for scope in new for node in ast.walk(scope)):
                wanted |= {getattr(node, "id", ""), getattr(node, "attr", "")}
    owner = {id(node): function for function in functions for node in ast.walk(function)}
    statements = {
        id(node): node
        for scope in scopes
        for node in ast.walk(scope)
        if isinstance(node, ast.stmt) and not _is_passive(node)
    }
    for key, node in statements.items():
        yield node, owner.get(key)


def _is_passive(statement: ast.stmt) -> bool:
    """Whether a statement computes nothing: an import, a docstring, a definition, a message."""
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
        return True
    if isinstance(statement, ast.Raise | ast.Assert | ast.Global | ast.Nonlocal):
        return True
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _without_body(statement: ast.stmt) -> ast.stmt:
    if not hasattr(statement, "body"):
        return statement
    head = copy.copy(statement)
    for field in ("body", "orelse", "finalbody", "handlers"):
        if getattr(head, field, None):
            setattr(head, field, [ast.Pass()] if field == "body" else [])
    if isinstance(head, ast.Try):
        head.finalbody = [ast.Pass()]
    return head


def _changes(
    statement: ast.stmt, function: ast.FunctionDef | None
) -> Iterator[tuple[str, Any, ast.AST | str]]:
    """Yields an operator's name, the node to replace, and what replaces it."""
    yield from _changes_of_statement(statement, function)
    for node in _expressions(statement):
        for change in _OPERATORS:
            yield from change(node)


def _changes_of_statement(
    statement: ast.stmt, function: ast.FunctionDef | None
) -> Iterator[tuple[str, Any, ast.AST | str]]:
    if isinstance(statement, ast.If | ast.While):
        yield "condition negated", statement.test, f"(not ({ast.unparse(statement.test)}))"
    call = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(call, ast.Call) and _called(call) not in _MESSAGES:
        yield "call dropped", statement, "pass"
    if isinstance(statement, ast.AugAssign):
        yield "update dropped", statement, "pass"
    if isinstance(statement, ast.Return) and statement.value and function and function.returns:
        returned = ast.unparse(function.returns)
        for constant in ("True", "False") if returned == "bool" else ("None",):
            if returned == "bool" or "None" in returned:
                yield "constant returned", statement.value, constant
    if isinstance(statement, ast.Break | ast.Continue):
        yield "jump dropped", statement, "pass"


def _expressions(statement: ast.stmt) -> Iterator[ast.expr]:
    """Yields the expressions of a statement itself: no annotations, no messages."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.JoinedStr):
            continue
        if isinstance(node, ast.Call) and _called(node) in _MESSAGES:
            continue
        if isinstance(node, ast.expr):
            yield node
        for field, child in ast.iter_fields(node):
            if field in ("annotation", "returns", "body", "orelse", "finalbody", "handlers"):
                continue
            children = child if isinstance(child, list) else [child]
            waiting += [
                c for c in children if isinstance(c, ast.AST) and not isinstance(c, ast.stmt)
            ]
    if isinstance(statement, ast.Assign | ast.Return):  # a lambda's and a conditional's branches
        for node in ast.walk(statement):
            if isinstance(node, ast.IfExp):
                yield from (node.body, node.orelse)


def _called(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _compare(node: ast.expr):
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            new = copy.copy(node)
            new.ops = [*node.ops]
            new.ops[place] = _COMPARISONS[type(operator)]()
            yield "comparison flipped", node, new


def _arithmetic(node: ast.expr):
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_path(node.left):
        new = copy.copy(node)
        new.op = _ARITHMETIC[type(node.op)]()
        yield "arithmetic swapped", node, new


def _is_path(node: ast.expr) -> bool:
    name = getattr(node, "attr", getattr(node, "id", ""))
    return name.endswith(_PATHS)


def _unary(node: ast.expr):
    if isinstance(node, ast.UnaryOp):
        dropped = "not dropped" if isinstance(node.op, ast.Not | ast.Invert) else "sign dropped"
        yield dropped, node, node.operand


def _boolean(node: ast.expr):
    if isinstance(node, ast.BoolOp):
        new = copy.copy(node)
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and, or swapped", node, new
    if isinstance(node, ast.IfExp):
        new_if = copy.copy(node)
        new_if.body, new_if.orelse = node.orelse, node.body
        yield "branches swapped", node, new_if


def _constant(node: ast.expr):
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield "constant changed", node, repr(not node.value)
        elif isinstance(node.value, int) and abs(node.value) <= _MAX_CONSTANT:
            yield "constant changed", node, repr(node.value + 1)
        elif isinstance(node.value, float):
            yield "constant changed", node, repr(2 * node.value or 1.0)


def _call(node: ast.expr):
    if not isinstance(node, ast.Call):
        return
    for keyword in node.keywords:
        if keyword.arg and not _called(node)[:1].isupper():  # a class mostly needs them all
            new = copy.copy(node)
            new.keywords = [other for other in node.keywords if other is not keyword]
            yield "argument dropped", node, new
    if _called(node) in _NAMES:
        renamed = copy.copy(node.func)
        field = "attr" if isinstance(renamed, ast.Attribute) else "id"
        setattr(renamed, field, _NAMES[_called(node)])
        yield "function swapped", node.func, ast.unparse(renamed)


_OPERATORS: tuple[Callable, ...] = (_compare, _arithmetic, _unary, _boolean, _constant, _call)
