"""How every tool ends, whatever stops it: an exit code and one line, never a traceback for what its caller did."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tools import bounded_yaml
from tools.printable import line


class BadInput(Exception):  # noqa: N818 -- the caller's error
    """What the caller gave cannot be used, or there is nothing to do; the message names it."""


def complain(name: str, problem: object) -> None:
    """Print what is wrong to stderr, as one printable line that begins with the tool's name."""
    print(f"{name}: {line(problem)}", file=sys.stderr)


def end(name: str, main: Callable[[], int]) -> NoReturn:
    """Run the tool of that name, and exit."""
    try:
        code = _code(name, main)
    except BrokenPipeError:  # `| head`: whoever reads has enough
        _write_no_more()
        code = 0
    sys.exit(code)


def _code(name: str, main: Callable[[], int]) -> int:
    try:
        try:
            return main()
        finally:
            # What is still to be written may fail, too, and would do so after the last word.
            print(end="", flush=True)
    except BrokenPipeError:
        raise
    except (OSError, RecursionError) as error:
        _drop_what_is_unwritten()
        complain(name, why(error))
        return 1
    except KeyboardInterrupt:
        print(f"\n{name}: stopped", file=sys.stderr)
        return 130


def _drop_what_is_unwritten() -> None:
    """Python would try again when it ends, and tell of it in its own way."""
    try:
        print(end="", flush=True)
    except OSError:
        _write_no_more()


def _write_no_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def why(error: Exception) -> str:
    """The error in one line: a file's with its name, YAML's with the line and column."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        at = error.problem_mark
        return f"line {at.line + 1}, column {at.column + 1}: {error.problem}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not text"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())


def unreadable(path: Path | str, error: Exception) -> str:
    """Why the file of that name cannot be read, in one line."""
    return f"{path}: cannot be read: {error.strerror if isinstance(error, OSError) else why(error)}"


def read_yaml(path: Path) -> list[Any]:
    """The documents of a file, or of standard input for `-`, without empty ones. Raises `BadInput`."""
    try:
        text = bounded_yaml.read_text(path)
        documents = [document for document in bounded_yaml.load_all(text) if document is not None]
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise BadInput(unreadable(path, error)) from error
    if not documents:
        raise BadInput(f"{path}: is empty")
    return documents
