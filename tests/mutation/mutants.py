"""List the mutants of a module: the place and the text of each change. Build the syntax tree of a mutant.

Nothing here reads or writes a file.
"""

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from tests.mutation.operators import replacements

# Options of classes that tests need not detect: most are declarations for the type checker and for msgspec.
_DECLARATIONS = {"frozen", "slots", "kw_only", "gc", "eq"}
_LOG_METHODS = {"debug", "info", "warning", "error", "exception"}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Place(NamedTuple):
    """A node of a syntax tree, with its surroundings."""

    number: int
    node: ast.AST
    parent: ast.AST
    statement: ast.stmt | ast.ExceptHandler
    function: str
    """The outermost function whose body contains the node; "" outside functions."""
    owner: str
    """The name that the module's statement with this node defines; "" if it defines none."""


class Mutant(NamedTuple):
    """One changed node. `nth` counts mutants with equal texts in the same function, from 1."""

    module: str
    function: str
    before: str
    after: str
    nth: int
    line: int
    owner: str
    number: int
    variant: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Return the key of the mutant, which does not contain its line."""
        return self.module, self.function, f"{self.before} => {self.after}", self.nth


def mutants_of(module: str, source: str) -> list[Mutant]:
    """Return all mutants of a module's source, in the order of their lines."""
    found: list[Mutant] = []
    seen: Counter[tuple[str, str, str]] = Counter()
    variants: set[tuple[int, str]] = set()
    tree = ast.parse(source)
    for place in _places_in(tree):
        before = header(place.statement)
        for variant, replacement in enumerate(replacements(place.node)):
            if not place.function and isinstance(place.node, ast.stmt):
                continue  # a declaration, without which the module cannot be imported
            after = header(_replace_node(place.statement, place.node, replacement))
            if after == before or (id(place.statement), after) in variants:
                continue
            variants.add((id(place.statement), after))
            seen[place.function, before, after] += 1
            nth = seen[place.function, before, after]
            line = getattr(place.node, "lineno", place.statement.lineno)
            found.append(Mutant(module, place.function, before, after, nth, line, place.owner, place.number, variant))
    return found


def mutate(source: str, mutant: Mutant) -> ast.Module:
    """Return the module's tree with the mutation. Its line numbers are those of the source."""
    tree = ast.parse(source)
    place = next(place for place in _places_in(tree) if place.number == mutant.number)
    target = place.node
    replacement = _copy_location(list(replacements(target))[mutant.variant], target)
    for field, value in ast.iter_fields(place.parent):
        if value is target:
            setattr(place.parent, field, replacement)
        elif isinstance(value, list):
            value[:] = [replacement if item is target else item for item in value]
    ast.fix_missing_locations(place.parent)
    return tree


def header(statement: ast.AST) -> str:
    """Return a statement as text in one line, without the block below it."""
    if hasattr(statement, "body") and not isinstance(statement, ast.Module):
        shown = copy.copy(statement)
        for field in ("body", "orelse", "finalbody", "handlers", "cases", "decorator_list"):
            if hasattr(shown, field):
                setattr(shown, field, [ast.Pass()] if field == "body" else [])
        if isinstance(shown, ast.Try):
            return "try:"
        return ast.unparse(shown).splitlines()[0].strip()
    return " ".join(ast.unparse(statement).split("\n"))


def _copy_location(new: ast.AST, old: ast.AST) -> ast.AST:
    return ast.copy_location(new, old) if hasattr(old, "lineno") else new


def _replace_node(statement: ast.AST, target: ast.AST, replacement: ast.AST) -> ast.AST:
    """Return a copy of the statement in which the target is replaced. The block below the statement is not copied."""
    if statement is target:
        return replacement

    def rebuild(node: ast.AST) -> ast.AST:
        if node is target:
            return replacement
        changed = copy.copy(node)
        for field, value in ast.iter_fields(node):
            if field in ("body", "orelse", "handlers", "finalbody") and isinstance(value, list):
                continue
            if isinstance(value, ast.AST):
                setattr(changed, field, rebuild(value))
            elif isinstance(value, list):
                setattr(changed, field, [rebuild(item) if isinstance(item, ast.AST) else item for item in value])
        return changed

    return rebuild(statement)


def _places_in(tree: ast.Module) -> Iterator[Place]:
    counter = iter(range(10**9))
    for statement in tree.body:
        yield from _walk(statement, tree, statement, "", "", defined_name(statement), counter)


def _walk(
    node: ast.AST,
    parent: ast.AST,
    statement: ast.stmt | ast.ExceptHandler,
    scope: str,
    function: str,
    owner: str,
    counter: Iterator[int],
) -> Iterator[Place]:
    if isinstance(node, ast.stmt | ast.ExceptHandler):
        statement = node
    yield Place(next(counter), node, parent, statement, function, owner)
    inner_scope, inner_function = scope, function
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        inner_scope = f"{scope}.{node.name}" if scope else node.name
        if isinstance(node, _FUNCTIONS):
            inner_function = function or inner_scope
    for field, child in _children(node):
        inside = field == "body" and inner_scope != scope
        yield from _walk(
            child,
            node,
            statement,
            inner_scope if inside else scope,
            inner_function if inside else function,
            owner,
            counter,
        )


def _children(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield the children that can be mutated: no annotations, decorators, docstrings or texts of log lines."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        if isinstance(node, ast.JoinedStr) or _is_docstring(node):
            continue
        if isinstance(node, ast.Compare) and field == "comparators" and _is_check_for_none(node):
            continue
        for place, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.keyword) and isinstance(node, ast.ClassDef) and child.arg in _DECLARATIONS:
                continue
            if field == "args" and place == 0 and isinstance(node, ast.Call) and _is_log_call(node):
                continue
            yield field, child


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_check_for_none(node: ast.Compare) -> bool:
    return isinstance(node.ops[0], ast.Is | ast.IsNot)


def _is_log_call(node: ast.Call) -> bool:
    match node.func:
        case ast.Attribute(value=ast.Name(id="log"), attr=method):
            return method in _LOG_METHODS
    return False


def defined_name(statement: ast.stmt) -> str:
    """Return the name that a statement of a module defines, or "" if it defines none."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name), *_]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
    return ""


def functions_of(source: str) -> Iterator[tuple[str, int, int, set[str]]]:
    """Yield each outermost function: its name, the first and last line of its body, and the names that it mentions."""

    def walk(body: list[ast.stmt], scope: str) -> Iterator[tuple[str, int, int, set[str]]]:
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                yield from walk(statement.body, f"{scope}{statement.name}.")
            elif isinstance(statement, _FUNCTIONS):
                names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
                names |= {node.attr for node in ast.walk(statement) if isinstance(node, ast.Attribute)}
                last = statement.end_lineno or statement.lineno
                yield f"{scope}{statement.name}", statement.body[0].lineno, last, names

    yield from walk(ast.parse(source).body, "")
