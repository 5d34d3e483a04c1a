"""Read Kubernetes objects from files, and check the form of each before it is converted."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from controller.api.meta import Resource
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from tools.cli.common import kube_names
from tools.cli.common.command import BadInput, read_yaml
from tools.cli.common.manifest_files import without_nulls
from tools.cli.migrate import workloads
from tools.cli.migrate.objects import Manifest, namespace_of


class _CsiVolume(msgspec.Struct, rename="camel"):
    driver: str = ""
    volume_attributes: dict[str, str] | None = None
    node_publish_secret_ref: dict[str, str] | None = None


class _PodVolume(msgspec.Struct, rename="camel"):
    name: str
    csi: _CsiVolume | None = None


class _PodTemplate(msgspec.Struct, rename="camel"):
    volumes: list[_PodVolume] | None = None
    service_account_name: str | None = None
    service_account: str | None = None


class _WorkloadShape(msgspec.Struct, rename="camel"):
    """The fields of a workload that the conversion reads: its version, and the specification of its pods."""

    api_version: str
    spec: _PodTemplate


_STRUCTS: dict[str, type[Resource]] = {kind.kind: kind for kind in (SecretProviderClass, SecretSync)}


def is_converted(kind: str) -> bool:
    """Return whether `tools/migrate csi` converts or reads objects of a kind."""
    return kind in _STRUCTS or kind in workloads.TEMPLATES


def load_manifests(paths: Iterable[Path]) -> list[Manifest]:
    """Return all objects in those files, with the items of each List. Raise `BadInput`."""
    found: list[Manifest] = []
    for path in paths:
        for document in map(without_nulls, read_yaml(path)):
            items = document.get("items") if isinstance(document, dict) else None
            found += [_check_manifest(item, path) for item in (items if isinstance(items, list) else [document])]
    return found


def select_namespace(objects: list[Manifest], namespace: str) -> list[Manifest]:
    """Return the objects of files that are in the namespace of the command line. Raise `BadInput` if none is."""
    found = [each for each in objects if not namespace or namespace_of(each) == namespace]
    if objects and not found:
        raise BadInput(f"--namespace {namespace}: the files have no object in it")
    return found


def _check_manifest(item: Any, path: Path) -> Manifest:
    """Return the item if it has valid names and the form of its kind. Raise `BadInput` otherwise.

    The names of converted kinds become parts of file names and commands. Roles can have other names.
    """
    try:
        meta, spec = item["metadata"], item.get("spec", {})
        name, namespace = meta["name"], meta.get("namespace") or "default"
        kind = item["kind"]
        fits = isinstance(spec, dict) and isinstance(kind, str) and isinstance(name, str)
        fits = fits and kube_names.is_namespace(namespace) and (kube_names.is_name(name) or not is_converted(kind))
    except (TypeError, KeyError, AttributeError):
        fits = False
    if not fits:
        raise BadInput(
            f"{path}: a document is not a Kubernetes object, which has kind, metadata.name in small letters, and spec"
        )
    found: Manifest = item
    about = f"{path}: {kind} {name} does not have the form of its kind"
    try:
        if struct := _STRUCTS.get(kind):
            msgspec.convert(found, struct)
        if kind in workloads.TEMPLATES:
            msgspec.convert(
                {"apiVersion": None, **found, "spec": workloads.pod_template(found).get("spec") or {}}, _WorkloadShape
            )
    except msgspec.ValidationError as error:
        raise BadInput(f"{about}: {error}") from error
    except (AttributeError, TypeError, ValueError):
        raise BadInput(f"{about}: its pod template is not an object") from None
    return found
