"""Source code as a syntax tree, for tests that check the code itself."""

import ast
import gc


def parse(source: str) -> ast.Module:
    """Return the syntax tree of a program.

    CPython 3.11 raises SystemError where `ast.parse` runs within `ast.parse`. That happens when garbage is collected
    meanwhile and something logs a traceback, whose carets are placed by a parse.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if was_enabled:
            gc.enable()
