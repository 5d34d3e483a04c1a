"""The chart rendered by the pinned helm, and looking things up in what comes out."""

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
    found = text(*args, version=version, release=release, namespace=namespace, given=given, tests=tests)
    return parsed(found)


def parsed(stream: str) -> list[Manifest]:
    """Return the objects of a YAML stream, read by the C parser; a List is its items."""
    found = [m for m in yaml.load_all(stream, Loader=bounded_yaml.LOADER) if m]
    return [item for m in found for item in (m["items"] if m["kind"] == "List" else [m])]


def text(
    *args: str,
    version: str = NEWEST,
    release: str = helm.RELEASE,
    namespace: str = helm.RELEASE,
    given: Any = None,
    tests: bool = False,
) -> str:
    """Return what helm renders; without what only `helm test` applies, unless `tests`."""
    command = ["template", release, str(helm.CHART), "--namespace", namespace, "--kube-version", version, *args]
    command += [] if tests else ["--skip-tests"]
    return _printed(*command) if given is None else _printed(*command, "--values", "-", stdin=json.dumps(given))


@functools.cache
def _printed(*command: str, stdin: str | None = None) -> str:
    """Run helm once for each command: many tests read the same objects of the same chart."""
    return helm.run(command, stdin=stdin)


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    [found] = [m for m in manifests if m["kind"] == kind and (not name or m["metadata"]["name"] == name)]
    return found


def kinds(manifests: list[Manifest]) -> set[str]:
    return {m["kind"] for m in manifests}


def container(manifests: list[Manifest]) -> Manifest:
    [found] = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(manifests: list[Manifest]) -> dict[str, str]:
    """Return what a kubelet would set."""
    fields = {
        "metadata.namespace": "the-namespace",
        "metadata.name": "the-pod",
        "spec.serviceAccountName": "the-account",
    }

    def secret(name: str) -> dict[str, str]:
        return {key: base64.b64decode(text).decode() for key, text in one(manifests, "Secret", name)["data"].items()}

    return pod_emulation.container_environment(container(manifests)["env"], fields, {}, secret)


def version_for(path: Path) -> str:
    first = path.read_text().splitlines()[0]
    return first.removeprefix("# kube-version:").strip() if first.startswith("# kube-version:") else NEWEST


def pod(manifests: list[Manifest], kind: str = "Deployment") -> Manifest:
    return dict(one(manifests, kind)["spec"]["template"]["spec"])


def nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their dotted paths, as a file would say them."""
    whole: dict[str, Any] = {}
    for path, value in given.items():
        *groups, name = path.split(".")
        place = whole
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return whole
