"""Small faults for `mutants.py` to plant: where in a source file they may go, and what they read like.

A fault is a piece of text in place of a syntax node. Docstrings, type hints, decorators, texts of errors, warnings and
logs, and the samples of the conformance tests are left alone.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "reduce_min": "reduce_max",
    "reduce_max": "reduce_min",
    "amin": "amax",
    "amax": "amin",
    "argmin": "argmax",
    "argmax": "argmin",
    "floor": "round",
    "round": "floor",
    "ceil": "floor",
    "rint": "floor",
    "any": "all",
    "all": "any",
    "zeros": "ones",
    "ones": "zeros",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
}
# The order of their arguments means nothing, or exchanging them is no slip of anybody's.
UNORDERED = {*NAMES, "zip", "add", "multiply", "logical_and", "logical_or", "array_equal", "allclose", "super", "cast"}
UNORDERED |= {"isinstance", "issubclass", "getattr", "setattr", "hasattr", "namedtuple", "TypeVar"}
# What these calls say is for people.
SPEAKING = {"warn", "print", "say", "info", "debug", "warning", "log", "exception", "update_bar", "advance"}
# Functions whose code is an example, or words.
LEFT_ALONE = {"samples", "__repr__", "__str__", "_repr_html_"}
NO_EXPRESSIONS = {"annotation", "returns", "decorator_list", "body", "orelse", "finalbody", "handlers", "type_params"}
Place = tuple[int, int]


@dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
        kind: What is wrong.
        start, end: What is replaced: `(line from 1, column in bytes)`, the end not included.
        text: What stands there instead.
        lines: First and last line of the statement, or of its head: what has to be reached.
        scope: Classes and functions around it, `""` outside of any.
        local: Whether it is inside a function, so that an import alone does not run it.
        key: Names the fault wherever the lines around it move.
    """

    kind: str
    start: Place
    end: Place
    text: str
    lines: tuple[int, int]
    scope: str
    local: bool
    key: str = ""

    def apply(self, source: str, before: str = "") -> str:
        """The source with the fault in it, and a line `before` its statement where one may stand."""
        lines = source.encode().splitlines(keepends=True)
        first, last = self.start[0] - 1, self.end[0] - 1
        kept = lines[first][: self.start[1]], lines[last][self.end[1] :]
        lines[first : last + 1] = [kept[0] + self.text.encode() + kept[1]]
        head = lines[self.lines[0] - 1]
        if before and not head.lstrip().startswith((b"elif", b"else", b"def", b"class", b"except")):
            lines.insert(self.lines[0] - 1, head[: len(head) - len(head.lstrip())] + before.encode() + b"\n")
        return b"".join(lines).decode()


@dataclass(frozen=True)
class _Around:
    """What surrounds a node: its statement's lines, its scope, and names that the function has by then."""

    lines: tuple[int, int] = (1, 1)
    scope: tuple[str, ...] = ()
    local: bool = False


def faults(source: str, path: str) -> list[Mutation]:
    """Every fault that can be planted in a file, with its key."""
    found, seen = [], dict[str, int]()
    lines = source.splitlines()
    for each in _of_block(ast.parse(source).body, _Around()):
        statement = "\n".join(line.strip() for line in lines[each.lines[0] - 1 : each.lines[1]])
        name = f"{path}|{each.scope}|{each.kind}|{each.text}|{statement}"
        seen[name] = seen.get(name, 0) + 1
        key = hashlib.sha256(f"{name}|{seen[name]}".encode()).hexdigest()[:12]
        found.append(Mutation(**{**vars(each), "key": key}))
    return found


def is_fault(mutation: Mutation, source: str) -> bool:
    """Whether the source with the fault compiles and is another program."""
    try:
        return ast.dump(ast.parse(mutation.apply(source))) != ast.dump(ast.parse(source))
    except (SyntaxError, ValueError):
        return False


