"""Source code as a syntax tree, for tests that check the code itself."""

import ast
import gc


def parse(source: str) -> ast.Module:
    """Return the syntax tree of a program.

    CPython 3.11 raises SystemError if `ast.parse` runs during another `ast.parse`. This happens if a garbage collection
    during the parse causes a logged traceback, because Python parses source lines to place the carets of a traceback.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if was_enabled:
            gc.enable()
