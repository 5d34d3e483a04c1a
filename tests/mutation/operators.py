"""List the mutations of one node of a syntax tree: the nodes that can replace it."""

import ast
import copy
from collections.abc import Iterator

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
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
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
# Functions for which the order of the arguments does not matter.
_SYMMETRIC = {"min", "max", "uniform"}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every mutation of this node, without the mutations of its children."""
    if isinstance(node, ast.expr):
        yield from _of_expression(node)
    elif isinstance(node, ast.stmt):
        yield from _of_statement(node)
    elif isinstance(node, ast.ExceptHandler):
        yield from _of_handler(node)
    elif isinstance(node, ast.comprehension):
        for place in range(len(node.ifs)):
            changed = copy.deepcopy(node)
            changed.ifs[place] = ast.Constant(True)
            yield changed


def _of_expression(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare():
            for place, operator in enumerate(node.ops):
                changed = copy.deepcopy(node)
                changed.ops[place] = _COMPARISONS[type(operator)]()
                yield changed
        case ast.BoolOp():
            yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
            for place in range(len(node.values)):
                values = node.values[:place] + node.values[place + 1 :]
                yield values[0] if len(values) == 1 else ast.BoolOp(node.op, values)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.BinOp() if type(node.op) in _ARITHMETIC:
            yield ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
        case ast.Constant():
            for value in _other_values(node.value):
                yield ast.Constant(value)
        case ast.JoinedStr():
            yield ast.Constant("")
        case ast.IfExp():
            yield node.body
            yield node.orelse
        case ast.Name(id=name) if name in _NAMES:
            yield ast.Name(_NAMES[name], ast.Load())
        case ast.Call():
            yield from _of_call(node)


def _other_values(value: object) -> list[str | bytes | bool | int | float]:
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value + 1, value - 1]
        case str():
            return ["" if value else "XX"]
        case bytes():
            return [b"" if value else b"XX"]
        case None:
            return [True]
    return []


def _of_call(node: ast.Call) -> Iterator[ast.expr]:
    name = ast.unparse(node.func)
    owner, _, method = name.rpartition(".")
    starred = any(isinstance(argument, ast.Starred) for argument in node.args)
    if len(node.args) > 1 and not starred and owner != "log" and method not in _SYMMETRIC:
        first, second, *rest = node.args
        yield ast.Call(node.func, [second, first, *rest], node.keywords)
    for place, keyword in enumerate(node.keywords):
        if keyword.arg:
            yield ast.Call(node.func, node.args, node.keywords[:place] + node.keywords[place + 1 :])
    if name == "contextlib.suppress":
        yield ast.Call(node.func, [], [])


def _of_statement(node: ast.stmt) -> Iterator[ast.stmt]:
    match node:
        case ast.Return(value=None):
            yield ast.Pass()
        case ast.Return(value=ast.expr() as value):
            if not (isinstance(value, ast.Constant) and value.value is None):
                yield ast.Return(ast.Constant(None))
        case ast.If(test=test) | ast.While(test=test):
            # A loop is not mutated to `while True`: it would hang, and detect no more than `while False`.
            for holds in (True, False) if isinstance(node, ast.If) else (False,):
                if not isinstance(test, ast.Constant):
                    changed = copy.copy(node)
                    changed.test = ast.Constant(holds)
                    yield changed
        case ast.AugAssign() if type(node.op) in _ARITHMETIC:
            yield ast.AugAssign(node.target, _ARITHMETIC[type(node.op)](), node.value)
            yield ast.Pass()
        case ast.Continue():
            yield ast.Pass()
            yield ast.Break()
        case ast.Break():
            yield ast.Pass()
            yield ast.Continue()
        case ast.Expr(value=ast.Constant()):
            return  # a docstring, or `...`
        case ast.Assign() | ast.AnnAssign(value=ast.expr()) | ast.Expr() | ast.Raise() | ast.Delete():
            yield ast.Pass()


def _of_handler(node: ast.ExceptHandler) -> Iterator[ast.ExceptHandler]:
    """Yield handlers that catch one class less. A handler of one class then catches nothing."""
    classes = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type] if node.type else []
    for place in range(len(classes)):
        left = classes[:place] + classes[place + 1 :]
        yield ast.ExceptHandler(left[0] if len(left) == 1 else ast.Tuple(left, ast.Load()), node.name, node.body)