def _of_block(block: list[ast.stmt], around: _Around) -> Iterator[Mutation]:
    known: set[str] = set()
    for place, statement in enumerate(block):
        is_last = place == len(block) - 1
        yield from _of_statement(statement, around, known, is_last)
        known |= {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _of_statement(node: ast.stmt, around: _Around, known: set[str], is_last: bool) -> Iterator[Mutation]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield from _of_definition(node, around)
        return
    if isinstance(node, ast.Import | ast.ImportFrom) or _is_docstring(node) or _is_typing(node):
        return
    blocks = [b for name in ("body", "orelse", "finalbody") if (b := getattr(node, name, None))]
    blocks += [handler.body for handler in getattr(node, "handlers", [])]
    last = node.body[0].lineno - 1 if blocks and not isinstance(node, ast.Try) else node.end_lineno
    here = _Around((node.lineno, max(node.lineno, last or node.lineno)), around.scope, around.local)
    if not blocks and around.local and _may_go(node, known, is_last):
        yield _replace(node, "deleted statement", "pass", here)
    if not isinstance(node, ast.Raise):
        for child in _children(node):
            yield from _of_expression(child, here)
    for block in blocks:
        yield from _of_block(block, around)


def _of_definition(node: ast.FunctionDef | ast.ClassDef, around: _Around) -> Iterator[Mutation]:
    if node.name in LEFT_ALONE:
        return
    is_function = isinstance(node, ast.FunctionDef)
    if is_function:
        head = _Around((node.lineno, max(node.lineno, node.body[0].lineno - 1)), around.scope, around.local)
        for default in [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]:
            yield from _of_expression(default, head)
    inside = _Around(scope=(*around.scope, node.name), local=around.local or is_function)
    yield from _of_block(node.body, inside)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_typing(node: ast.stmt) -> bool:
    """`TypeVar`, aliases of types, `if TYPE_CHECKING`, and what only speaks."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return _name(node.value.func) in SPEAKING
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
        return _name(node.value.value) in ("dict", "tuple", "list", "type", "Callable", "NDArray")
    return isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING"


def _may_go(node: ast.stmt, known: set[str], is_last: bool) -> bool:
    """Whether the code without this statement still has every name."""
    if isinstance(node, ast.Assign):
        return all(isinstance(t, ast.Attribute | ast.Subscript) or _name(t) in known for t in node.targets)
    if isinstance(node, ast.Return):
        return not is_last
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    return isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break | ast.Delete)


def _children(node: ast.AST) -> Iterator[ast.expr]:
    """Expressions directly below, no type hints, no blocks."""
    for name, value in ast.iter_fields(node):
        if name in (
            "annotation",
            "returns",
            "decorator_list",
            "body",
            "orelse",
            "finalbody",
            "handlers",
            "type_params",
        ):
            if name in ("body", "orelse") and isinstance(value, ast.expr):  # of a lambda, of `a if b else c`
                yield value
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.expr):
                yield item
            elif isinstance(item, ast.keyword | ast.comprehension | ast.withitem):
                yield from _children(item)


def _of_expression(node: ast.expr, around: _Around) -> Iterator[Mutation]:
    if isinstance(node, ast.JoinedStr):
        return
    if isinstance(node, ast.Call) and _name(node.func) in SPEAKING:
        return
    for kind, text in _changes(node):
        yield _replace(node, kind, text, around)
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        return
    for child in _children(node):
        if isinstance(node, ast.Subscript) and isinstance(child, ast.UnaryOp) and ast.unparse(child) == "-1":
            yield _replace(child, "axis or place", "0", around)
            continue
        yield from _of_expression(child, around)


def _changes(node: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        flipped = ast.Compare(node.left, [COMPARISONS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
        yield "comparison", ast.unparse(flipped)
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and, or", f"({ast.unparse(ast.BoolOp(other, node.values))})"
    elif (
        isinstance(node, ast.BinOp)
        and type(node.op) in ARITHMETIC
        and not (_is_text(node.left) or _is_text(node.right))
    ):
        yield "arithmetic", f"({ast.unparse(ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right))})"
    elif isinstance(node, ast.UnaryOp):
        yield from _of_unary(node)
    elif isinstance(node, ast.Constant):
        yield from _of_constant(node)
    elif isinstance(node, ast.IfExp):
        yield "branches exchanged", f"({ast.unparse(ast.IfExp(node.test, node.orelse, node.body))})"
    elif isinstance(node, ast.Name | ast.Attribute) and _name(node) in NAMES and isinstance(node.ctx, ast.Load):
        yield "min, max, round", ast.unparse(node).removesuffix(_name(node)) + NAMES[_name(node)]
    elif isinstance(node, ast.Call):
        yield from _of_call(node)


def _of_unary(node: ast.UnaryOp) -> Iterator[tuple[str, str]]:
    inner = ast.unparse(node.operand)
    if isinstance(node.op, ast.Not):
        yield "not removed", f"({inner})"
    elif isinstance(node.op, ast.USub) and inner == "1":
        yield "axis or place", "0"
    elif isinstance(node.op, ast.USub):
        yield "sign removed", f"({inner})"


def _of_constant(node: ast.Constant) -> Iterator[tuple[str, str]]:
    if isinstance(node.value, bool):
        yield "constant", str(not node.value)
    elif isinstance(node.value, int):
        yield "off by one", str(node.value + 1)
    elif isinstance(node.value, float):
        yield "constant", str(node.value * 2 if node.value else 1.0)


def _of_call(node: ast.Call) -> Iterator[tuple[str, str]]:
    given = node.args
    plain = len(given) > 1 and not any(isinstance(a, ast.Starred) for a in given[:2])
    if plain and _name(node.func) not in UNORDERED and ast.dump(given[0]) != ast.dump(given[1]):
        yield "arguments exchanged", ast.unparse(ast.Call(node.func, [given[1], given[0], *given[2:]], node.keywords))
    for keyword in node.keywords:
        if keyword.arg is not None and keyword.arg != "stacklevel":
            kept = [k for k in node.keywords if k is not keyword]
            yield f"without {keyword.arg}=", ast.unparse(ast.Call(node.func, given, kept))
    if _name(node.func) == "abs" and len(given) == 1:
        yield "abs removed", f"({ast.unparse(given[0])})"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _name(node: ast.AST) -> str:
    """The last part of a dotted name, `""` for anything else."""
    return getattr(node, "id", getattr(node, "attr", ""))


def _replace(node: ast.expr | ast.stmt, kind: str, text: str, around: _Around) -> Mutation:
    end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
    return Mutation(kind, (node.lineno, node.col_offset), end, text, around.lines, ".".join(around.scope), around.local)
