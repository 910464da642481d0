"""One-line changes to source code by the usual mutation operators, and a random choice of them.

`sites` lists the possible changes of a file. `draw` chooses some of them by a seed. A change is a replacement of
bytes, so the rest of the file keeps its formatting.

Decorators, annotations, docstrings, imports and strings are never changed. A `raise` is only deleted as a whole.
"""

import ast
import contextlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from pathlib import Path

MODULE = "<module>"  # the name of the "function" that holds a module's constants
COMMUTATIVE = {"max", "min", "gcd", "maximum", "minimum", "print"}  # exchanged arguments give the same result
SWAPS: dict[type[ast.AST], tuple[str, tuple[str, ...]]] = {  # an operator's text, and what may replace it
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: (r"is\s+not", ("is",)),
    ast.In: ("in", ("not in",)),
    ast.NotIn: (r"not\s+in", ("in",)),
    ast.And: ("and", ("or",)),
    ast.Or: ("or", ("and",)),
    ast.Not: (r"not\b\s*", ("",)),
    ast.Add: (r"\+", ("-",)),
    ast.Sub: ("-", ("+",)),
    ast.USub: ("-", ("+",)),
    ast.Mult: (r"\*", ("/",)),
    ast.Div: ("/", ("*",)),
    ast.FloorDiv: ("//", ("*",)),
    ast.Mod: ("%", ("*",)),
    ast.Pow: (r"\*\*", ("*",)),
    ast.BitAnd: ("&", ("|",)),
    ast.BitOr: (r"\|", ("&",)),
    ast.LShift: ("<<", (">>",)),
    ast.RShift: (">>", ("<<",)),
}


@dataclass(frozen=True)
class Mutation:
    """A change of one place of one file: bytes `start` to `end` become `replacement`."""

    file: str  # relative to the repository
    function: str  # dotted, MODULE outside functions and classes
    operator: str
    line: int  # of the first changed byte, 1-based
    before: str  # the changed line or lines, without the indentation
    after: str
    start: int
    end: int
    replacement: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The change's identity, which does not depend on its line number."""
        return self.file, self.function, self.before, self.after

    def apply(self, source: bytes) -> bytes:
        """The source with the change."""
        return source[: self.start] + self.replacement.encode() + source[self.end :]


def edit(source: bytes, file: str, function: str, operator: str, start: int, end: int, replacement: str) -> Mutation:
    """The mutation that replaces these bytes."""
    first = source.rfind(b"\n", 0, start) + 1
    last = len(source) if (newline := source.find(b"\n", end)) < 0 else newline
    after = source[first:start] + replacement.encode() + source[end:last]
    texts = [_unindented(lines) for lines in (source[first:last], after)]
    return Mutation(file, function, operator, source.count(b"\n", 0, start) + 1, *texts, start, end, replacement)


def _unindented(lines: bytes) -> str:
    return "\n".join(line.strip() for line in lines.decode().split("\n"))


def sites(source: bytes, file: str) -> list[Mutation]:
    """All changes of a file, in the order of its lines. Changes with the same text are listed once."""
    finder = _Finder(source, file)
    finder.visit(ast.parse(source))
    ordered = sorted(finder.found, key=lambda mutation: (mutation.start, mutation.end, mutation.replacement))
    by_key = {mutation.key: mutation for mutation in ordered}
    return [mutation for mutation in by_key.values() if mutation.before != mutation.after]


def function_at(source: bytes, line: int) -> str:
    """The dotted name of the innermost function or class that holds a line."""
    name, nodes, inside = [], list(ast.parse(source).body), True
    while inside:
        holders = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        inside = [node for node in nodes if isinstance(node, holders) and node.lineno <= line <= node.end_lineno]
        name += [node.name for node in inside]
        nodes = [child for node in inside for child in node.body]
    return ".".join(name) or MODULE


def draw(sources: dict[str, bytes], count: int, seed: int) -> list[Mutation]:
    """`count` different changes, or all if there are fewer: a random function, then operator, then place.

    A function is drawn with a probability proportional to the square root of its number of possible changes.
    """
    rng = random.Random(seed)
    functions: dict[tuple[str, str], dict[str, list[Mutation]]] = {}
    for file in sorted(sources):
        for mutation in sites(sources[file], file):
            functions.setdefault((file, mutation.function), {}).setdefault(mutation.operator, []).append(mutation)
    drawn: list[Mutation] = []
    while functions and len(drawn) < count:
        names = list(functions)
        weights = [sqrt(sum(map(len, functions[name].values()))) for name in names]
        (name,) = rng.choices(names, weights)
        operator = rng.choice(list(functions[name]))
        nodes = functions[name][operator]
        chosen = nodes.pop(rng.randrange(len(nodes)))
        if not nodes:
            del functions[name][operator]
        if not functions[name]:
            del functions[name]
        if changes_meaning(chosen, sources[chosen.file]):
            drawn.append(chosen)
    return drawn


