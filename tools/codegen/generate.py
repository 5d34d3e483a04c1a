"""Write every file that is generated from the types: CRDs, Roles, policies, values, their schema, reference pages.

Exit codes: 0 if all files are written or up to date; 1 if `--check` found differences; 2 for wrong usage, or for types
without a schema.
"""

import difflib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from controller.api.akvsync import AKVSync
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.config.clouds import CLOUD_ALIASES
from controller.config.settings import BUILT_IN_CLOUDS, DEFAULT_CLOUD
from tools.cli.common import changelog, command, printable, project, sse_guide, templating
from tools.codegen import crds, deployment, docs, monitoring, openapi, policies, rbac, reference, values

ROOT = Path(__file__).resolve().parents[2]
_SHOWN_LINES = 20
_LINKS = {
    "Install": "docs/install.md",
    "Write SecretSyncs and AKVSyncs": "docs/secretsyncs.md",
    "Security": "SECURITY.md",
    "Versions and support": "docs/versions.md",
    "Changelog": "CHANGELOG.md",
}
"""The links that Artifact Hub shows beside the chart: name and page."""


def files(chart: values.ChartValues | None = None) -> Iterator[tuple[str, str]]:
    """Yield the path and content of each generated file. A release passes a `chart` with other defaults."""
    chart = chart or values.ChartValues()
    about = project.read()
    definitions = crds.build_all()
    test_image = msgspec.structs.replace(chart.test.image, registry=chart.test.image.registry or chart.image.registry)
    yield (
        "chart/Chart.yaml",
        templating.render_template(
            "Chart.yaml",
            project=about,
            since=policies.SINCE,
            image=chart.image.reference(about.version),
            test_image=test_image.reference(about.version) if chart.test.enabled else "",
            definitions=definitions,
            examples=sse_guide.load_examples(),
            changes=changelog.entries((ROOT / "CHANGELOG.md").read_text(), about.version),
            links=_LINKS,
        ),
    )
    for definition in definitions:
        # helm show crds prints the files one after another and adds no separator.
        head = f"---\n# {templating.generated_by('controller/api and tools/codegen/crds.py')}\n"
        yield f"chart/crds/{definition['metadata']['name']}.yaml", head + templating.to_yaml(definition)
    yield (
        "chart/templates/deployment.yaml",
        templating.render_template(
            "deployment.yaml",
            environment=deployment.environment(),
            malloc=deployment.MALLOC,
            grace_seconds=deployment.GRACE_SECONDS,
            folder=deployment.FOLDER,
            metrics_tls_folder=deployment.METRICS_TLS_FOLDER,
            clouds_file=deployment.CLOUDS_FILE,
            ca_file=deployment.CA_FILE,
            test_clouds_folder=deployment.TEST_CLOUDS_FOLDER,
            logs_folder=deployment.LOGS_FOLDER,
            # The form of sprig's toJson.
            strategy=json.dumps(values.ChartValues().strategy, separators=(",", ":"), sort_keys=True),
        ),
    )
    roles = (
        rbac.controller,
        rbac.tokens,
        rbac.akv_sync,
        rbac.identity,
        rbac.home,
        rbac.lease,
        rbac.probe,
        rbac.token_probe,
        rbac.people,
        rbac.metrics_access,
    )
    yield (
        "chart/templates/rbac.yaml",
        templating.render_template("rbac.yaml", **{role.__name__: role() for role in roles}),
    )
    yield (
        "chart/templates/crd-job.yaml",
        templating.render_template("crd-job.yaml", rules=rbac.crd_job(), policy=policies.CRD_JOB),
    )
    yield (
        "chart/templates/test.yaml",
        templating.render_template("test.yaml", sample=rbac.test_sample(), vault=rbac.test_vault()),
    )
    yield (
        "chart/templates/policies.yaml",
        templating.render_template("policies.yaml", policies=policies.POLICIES, since=policies.SINCE),
    )
    yield (
        "chart/templates/checks.yaml",
        templating.render_template(
            "checks.yaml",
            clouds=list(BUILT_IN_CLOUDS),
            kinds=[f"{kind.api_version()}/{kind.kind}" for kind in (SecretSync, SecretProviderClass, AKVSync)],
            cloud_aliases=CLOUD_ALIASES,
            default_cloud=DEFAULT_CLOUD,
            since=policies.SINCE,
            never_types=policies.NEVER_ALLOWED,
            proxy_url=values.PROXY_URL,
            variables=[*deployment.MALLOC, *(variable.name for variable in deployment.environment())],
            folders=deployment.MOUNTED,
        ),
    )
    yield (
        "chart/templates/monitoring.yaml",
        templating.render_template(
            "monitoring.yaml",
            rules=monitoring.ALERTING_RULES,
        ),
    )
    yield "chart/dashboard.json", monitoring.dashboard()
    yield "chart/templates/_defaults.tpl", docs.defaults_template(chart)
    yield "chart/values.yaml", docs.values_yaml(chart)
    yield "chart/README.md", docs.readme(about.description, chart)
    yield "docs/reference.md", reference.page()
    yield "SECURITY.md", docs.with_budgets((ROOT / "SECURITY.md").read_text())
    value_schema = json.dumps(values.schema(), indent=2, ensure_ascii=False) + "\n"
    yield "chart/values.schema.json", value_schema
    yield "values.schema.json", value_schema


def write(folder: Path) -> int:
    """Write every file that differs below that folder, and return their number."""
    changed = 0
    for name, content in files():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
            changed += 1
    return changed


def differences(folder: Path) -> Iterator[str]:
    """Yield a short diff for each file below that folder that is not up to date, and a line for each extra file."""
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
                yield f"{name} is not generated from any type: delete it"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code; see `--help`."""
    parser = command.ToolParser(
        prog="tools/generate",
        description="Write the files that are generated from the types in controller/ and tools/: "
        "CRDs, Roles, admission policies, values.yaml, values.schema.json, the chart's README and docs/reference.md.",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if a file differs, and show the difference"
    )
    parser.add_argument(
        "--root", type=command.parse_path, default=ROOT, help="the checkout to write to (default: this one)"
    )
    options = parser.parse_args(argv)
    if options.check and not (options.root / "chart").is_dir():
        parser.error(f"--root {options.root} has no folder chart: give the root of a checkout")
    try:
        if options.check:
            found = list(differences(options.root))
        else:
            found = []
            print(f"{write(options.root)} files changed")
    except (openapi.SchemaError, deployment.SourceError, rbac.ScopeError) as error:
        print(printable.block(f"tools/generate: {error}"), file=sys.stderr)
        return 2
    for difference in found:
        print(difference, file=sys.stderr)
    if found:
        print(f"{len(found)} files differ from what is generated: run `make generate`", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    command.run_and_exit("tools/generate", main)
