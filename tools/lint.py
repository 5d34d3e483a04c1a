"""Everything that reads the code without running it: `make lint`, or `python -m tools.lint NAME ...` for some.

The checks run side by side, one on each core, and each runs even if another failed. Exit codes: 0 all are clean, 1 one
is not, 2 no such check.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tools import helm, render
from tools.local_cluster import ClusterError, assets

ROOT = Path(__file__).resolve().parent.parent
VALUES = ROOT / "tests" / "chart" / "values"
"""Files of values that together reach every part of the chart; a first line `# kube-version: 1.N.P` counts."""


class Failed(Exception):  # noqa: N818 - the word for a check that found something
    """A check found something; the message is its whole output."""


@dataclass(frozen=True)
class Check:
    """One line of the report. `run` raises `Failed`."""

    name: str
    about: str
    run: Callable[[], None]


def _command(*argv: str | Path) -> None:
    """Run a program at the root of the repository, with the environment's own programs first on the PATH."""
    scripts = sysconfig.get_path("scripts")
    env = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        shown = " ".join(map(str, argv))
        raise Failed(f"$ {shown}\n{done.stdout.decode(errors='replace').rstrip()}\nexit code {done.returncode}")


def _module(name: str, *args: str | Path) -> None:
    _command(sys.executable, "-P", "-m", name, *args)


def rendered() -> Iterator[tuple[str, render.Options]]:
    """What to render the chart with, and a name for it: the defaults, and each file in `VALUES`."""
    yield "defaults", render.Options(tests=True)
    for path in sorted(VALUES.glob("*.yaml")):
        yield path.stem, render.Options(values=(("--values", str(path)),), kube_version=kube_version(path), tests=True)


def kube_version(values: Path) -> str:
    """The Kubernetes version that a file of values is meant for."""
    mark, _, version = values.read_text().partition("\n")[0].partition("# kube-version:")
    return version.strip() if version and not mark else render.Options().kube_version


def _yamllint() -> None:
    _module("yamllint", "--strict", ".")
    with tempfile.TemporaryDirectory(prefix="akv-rendered-") as folder:
        seen: set[str] = set()
        for name, options in rendered():
            try:
                manifests = render.render(options)
            except helm.HelmError as error:
                raise Failed(f"rendering {name}: {error}") from error
            # Most objects are the same with any values; yamllint takes seconds for the CRDs alone.
            render.write([each for each in manifests if each.text not in seen], Path(folder) / name, force=False)
            seen.update(each.text for each in manifests)
        _module("yamllint", "--strict", "--config-file", ROOT / ".yamllint", folder)


def _helm() -> None:
    for _, options in rendered():
        values = [word for pair in options.values for word in pair]
        _command(helm.program(), "lint", "--strict", "--kube-version", options.kube_version, *values, helm.CHART)


def _ct() -> None:
    try:
        program = assets.tool("ct")
    except ClusterError as error:
        raise Failed(str(error)) from error
    _command(
        program,
        "lint",
        f"--charts={helm.CHART.relative_to(ROOT)}",
        f"--chart-yaml-schema={program.parent}/etc/chart_schema.yaml",
        f"--lint-conf={program.parent}/etc/lintconf.yaml",
        # These two ask a remote repository and a hosting service; neither need exist.
        "--check-version-increment=false",
        "--validate-maintainers=false",
        "--helm-lint-extra-args=--strict",
    )


CHECKS = (
    Check("mypy", "types", lambda: _module("mypy")),  # the longest, so that the others run beside it
    Check("ruff", "style and common mistakes in Python", lambda: _module("ruff", "check", "--quiet", ".")),
    Check("imports", "which package may import which", lambda: _command("lint-imports", "--no-cache")),
    Check(
        "generate",
        "generated files are what the generator makes",
        lambda: _module("tools.generate", "--check"),
    ),
    Check("yamllint", "YAML in the repository, and what the chart renders", _yamllint),
    Check("helm", "helm lint --strict, with several files of values", _helm),
    Check("ct", "chart-testing's rules for the chart", _ct),
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `--help`."""
    names = {check.name: check for check in CHECKS}
    parser = argparse.ArgumentParser(
        prog="python -m tools.lint",
        description="Reads the code without running it.",
        epilog="\n".join(["checks:", *(f"  {check.name:10}{check.about}" for check in CHECKS)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("check", nargs="*", help="run only these", metavar="CHECK")
    chosen = parser.parse_args(argv).check
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"no check is called {', '.join(unknown)}; there are {', '.join(names)}")
    checks = [check for check in CHECKS if not chosen or check.name in chosen]
    failed = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each check waits for programs that it starts
        for check, (passed, report) in zip(checks, pool.map(_result, checks), strict=True):
            print(report, flush=True)
            if not passed:
                failed.append(check.name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _result(check: Check) -> tuple[bool, str]:
    """Run a check; return whether it passed, and its lines of the report."""
    started = time.monotonic()
    found = ""
    try:
        check.run()
    except Failed as error:
        found = f"\n{error}\n"
    word = "FAILED" if found else "ok"
    return not found, f"{word:7}{check.name:10}{time.monotonic() - started:5.1f} s  {check.about}{found}"


if __name__ == "__main__":
    sys.exit(main())
