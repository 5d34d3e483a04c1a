"""What a kubelet does before it starts a container, as far as it needs no node."""

import base64
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol


class WorkloadError(Exception):
    """The container cannot be run here, did not get ready, or did not stop."""


class Cluster(Protocol):
    """What is needed of a cluster; `tools.local_cluster.ControlPlane` has it."""

    def kubectl(self, *args: str) -> str:
        """What kubectl prints."""

    def account_environment(self, namespace: str, name: str, folder: Path) -> dict[str, str]:
        """The variables by which `controller.access` finds the API server as that ServiceAccount; files in `folder`."""


class Volumes:
    """A pod's volumes as folders."""

    def __init__(self, plane: Cluster, namespace: str, account: str, folder: Path) -> None:
        self._plane, self._namespace, self._account, self._folder = plane, namespace, account, folder

    def mount(self, volumes: list[dict[str, Any]], mounts: list[dict[str, Any]]) -> dict[str, Path]:
        """Where each mountPath is found here."""
        by_name = {volume["name"]: volume for volume in volumes}
        folders = {name: self._fill(self._folder / name, by_name[name]) for name in {m["name"] for m in mounts}}
        return {m["mountPath"].rstrip("/"): folders[m["name"]] / m.get("subPath", "") for m in mounts}

    def _fill(self, folder: Path, volume: Mapping[str, Any]) -> Path:
        folder.mkdir(parents=True)
        kind = next(key for key in volume if key != "name")
        if kind == "projected":
            for source in volume["projected"]["sources"]:
                ((part, about),) = source.items()
                self._write(folder, volume["name"], part, about)
        elif kind != "emptyDir":
            self._write(folder, volume["name"], kind, volume[kind])
        return folder

    def _write(self, folder: Path, volume: str, kind: str, about: Mapping[str, Any]) -> None:
        if kind == "configMap":
            files = self._config_map(about["name"])
        elif kind == "serviceAccountToken":
            files = {about["path"]: self._token(about)}
        else:
            raise WorkloadError(f"volume {volume}: {kind} cannot be had without a node")
        paths = {item["key"]: item["path"] for item in about.get("items", [])} or {name: name for name in files}
        for key, path in paths.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(files[key])

    def _config_map(self, name: str) -> dict[str, bytes]:
        arguments = ("get", "configmap", name, "--namespace", self._namespace, "--output", "json")
        found = json.loads(self._plane.kubectl(*arguments))
        texts = {key: value.encode() for key, value in found.get("data", {}).items()}
        return texts | {key: base64.b64decode(value) for key, value in found.get("binaryData", {}).items()}

    def _token(self, about: Mapping[str, Any]) -> bytes:
        seconds = about.get("expirationSeconds", 3600)
        flags = [
            f"--duration={seconds}s",
            *([f"--audience={about['audience']}"] if "audience" in about else []),
        ]
        return self._plane.kubectl("create", "token", self._account, "-n", self._namespace, *flags).strip().encode()


def secrets(plane: Cluster, namespace: str) -> Callable[[str], dict[str, str]]:
    """What the Secrets of a namespace hold, by their names."""

    def read(name: str) -> dict[str, str]:
        found = json.loads(plane.kubectl("get", "secret", name, "--namespace", namespace, "--output", "json"))
        return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}

    return read


def environment(
    entries: list[dict[str, Any]],
    fields: Mapping[str, str],
    places: Mapping[str, Path],
    secret: Callable[[str], Mapping[str, str]],
) -> dict[str, str]:
    """A container's `env` as plain values.

    `fields` is what a fieldRef may name, `places` is as in `relocate`, `secret` reads what a secretKeyRef names.
    """
    env: dict[str, str] = {}
    for entry in entries:
        name = entry["name"]
        source = entry.get("valueFrom", {})
        if not source:
            env[name] = relocate(expand(entry.get("value", ""), env), places)
        elif (field := source.get("fieldRef", {}).get("fieldPath")) in fields:
            env[name] = fields[field]
        elif reference := source.get("secretKeyRef"):
            env[name] = secret(reference["name"])[reference["key"]]
        else:
            raise WorkloadError(f"env {name}: {json.dumps(source)} cannot be had without a node")
    return env


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)` replaced as Kubernetes does: an unknown name stays as it is, and `$$` is one dollar sign."""

    def replacement(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else env.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([-._a-zA-Z0-9]+)\)", replacement, text)


def relocate(text: str, places: Mapping[str, Path]) -> str:
    """`text` with each mountPath in it, whole or with a path below it, replaced by where it is here."""
    if not places:
        return text
    # Longest first, and in one pass: a place may itself contain another mountPath, such as /tmp.
    known = "|".join(re.escape(path) for path in sorted(places, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])({known})(?![\w.-])", lambda match: str(places[match[1]]), text)
