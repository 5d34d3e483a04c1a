"""Run all checks that read the code without running it: `make lint`, or `python -m tools.lint NAME ...` for some.

The checks run side by side, one on each core. Each runs even if another failed. Exit codes: 0 if all checks pass, 1 if
one fails, 2 if a check does not exist.
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

from tools import plain_english
from tools.cli.common import helm
from tools.cli.render import render
from tools.local_cluster import ClusterError
from tools.local_cluster.programs import assets

ROOT = Path(__file__).resolve().parents[1]
VALUES = ROOT / "tests" / "chart" / "values"
"""Files of values that together reach every part of the chart; a first line `# kube-version: 1.N.P` counts."""


class CheckFailed(Exception):  # noqa: N818 - the name says what happened
    """A check found something. The message is the check's whole output."""


@dataclass(frozen=True)
class LintCheck:
    """One line of the report. `run` raises `CheckFailed`."""

    name: str
    about: str
    run: Callable[[], None]


def _english() -> None:
    if lines := plain_english.check(ROOT, plain_english.LanguageRules.read()):
        raise CheckFailed("\n".join(lines))


def _run_command(*argv: str | Path) -> None:
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
        raise CheckFailed(f"$ {shown}\n{done.stdout.decode(errors='replace').rstrip()}\nexit code {done.returncode}")


def _run_module(name: str, *args: str | Path) -> None:
    _run_command(sys.executable, "-P", "-m", name, *args)


def rendered() -> Iterator[tuple[str, render.RenderOptions]]:
    """Yield a name and options for each rendering of the chart: the defaults, and each file in `VALUES`."""
    yield "defaults", render.RenderOptions(tests=True)
    for path in sorted(VALUES.glob("*.yaml")):
        yield (
            path.stem,
            render.RenderOptions(values=(("--values", str(path)),), kube_version=kube_version(path), tests=True),
        )


def kube_version(values: Path) -> str:
    """Return the Kubernetes version that a file of values is meant for."""
    mark, _, version = values.read_text().partition("\n")[0].partition("# kube-version:")
    return version.strip() if version and not mark else render.RenderOptions().kube_version


def _run_yamllint() -> None:
    _run_module("yamllint", "--strict", ".")
    with tempfile.TemporaryDirectory(prefix="akv-rendered-") as folder:
        seen: set[str] = set()
        for name, options in rendered():
            try:
                manifests = render.render(options)
            except helm.HelmError as error:
                raise CheckFailed(f"rendering {name}: {error}") from error
            # Most objects are the same with any values; yamllint takes seconds for the CRDs alone.
            render.write([each for each in manifests if each.text not in seen], Path(folder) / name, force=False)
            seen.update(each.text for each in manifests)
        _run_module("yamllint", "--strict", "--config-file", ROOT / ".yamllint", folder)


def _run_helm_lint() -> None:
    for _, options in rendered():
        values = [word for pair in options.values for word in pair]
        _run_command(
            helm.find_executable(), "lint", "--strict", "--kube-version", options.kube_version, *values, helm.CHART
        )


def _run_ct() -> None:
    try:
        program = assets.tool("ct")
    except ClusterError as error:
        raise CheckFailed(str(error)) from error
    _run_command(
        program,
        "lint",
        f"--charts={helm.CHART.relative_to(ROOT)}",
        f"--chart-yaml-schema={program.parent}/etc/chart_schema.yaml",
        f"--lint-conf={program.parent}/etc/lintconf.yaml",
        # These two need a remote repository and a hosting service.
        "--check-version-increment=false",
        "--validate-maintainers=false",
        "--helm-lint-extra-args=--strict",
    )


def _check_workflows() -> None:
    try:
        program = assets.tool("actionlint")
    except ClusterError as error:
        raise CheckFailed(str(error)) from error
    folder = Path(".github")
    workflows = sorted(str(path.relative_to(ROOT)) for path in (ROOT / folder / "workflows").glob("*.yml"))
    # Without these options the result depends on whether shellcheck and pyflakes are installed.
    _run_command(program, "-no-color", "-shellcheck=", "-pyflakes=", *workflows)
    _run_command("zizmor", "--offline", "--no-progress", "--color=never", "--persona=regular", folder)
    schemas = {"vendor.github-workflows": workflows, "vendor.renovate": [str(folder / "renovate.json")]}
    for schema, files in schemas.items():
        _run_command("check-jsonschema", f"--builtin-schema={schema}", *files)


CHECKS = (
    LintCheck(
        "mypy", "types", lambda: _run_module("mypy")
    ),  # the slowest check is first, so that the others run beside it
    LintCheck("ruff", "style and common mistakes in Python", lambda: _run_module("ruff", "check", "--quiet", ".")),
    LintCheck("format", "the layout of Python code", lambda: _run_module("ruff", "format", "--check", ".")),
    LintCheck("english", "forbidden words, and docstrings in the imperative", _english),
    LintCheck("spelling", "codespell's list of misspellings", lambda: _run_command("codespell")),
    LintCheck("imports", "the layers of packages", lambda: _run_command("lint-imports", "--no-cache")),
    LintCheck(
        "generate",
        "generated files are what the generator makes",
        lambda: _run_module("tools.codegen.generate", "--check"),
    ),
    LintCheck("yamllint", "YAML in the repository, and what the chart renders", _run_yamllint),
    LintCheck("helm", "helm lint --strict, with several files of values", _run_helm_lint),
    LintCheck("ct", "chart-testing's rules for the chart", _run_ct),
    LintCheck("workflows", "actionlint, zizmor and the schemas of .github/", _check_workflows),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    names = {check.name: check for check in CHECKS}
    parser = argparse.ArgumentParser(
        prog="python -m tools.lint",
        description="Check the code without running it.",
        epilog="\n".join(["checks:", *(f"  {check.name:10}{check.about}" for check in CHECKS)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("check", nargs="*", help="run only these checks", metavar="CHECK")
    chosen = parser.parse_args(argv).check
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"no check is called {', '.join(unknown)}; the checks are {', '.join(names)}")
    checks = [check for check in CHECKS if not chosen or check.name in chosen]
    failed = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each check waits for programs that it starts
        for check, (passed, report) in zip(checks, pool.map(_run_check, checks), strict=True):
            print(report, flush=True)
            if not passed:
                failed.append(check.name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run_check(check: LintCheck) -> tuple[bool, str]:
    """Run a check. Return whether it passed, and its lines of the report."""
    started = time.monotonic()
    found = ""
    try:
        check.run()
    except CheckFailed as error:
        found = f"\n{error}\n"
    word = "FAILED" if found else "ok"
    return not found, f"{word:7}{check.name:10}{time.monotonic() - started:5.1f} s  {check.about}{found}"


if __name__ == "__main__":
    sys.exit(main())