def changes_meaning(mutation: Mutation, source: bytes) -> bool:
    """Whether the changed file can be parsed and has a different syntax tree."""
    try:
        return ast.dump(ast.parse(mutation.apply(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


class _Finder(ast.NodeVisitor):
    """Collects the changes of a file."""

    def __init__(self, source: bytes, file: str):
        self.source, self.file, self.found = source, file, list[Mutation]()
        self.names: list[str] = []  # of the functions and classes around the node
        self.function_depth = 0
        self.line_starts = [0, *(match.end() for match in re.finditer(b"\n", source))]

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self.line_starts[node.lineno - 1] + node.col_offset
        return start, self.line_starts[node.end_lineno - 1] + node.end_col_offset

    def _add(self, operator: str, start: int, end: int, replacement: str) -> None:
        function = ".".join(self.names) or MODULE
        self.found.append(edit(self.source, self.file, function, operator, start, end, replacement))

    def _swap(self, operator: str, start: int, end: int, node: ast.AST) -> None:
        """Replace an operator in the gap between its operands, which may also hold brackets, spaces and comments."""
        pattern, replacements = SWAPS.get(type(node), ("", ()))
        gap = re.sub(rb"#[^\n]*", lambda comment: b" " * len(comment[0]), self.source[start:end])
        token = re.search(pattern.encode(), gap)
        for replacement in replacements if token else ():
            self._add(operator, start + token.start(), start + token.end(), replacement)

    def _between(self, operator: str, left: ast.AST, right: ast.AST, node: ast.AST) -> None:
        self._swap(operator, self._span(left)[1], self._span(right)[0], node)

    @contextlib.contextmanager
    def _inside(self, name: str, function: bool) -> Iterator[None]:
        self.names.append(name)
        self.function_depth += function
        yield
        self.function_depth -= function
        self.names.pop()

    def _visit_all(self, nodes: Sequence[ast.AST | None]) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        with self._inside(node.name, function=True):
            self._visit_all([*node.args.defaults, *node.args.kw_defaults, *node.body])

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        with self._inside(node.name, function=False):
            self._visit_all(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._visit_all([node.value])

    def visit_Import(self, node: ast.AST) -> None:
        """Do not change imports and formatted strings. Python 3.11 has no positions inside formatted strings."""

    visit_ImportFrom = visit_JoinedStr = visit_Import

    def _delete(self, node: ast.stmt) -> None:
        self._add("deletion", *self._span(node), "pass")

    visit_Raise = _delete

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self._delete(node)
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self._delete(node)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._delete(node)
        self._between("arithmetic", node.target, node.value, node.op)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        leaves = isinstance(node.body[-1], ast.Return | ast.Continue | ast.Break | ast.Raise)
        if leaves and not node.orelse:
            self._delete(node)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for (left, right), op in zip(pairwise([node.left, *node.comparators]), node.ops, strict=True):
            self._between("comparison", left, right, op)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in pairwise(node.values):
            self._between("boolean", left, right, node.op)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        operator = "boolean" if isinstance(node.op, ast.Not) else "arithmetic"
        self._swap(operator, self._span(node)[0], self._span(node.operand)[0], node.op)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        alias = isinstance(node.op, ast.BitOr) and not self.function_depth  # of a type: X = A | B
        if not alias and not any(map(_is_text, (node.left, node.right))):
            self._between("arithmetic", node.left, node.right, node.op)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._add("constant", *self._span(node), repr(not value))
        elif isinstance(value, int | float):
            for other in {value + 1, value * 2} - {value}:
                self._add("constant", *self._span(node), repr(other))

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in COMMUTATIVE:
            named = [keyword.value for keyword in node.keywords if keyword.arg]
            for first, second in (*pairwise(node.args), *pairwise(named)):
                if not {type(first), type(second)} & {ast.Starred, ast.GeneratorExp}:
                    self._exchange(first, second)
        self.generic_visit(node)

    def _exchange(self, first: ast.expr, second: ast.expr) -> None:
        (start, middle), (rest, end) = self._span(first), self._span(second)
        exchanged = self.source[rest:end] + self.source[middle:rest] + self.source[start:middle]
        self._add("arguments", start, end, exchanged.decode())


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def read_sources(repository: Path, rooms: Sequence[str]) -> dict[str, bytes]:
    """The source of all files in `rooms` (files and folders), by path relative to the repository.

    Raises `FileNotFoundError` for a missing room and for one without source files.
    """
    sources: dict[str, bytes] = {}
    for room in rooms:
        path = repository / room
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path] if path.is_file() else []
        if not files:
            raise FileNotFoundError(f"{path} is neither a source file nor a folder of source files")
        sources |= {file.relative_to(repository).as_posix(): file.read_bytes() for file in files}
    return sources
