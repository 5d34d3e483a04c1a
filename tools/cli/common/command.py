"""Run a tool's main function: every expected error becomes an exit code and one line, never a traceback."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from controller.runtime import bounded_yaml
from tools.cli.common.printable import line


class BadInput(Exception):  # noqa: N818 -- the caller's error
    """The input cannot be used, or it leaves nothing to do. The message names the input."""


class ToolParser(argparse.ArgumentParser):
    """A parser of arguments that reports a wrong one in one printable line, whatever characters it has."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the problem, and exit with code 2."""
        super().error(line(message))


def print_problem(name: str, problem: object) -> None:
    """Print a problem to stderr, as one printable line that begins with the tool's name."""
    print(f"{name}: {line(problem)}", file=sys.stderr)


def run_and_exit(name: str, main: Callable[[], int]) -> NoReturn:
    """Run `main` of the tool with that name, and exit with its exit code.

    An error of the operating system ends with code 1, Ctrl-C with 130. A closed output (`| head`) is not an error.
    """
    try:
        code = _exit_code(name, main)
    except BrokenPipeError:  # the program that reads the output, such as `head`, has closed it
        _discard_output()
        code = 0
    sys.exit(code)


def _exit_code(name: str, main: Callable[[], int]) -> int:
    try:
        try:
            return main()
        finally:
            # Buffered output can fail, too. Without this, it would fail after the last `except`.
            print(end="", flush=True)
    except BrokenPipeError:
        raise
    except (OSError, RecursionError) as error:
        _drop_buffered_output()
        print_problem(name, describe_error(error))
        return 1
    except KeyboardInterrupt:
        print(f"\n{name}: stopped", file=sys.stderr)
        return 130


def _drop_buffered_output() -> None:
    """Discard output that cannot be written. Otherwise Python would try again at its end, and print another message."""
    try:
        print(end="", flush=True)
    except OSError:
        _discard_output()


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse_path(text: str) -> Path:
    """Return the path of an option. Refuse an empty one, which a script passes for a variable that is not set.

    `pathlib` would read it as the current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected a path, and it is empty")
    return Path(text)


def describe_error(error: Exception) -> str:
    """Return the error as one line: with the file's name, or with line and column for an error of YAML."""
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


def describe_unreadable(path: Path | str, error: Exception) -> str:
    """Return why the file cannot be read, in one line that begins with its path."""
    return f"{path}: cannot be read: {error.strerror if isinstance(error, OSError) else describe_error(error)}"


def read_yaml(path: Path) -> list[Any]:
    """Return the documents of a file, or of standard input for `-`, without empty ones. Raise `BadInput`."""
    try:
        text = bounded_yaml.read_text(path)
        documents = [document for document in bounded_yaml.load_all(text) if document is not None]
    except (OSError, ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
        raise BadInput(describe_unreadable(path, error)) from error
    if not documents:
        raise BadInput(f"{path}: is empty")
    return documents
