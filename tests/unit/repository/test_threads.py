"""Test that no process waits for a thread at its end, so that a failing run ends promptly."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import sources

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("controller", "tools", "tests")
POOLS = ("ThreadPoolExecutor", "ProcessPoolExecutor")
OPEN_POOLS = {"controller/observability/http_server.py": "it lives as long as the server, whose stop() shuts it down"}
"""The files with a pool that no `with` statement ends, and the reasons."""


def get_called_name(call: ast.expr) -> str:
    """Return the last name of a call: `Thread` for `threading.Thread`, or nothing if the callee has no name."""
    match call:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def is_true(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


def find_daemons(tree: ast.AST) -> set[str]:
    """Return the targets X of the statements `X.daemon = True`."""
    return {
        ast.unparse(target.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and is_true(node.value)
        for target in node.targets
        if isinstance(target, ast.Attribute) and target.attr == "daemon"
    }


def find_programs(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the module, and each program that it holds as a string."""
    yield tree
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and re.search(r"Thread|Timer|ProcessPool", node.value)
        ):
            try:
                yield sources.parse(node.value)
            except (SyntaxError, ValueError):
                continue


def find_waited_threads(source: str) -> list[str]:
    """Return the code that creates threads for which a process would wait at its end."""
    if not re.search(r"Thread|Timer|ProcessPool", source):  # parsing takes a thousand times as long
        return []
    return [problem for tree in find_programs(sources.parse(source)) for problem in _find_waited_threads(tree)]


def _find_waited_threads(tree: ast.AST) -> Iterator[str]:
    entered = {
        item.context_expr
        for node in ast.walk(tree)
        if isinstance(node, ast.With | ast.AsyncWith)
        for item in node.items
    }
    daemons = find_daemons(tree)
    timers = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and {ast.unparse(target) for target in node.targets} & daemons
    }
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(bases=bases) if {"Thread", "Timer"} & set(map(get_called_name, bases)):
                if "super().__init__(daemon=True)" not in ast.unparse(node):
                    yield f"class {node.name}"
            case ast.Call() if get_called_name(node.func) == "Thread":
                if not any(keyword.arg == "daemon" and is_true(keyword.value) for keyword in node.keywords):
                    yield ast.unparse(node)
            case ast.Call() if get_called_name(node.func) == "Timer" and node not in timers:
                yield ast.unparse(node)
            case ast.Call() if get_called_name(node.func) in POOLS and node not in entered:
                yield ast.unparse(node)


def test_no_process_waits_for_a_thread_at_its_end() -> None:
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if path != Path(__file__) and (problems := find_waited_threads(path.read_text())):
                found[name] = problems
    assert {name: problems for name, problems in found.items() if name not in OPEN_POOLS} == {}
    assert {name: len(problems) for name, problems in found.items()} == dict.fromkeys(OPEN_POOLS, 1)


@pytest.mark.parametrize(
    "source",
    [
        "import threading\nthreading.Thread(target=f).start()",
        "from threading import Thread\nthread = Thread(target=f, daemon=False)",
        "import threading\nself._threads = [threading.Thread(target=f, daemon=later) for _ in range(3)]",
        "import threading\nclass Watcher(threading.Thread): pass",
        "import threading\ntimer = threading.Timer(3, f)\ntimer.start()",
        "import threading\ntimer = threading.Timer(3, f)\nother.daemon = True",
        "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(3)",
        "import concurrent.futures\nconcurrent.futures.ProcessPoolExecutor().submit(f)",
        "PROGRAM = 'import threading\\nthreading.Thread(target=f).start()'",
    ],
)
def test_thread_that_delays_the_end_is_found(source: str) -> None:
    assert len(find_waited_threads(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import threading\nthreading.Thread(target=f, daemon=True).start()",
        "import threading\nclass Log(threading.Thread):\n  def __init__(self): super().__init__(daemon=True)",
        "import threading\ntimer = threading.Timer(3, f)\ntimer.daemon = True\ntimer.start()",
        "from concurrent.futures import ThreadPoolExecutor\nwith ThreadPoolExecutor(3) as pool: pool.submit(f)",
        "TEXT = 'an important text (that is no program'",
    ],
)
def test_thread_that_ends_with_the_process_is_allowed(source: str) -> None:
    assert find_waited_threads(source) == []
