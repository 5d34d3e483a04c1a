"""Run a module as the main program, so that Ctrl-C during its imports ends with one line, as it does later."""

import importlib.util
import runpy
import sys


def main() -> int:
    """Run the module that the first argument names, with the other arguments. Return 2 if there is no such module."""
    del sys.argv[0]
    try:
        if not sys.argv or not _is_module(sys.argv[0]):
            found = f"there is no module {sys.argv[0]!r}" if sys.argv else "no module is given"
            print(f"tools/run: {found}; name one of this repository, such as tools.cli.render.render", file=sys.stderr)
            return 2
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


def _is_module(name: str) -> bool:
    """Return whether a module of this name can run, or a package with a `__main__`. Import the packages above it."""
    try:
        found = importlib.util.find_spec(name)
        return found is not None and (found.submodule_search_locations is None or _is_module(f"{name}.__main__"))
    except ModuleNotFoundError as error:
        if not name.startswith(error.name or name):
            raise  # another module, which a package above imports
        return False
    except (ImportError, ValueError):  # a relative or an empty name
        return False


if __name__ == "__main__":
    sys.exit(main())
