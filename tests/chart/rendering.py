"""The chart rendered by the pinned helm, and looking things up in what comes out."""

import base64
import json
from pathlib import Path
from typing import Any

import yaml

from tools import helm, kubelet

ROOT = Path(__file__).resolve().parents[2]
NEWEST, WITHOUT_POLICIES, OLDEST = "1.37.2", "1.29.15", "1.27.16"
FILES = sorted((Path(__file__).parent / "values").glob("*.yaml"))
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
    return [m for m in yaml.safe_load_all(found) if m]


def text(
    *args: str,
    version: str = NEWEST,
    release: str = helm.RELEASE,
    namespace: str = helm.RELEASE,
    given: Any = None,
    tests: bool = False,
) -> str:
    """What helm renders; without what only `helm test` applies, unless `tests`."""
    command = ["template", release, str(helm.CHART), "--namespace", namespace, "--kube-version", version, *args]
    command += [] if tests else ["--skip-tests"]
    return helm.run([*command, "--values", "-"] if given is not None else command, stdin=given and json.dumps(given))


def one(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    [found] = [m for m in manifests if m["kind"] == kind and (not name or m["metadata"]["name"] == name)]
    return found


def kinds(manifests: list[Manifest]) -> set[str]:
    return {m["kind"] for m in manifests}


def container(manifests: list[Manifest]) -> Manifest:
    [found] = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(manifests: list[Manifest]) -> dict[str, str]:
    """What a kubelet would set."""
    fields = {
        "metadata.namespace": "the-namespace",
        "metadata.name": "the-pod",
        "spec.serviceAccountName": "the-account",
    }

    def secret(name: str) -> dict[str, str]:
        return {key: base64.b64decode(text).decode() for key, text in one(manifests, "Secret", name)["data"].items()}

    return kubelet.environment(container(manifests)["env"], fields, {}, secret)


def version_for(path: Path) -> str:
    first = path.read_text().splitlines()[0]
    return first.removeprefix("# kube-version:").strip() if first.startswith("# kube-version:") else NEWEST
