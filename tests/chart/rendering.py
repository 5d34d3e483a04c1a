"""Render the chart with the pinned helm, and find objects in the result."""

import base64
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from controller.runtime import bounded_yaml
from tools.cli.common import helm
from tools.pods import pod_emulation

ROOT = Path(__file__).resolve().parents[2]
NEWEST, WITHOUT_POLICIES, OLDEST = "1.37.2", "1.29.15", "1.27.16"
FILES = sorted((Path(__file__).parent / "values").glob("*.yaml"))
OLD_RELEASES = sorted((Path(__file__).parent / "old-releases").glob("*.tgz"))
"""Packages of earlier charts, for tests of upgrades."""
FULL_NAME = f"{helm.RELEASE}-akv-secret-store"
Manifest = dict[str, Any]


def render(
    *args: str,
    version: str = NEWEST,
    release: str = helm.RELEASE,
    namespace: str = helm.RELEASE,
    given: Any = None,
    tests: bool = False,
) -> list[Manifest]:
    stream = render_text(*args, version=version, release=release, namespace=namespace, given=given, tests=tests)
    return parse_objects(stream)


def parse_objects(stream: str) -> list[Manifest]:
    """Return the objects of a YAML stream, with the items of a List instead of the List."""
    found = [m for m in yaml.load_all(stream, Loader=bounded_yaml.LOADER) if m]
    return [item for m in found for item in (m["items"] if m["kind"] == "List" else [m])]


def render_text(
    *args: str,
    version: str = NEWEST,
    release: str = helm.RELEASE,
    namespace: str = helm.RELEASE,
    given: Any = None,
    tests: bool = False,
) -> str:
    """Return the text that helm renders, with the objects of `helm test` only if `tests` is true."""
    command = ["template", release, str(helm.CHART), "--namespace", namespace, "--kube-version", version, *args]
    command += [] if tests else ["--skip-tests"]
    return _run_helm(*command) if given is None else _run_helm(*command, "--values", "-", stdin=json.dumps(given))


@functools.cache
def _run_helm(*command: str, stdin: str | None = None) -> str:
    """Run helm once for each command, because many tests read the same objects of the same chart."""
    return helm.run(command, stdin=stdin)


def get_object(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    [found] = [m for m in manifests if m["kind"] == kind and (not name or m["metadata"]["name"] == name)]
    return found


def list_kinds(manifests: list[Manifest]) -> set[str]:
    return {m["kind"] for m in manifests}


def get_container(manifests: list[Manifest]) -> Manifest:
    [found] = get_object(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def build_environment(manifests: list[Manifest]) -> dict[str, str]:
    """Return the environment variables that a kubelet would set."""
    fields = {
        "metadata.namespace": "the-namespace",
        "metadata.name": "the-pod",
        "spec.serviceAccountName": "the-account",
    }

    def secret(name: str) -> dict[str, str]:
        return {
            key: base64.b64decode(text).decode() for key, text in get_object(manifests, "Secret", name)["data"].items()
        }

    return pod_emulation.container_environment(get_container(manifests)["env"], fields, {}, secret)


def read_kube_version(path: Path) -> str:
    first = path.read_text().splitlines()[0]
    return first.removeprefix("# kube-version:").strip() if first.startswith("# kube-version:") else NEWEST


def get_pod_spec(manifests: list[Manifest], kind: str = "Deployment") -> Manifest:
    return dict(get_object(manifests, kind)["spec"]["template"]["spec"])


def nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, which are given by dotted paths, as the nested groups of a values file."""
    whole: dict[str, Any] = {}
    for path, value in given.items():
        *groups, name = path.split(".")
        parent = whole
        for group in groups:
            parent = parent.setdefault(group, {})
        parent[name] = value
    return whole
