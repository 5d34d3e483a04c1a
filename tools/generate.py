"""Writes every file that is made from the types: CRDs, Roles, policies, values, their schema, reference pages.

Exit codes: 0 all files are written, or as they should be; 1 `--check` found differences; 2 wrong usage, or types that
cannot be written.
"""

import argparse
import difflib
import json
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from controller.clouds import CLOUD_ALIASES
from controller.settings import BUILT_IN_CLOUDS, DEFAULT_CLOUD, Settings
from tools import (
    command,
    crds,
    deployment,
    docs,
    monitoring,
    policies,
    printable,
    rbac,
    reference,
    schema,
    text,
    values,
)

ROOT = Path(__file__).resolve().parent.parent
_SHOWN_LINES = 20


def files(chart: values.ChartValues | None = None) -> Iterator[tuple[str, str]]:
    """Path in the repository and content of every generated file; a release has other defaults in its `chart`."""
    chart = chart or values.ChartValues()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    definitions = crds.every()
    yield (
        "chart/Chart.yaml",
        text.render(
            "Chart.yaml",
            description=project["description"],
            version=project["version"],
            since=policies.SINCE,
            image=chart.image.reference(project["version"]),
            definitions=definitions,
        ),
    )
    for definition in definitions:
        head = f"# {text.by('controller/api and tools/crds.py')}\n"
        yield f"chart/crds/{definition['metadata']['name']}.yaml", head + text.yaml(definition)
    yield (
        "chart/templates/deployment.yaml",
        text.render(
            "deployment.yaml",
            environment=deployment.environment(),
            port=Settings().listen_port,
            health_port=Settings().health_port,
            grace_seconds=deployment.GRACE_SECONDS,
            folder=deployment.FOLDER,
            clouds_file=deployment.CLOUDS_FILE,
            ca_file=deployment.CA_FILE,
            test_clouds_folder=deployment.TEST_CLOUDS_FOLDER,
            logs_folder=deployment.LOGS_FOLDER,
        ),
    )
    roles = (
        rbac.controller,
        rbac.akv_sync,
        rbac.identity,
        rbac.home,
        rbac.lease,
        rbac.probe,
        rbac.token_probe,
        rbac.people,
    )
    yield "chart/templates/rbac.yaml", text.render("rbac.yaml", **{role.__name__: role() for role in roles})
    yield "chart/templates/crd-job.yaml", text.render("crd-job.yaml", rules=rbac.crd_job(), policy=policies.CRD_JOB)
    yield "chart/templates/test.yaml", text.render("test.yaml", sample=rbac.test_sample(), vault=rbac.test_vault())
    yield (
        "chart/templates/policies.yaml",
        text.render("policies.yaml", policies=policies.POLICIES, since=policies.SINCE),
    )
    yield (
        "chart/templates/checks.yaml",
        text.render(
            "checks.yaml",
            clouds=list(BUILT_IN_CLOUDS),
            cloud_aliases=CLOUD_ALIASES,
            default_cloud=DEFAULT_CLOUD,
            since=policies.SINCE,
            never_types=policies.NEVER_ALLOWED,
            variables=[variable.name for variable in deployment.environment()],
        ),
    )
    yield (
        "chart/templates/monitoring.yaml",
        text.render(
            "monitoring.yaml",
            port=Settings().listen_port,
            alarms=monitoring.ALARMS,
            longest=monitoring.LONGEST,
        ),
    )
    yield "chart/dashboard.json", monitoring.dashboard()
    yield "chart/values.yaml", docs.values_yaml(chart)
    yield "chart/README.md", docs.readme(project["description"], chart)
    yield "docs/reference.md", reference.page()
    yield "SECURITY.md", docs.with_budgets((ROOT / "SECURITY.md").read_text())
    value_schema = json.dumps(values.schema(), indent=2, ensure_ascii=False) + "\n"
    yield "chart/values.schema.json", value_schema
    yield "values.schema.json", value_schema


def write(folder: Path) -> int:
    """Writes every file below that folder, where it differs; returns how many did."""
    changed = 0
    for name, content in files():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
            changed += 1
    return changed


def differences(folder: Path) -> Iterator[str]:
    """A short diff for each file below that folder that is not as it should be, a line for each that is too many."""
    with tempfile.TemporaryDirectory(prefix="akv-generate-") as scratch:
        fresh = Path(scratch)
        write(fresh)
        names = {str(path.relative_to(fresh)) for path in fresh.rglob("*") if path.is_file()}
        for name in sorted(names):
            is_there = (folder / name).exists()
            old = (folder / name).read_text().splitlines() if is_there else []
            new = (fresh / name).read_text().splitlines()
            diff = list(difflib.unified_diff(old, new, f"{name} (here)", f"{name} (generated)", lineterm="", n=1))
            if diff or not is_there:
                more = [f"… {len(diff) - _SHOWN_LINES} more lines"] if len(diff) > _SHOWN_LINES else []
                yield "\n".join([*(diff or [f"{name} is missing"])[:_SHOWN_LINES], *more])
        for stray in sorted((folder / "chart" / "crds").glob("*")):
            if (name := str(stray.relative_to(folder))) not in names:
                yield f"{name} is not made from any type: delete it"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="tools/generate",
        description="Write the files that are made from the types in controller/ and tools/: "
        "CRDs, Roles, admission policies, values.yaml, values.schema.json, the chart's README and docs/reference.md.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file differs, and show how")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to write to (default: this one)")
    options = parser.parse_args(argv)
    if options.check and not (options.root / "chart").is_dir():
        parser.error(f"--root {options.root}: is no checkout; there is no folder chart in it")
    try:
        if options.check:
            found = list(differences(options.root))
        else:
            found = []
            print(f"{write(options.root)} files changed")
    except (schema.SchemaError, deployment.SourceError, rbac.ScopeError) as error:
        print(printable.block(f"tools/generate: {error}"), file=sys.stderr)
        return 2
    for difference in found:
        print(difference, file=sys.stderr)
    if found:
        print(f"{len(found)} files differ from what is generated: run `make generate`", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    command.end("tools/generate", main)
