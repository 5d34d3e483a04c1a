"""Generate values.yaml with its comments, and the tables of the chart's README and of SECURITY.md."""

import json
from typing import Any

import msgspec

from controller.akvsync.expand import expand_akvsync
from controller.api.akvsync import MAX_OBJECTS, MAX_PARTS, MAX_VERSIONS, AKVSync
from controller.api.conditions import Reason
from controller.config.settings import Settings
from controller.keyvault.objects import SOURCES
from controller.observability.telemetry import Metrics
from controller.runtime import budgets
from controller.secretsync import collector
from controller.secretsync.status_reporter import ATTENTION
from tools.cli.common import sse_guide, templating
from tools.codegen import crds, monitoring, policies, rbac, values


def values_yaml(chart: values.ChartValues) -> str:
    """Return chart/values.yaml."""
    lines = [
        f"# {templating.generated_by('tools/codegen/values/')}",
        "# yaml-language-server: $schema=values.schema.json",
        "# Every value can also be a string, because Azure Arc passes all of them as strings. null means the default.",
    ]
    for entry in values.walk(chart):
        *groups, name = entry.path.split(".")
        indent = "  " * len(groups)
        if not groups:
            lines.append("")
        lines += [
            f"{indent}{line}"
            for line in templating.to_comment(entry.description, templating.WIDTH - len(indent)).splitlines()
        ]
        if isinstance(entry, values.GroupNode):
            lines.append(f"{indent}{name}:")
            continue
        for example in entry.examples:
            lines.append(f"{indent}# For example:")
            lines += [f"{indent}#   {line}" for line in templating.to_yaml({name: example}).splitlines()]
        lines += [f"{indent}{line}" for line in templating.to_yaml({name: entry.default}).splitlines()]
    return "\n".join(lines) + "\n"


def defaults_template(chart: values.ChartValues) -> str:
    """Return chart/templates/_defaults.tpl: the defaults of the values, by the path of their group."""
    groups: dict[str, dict[str, Any]] = {"": {}}
    for entry in values.walk(chart):
        if isinstance(entry, values.GroupNode):
            groups[entry.path] = {}
        else:
            group, _, name = entry.path.rpartition(".")
            groups[group][name] = entry.default
    return templating.render_template("defaults.tpl", defaults=json.dumps(groups, sort_keys=True))


def _rights_table(rules: list[rbac.PolicyRule]) -> str:
    return table(
        ("resources", "verbs", "purpose"),
        [(f"`{'`, `'.join(rule.resources)}`", ", ".join(rule.verbs), "; ".join(rule.why)) for rule in rules],
    )


def readme(description: str, chart: values.ChartValues) -> str:
    """Return chart/README.md."""
    return templating.render_template(
        "README.md",
        description=description,
        since=policies.SINCE,
        port=Settings().listen_port,
        health_port=Settings().health_port,
        values=table(
            ("value", "default", "meaning"),
            [
                (f"`{leaf.path}`", f"`{templating.to_inline_yaml(leaf.default)}`", leaf.description)
                for leaf in values.walk(chart)
                if isinstance(leaf, values.LeafValue)
            ],
        ),
        rights=_rights_table([*rbac.controller(), *rbac.tokens(), *rbac.akv_sync()]),
        identity=rbac.identity(),
        metrics_access=rbac.metrics_access(),
        home=_rights_table(rbac.home()),
        lease=rbac.lease(),
        probe=rbac.probe(),
        test_sample=_rights_table(rbac.test_sample()),
        test_vault=_rights_table(rbac.test_vault()),
        metrics=table(
            ("metric", "labels", "meaning"),
            [
                (f"`{item.name}`", ", ".join(f"`{label}`" for label in item.labels), item.meaning)
                for item in (*Metrics().described, *collector.DESCRIBED)
            ],
        ),
        alerts=table(
            ("alert", "condition", "expression"),
            [(f"`{rule.name}`", rule.what, f"`{rule.expression}`") for rule in monitoring.ALERTING_RULES],
        ),
        people=rbac.people(),
        akv_sync=sse_guide.AKV_SYNC.strip(),
        made=table(
            ("Secret", "type", "keys, and the sourcePath of each"),
            [
                (
                    f"`{name}`",
                    sync.spec.secret_object.type,
                    ", ".join(f"`{pair.target_key}` (`{pair.source_path}`)" for pair in sync.spec.secret_object.data),
                )
                for name, sync in expand_akvsync(msgspec.yaml.decode(sse_guide.AKV_SYNC, type=AKVSync)).syncs.items()
            ],
        ),
        most_objects=MAX_OBJECTS,
        most_parts=MAX_PARTS,
        most_versions=MAX_VERSIONS,
        policies=policies.POLICIES,
        crd_policy=policies.CRD_JOB,
        token_probe=rbac.token_probe(),
        roles={kind: source.role for kind, source in SOURCES.items()},
        attention=ATTENTION,
        reasons=table(
            ("reason", "meaning", "next step"),
            [(f"`{reason}`", reason.meaning, reason.next_step) for reason in Reason],
        ),
        widenings=table(
            ("kind", "field", "difference and reason"),
            [(widening.kind, f"`{widening.field}`", widening.reason) for widening in crds.WIDENINGS],
        ),
    )


BUDGETS_BEGIN, BUDGETS_END = "<!-- budgets: generated from controller/runtime/budgets.py -->", "<!-- /budgets -->"


def budget_table() -> str:
    """Return the table of `controller.runtime.budgets` as Markdown."""
    return table(
        ("limited resource of a namespace", "limit", "effect of the limit", "test"),
        [
            (item.resource, f"{item.limit:,.12g} {item.unit}", item.at_the_limit, f"`{item.test}`")
            for item in budgets.BUDGETS
        ],
    )


def with_budgets(page: str) -> str:
    """Return the page with the current table of budgets between its marks."""
    before, begin, rest = page.partition(BUDGETS_BEGIN)
    _, end, after = rest.partition(BUDGETS_END)
    if not begin or not end:
        raise ValueError(f"SECURITY.md needs the lines {BUDGETS_BEGIN} and {BUDGETS_END}")
    return f"{before}{BUDGETS_BEGIN}\n\n{budget_table()}\n\n{BUDGETS_END}{after}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""

    def line(cells: tuple[Any, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)])
