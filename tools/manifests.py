"""Objects of Kubernetes that files hold, each checked to be one before anything is made of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from controller.api.meta import Resource
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from tools import kube_names, migration
from tools.command import BadInput, read_yaml
from tools.migration import Manifest


class _Csi(msgspec.Struct, rename="camel"):
    driver: str = ""
    volume_attributes: dict[str, str] | None = None
    node_publish_secret_ref: dict[str, str] | None = None


class _Volume(msgspec.Struct, rename="camel"):
    name: str
    csi: _Csi | None = None


class _Pods(msgspec.Struct, rename="camel"):
    volumes: list[_Volume] | None = None
    service_account_name: str | None = None
    service_account: str | None = None


class _Workload(msgspec.Struct, rename="camel"):
    """What is asked of a workload that a file holds: its own version, and the specification of its pods."""

    api_version: str
    spec: _Pods


_STRUCTS: dict[str, type[Resource]] = {kind.kind: kind for kind in (SecretProviderClass, SecretSync)}


def load(paths: Iterable[Path]) -> list[Manifest]:
    """All objects in those files; a List is its items."""
    found: list[Manifest] = []
    for path in paths:
        for document in read_yaml(path):
            items = document.get("items", [document]) if isinstance(document, dict) else [document]
            found += [_checked(item, path) for item in items]
    return found


def _checked(item: Any, path: Path) -> Manifest:
    """An object that has what every object has. Its names become those of files and parts of commands."""
    try:
        meta, spec = item["metadata"], item.get("spec", {})
        name, namespace = meta["name"], meta.get("namespace") or "default"
        fits = isinstance(spec, dict) and kube_names.is_name(name) and kube_names.is_namespace(namespace)
    except (TypeError, KeyError, AttributeError):
        fits = False
    if not fits:
        raise BadInput(f"{path}: a document in it is no Kubernetes object: kind, metadata.name in small letters, spec")
    found: Manifest = item
    kind = str(found.get("kind", ""))
    about = f"{path}: {kind} {name} is not as its kind should be"
    try:
        if struct := _STRUCTS.get(kind):
            msgspec.convert(found, struct)
        if kind in migration.TEMPLATES:
            msgspec.convert(
                {"apiVersion": None, **found, "spec": migration.template(found).get("spec") or {}}, _Workload
            )
    except msgspec.ValidationError as error:
        raise BadInput(f"{about}: {error}") from error
    except (AttributeError, TypeError, ValueError):
        raise BadInput(f"{about}: its pods' template is no object") from None
    return found
