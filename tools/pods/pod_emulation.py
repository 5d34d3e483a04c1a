"""Prepare a container as a kubelet does before its start, as far as this is possible without a node."""

import base64
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol


class WorkloadError(Exception):
    """The container cannot run here, did not become ready, or did not stop."""


class Cluster(Protocol):
    """The methods of a cluster that this module needs. `tools.local_cluster.ControlPlane` has them."""

    def kubectl(self, *args: str) -> str:
        """Run kubectl and return its output."""

    def read_object(self, path: str) -> dict[str, Any]:
        """Return the object at this path of the API."""

    def find_object(self, path: str) -> dict[str, Any] | None:
        """Return the object at this path of the API; None if there is none."""

    def account_environment(self, namespace: str, name: str, folder: Path) -> dict[str, str]:
        """Return the variables for a client of the API server as that ServiceAccount. Its files are in `folder`."""


class PodVolumes:
    """The volumes of a pod as folders. All files of a volume change at once."""

    def __init__(self, plane: Cluster, namespace: str, account: str, folder: Path) -> None:
        self._plane, self._namespace, self._account, self._folder = plane, namespace, account, folder
        self._mounted: dict[str, Mapping[str, Any]] = {}

    def mount(self, volumes: list[dict[str, Any]], mounts: list[dict[str, Any]]) -> dict[str, Path]:
        """Create the folders of the volumes. Return the folder for each mountPath."""
        names = {mount["name"] for mount in mounts}
        self._mounted = {volume["name"]: volume for volume in volumes if volume["name"] in names}
        for name in self._mounted:
            (self._folder / name).mkdir(parents=True)
        self.refresh()
        return {m["mountPath"].rstrip("/"): self._folder / m["name"] / m.get("subPath", "") for m in mounts}

    def refresh(self) -> None:
        """Update the volumes from the API server. A kubelet does this within two minutes of a change."""
        for name, volume in self._mounted.items():
            if "emptyDir" not in volume:
                _publish_files(self._folder / name, self._volume_files(volume))

    def _volume_files(self, volume: Mapping[str, Any]) -> dict[str, bytes]:
        kind = next(key for key in volume if key != "name")
        if kind != "projected":
            return self._source_files(volume["name"], kind, volume[kind])
        files: dict[str, bytes] = {}
        for source in volume["projected"]["sources"]:
            ((part, about),) = source.items()
            files |= self._source_files(volume["name"], part, about)
        return files

    def _source_files(self, volume: str, kind: str, about: Mapping[str, Any]) -> dict[str, bytes]:
        if kind in ("configMap", "secret"):
            files = self._read_data(
                kind, about.get("name") or about["secretName"], optional=about.get("optional", False)
            )
        elif kind == "serviceAccountToken":
            files = {about["path"]: self._request_token(about)}
        else:
            raise WorkloadError(f"volume {volume}: {kind} needs a node")
        paths = {item["key"]: item["path"] for item in about.get("items", [])} or {name: name for name in files}
        return {path: files[key] for key, path in paths.items() if key in files or not about.get("optional")}

    def _read_data(self, kind: str, name: str, *, optional: bool) -> dict[str, bytes]:
        path = f"/api/v1/namespaces/{self._namespace}/{kind.lower()}s/{name}"
        found = (self._plane.find_object(path) or {}) if optional else self._plane.read_object(path)
        encoded = found.get("data" if kind == "secret" else "binaryData", {})
        texts = {} if kind == "secret" else found.get("data", {})
        return {key: text.encode() for key, text in texts.items()} | {
            key: base64.b64decode(text) for key, text in encoded.items()
        }

    def _request_token(self, about: Mapping[str, Any]) -> bytes:
        seconds = about.get("expirationSeconds", 3600)
        flags = [
            f"--duration={seconds}s",
            *([f"--audience={about['audience']}"] if "audience" in about else []),
        ]
        return self._plane.kubectl("create", "token", self._account, "-n", self._namespace, *flags).strip().encode()


def _publish_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace the files of a volume. Each name is a link through `..data`, and one rename replaces `..data`."""
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    for path, content in files.items():
        (fresh / path).parent.mkdir(parents=True, exist_ok=True)
        (fresh / path).write_bytes(content)
    data, new = folder / "..data", folder / "..new"
    old = data.resolve() if data.exists() else None
    new.symlink_to(fresh.name)
    new.rename(data)
    for name in {Path(path).parts[0] for path in files}:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    for link in folder.iterdir():
        if not link.exists():
            link.unlink()
    if old:
        shutil.rmtree(old)


def secret_reader(plane: Cluster, namespace: str) -> Callable[[str], dict[str, str]]:
    """Return a function that reads the values of a Secret of the namespace by the Secret's name."""

    def read(name: str) -> dict[str, str]:
        found = plane.read_object(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}

    return read


def container_environment(
    entries: list[dict[str, Any]],
    fields: Mapping[str, str],
    places: Mapping[str, Path],
    secret: Callable[[str], Mapping[str, str]],
) -> dict[str, str]:
    """Return a container's `env` as plain values.

    `fields` has the values for each fieldRef. `places` has the folder of each mountPath. `secret` reads the Secret of a
    secretKeyRef.
    """
    env: dict[str, str] = {}
    for entry in entries:
        name = entry["name"]
        source = entry.get("valueFrom", {})
        if not source:
            env[name] = replace_paths(expand_variables(entry.get("value", ""), env), places)
        elif (field := source.get("fieldRef", {}).get("fieldPath")) in fields:
            env[name] = fields[field]
        elif reference := source.get("secretKeyRef"):
            env[name] = secret(reference["name"])[reference["key"]]
        else:
            raise WorkloadError(f"env {name}: {json.dumps(source)} needs a node")
    return env


def expand_variables(text: str, env: Mapping[str, str]) -> str:
    """Replace `$(NAME)` as Kubernetes does. An unknown name is not replaced, and `$$` becomes one dollar sign."""

    def replacement(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else env.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([-._a-zA-Z0-9]+)\)", replacement, text)


def replace_paths(text: str, places: Mapping[str, Path]) -> str:
    """Replace each mountPath in a text, also as the beginning of a longer path, with its folder on this machine."""
    if not places:
        return text
    # The longest mountPath comes first. All are replaced in one pass, because a folder can contain another mountPath,
    # such as /tmp.
    known = "|".join(re.escape(path) for path in sorted(places, key=len, reverse=True))
    return re.sub(rf"(?<![\w./-])({known})(?![\w.-])", lambda match: str(places[match[1]]), text)
