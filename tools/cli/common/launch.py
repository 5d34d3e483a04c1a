"""Run a module as the main program, so that Ctrl-C during its imports ends with one line, as it does later."""

import runpy
import sys


def main() -> None:
    """Run the module that the first argument names, with the other arguments."""
    del sys.argv[0]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
