"""Manifests of Kubernetes objects as a migration names and sorts them, and its notes about them. Pure."""

from collections.abc import Iterable
from typing import Any

import msgspec

Manifest = dict[str, Any]


class MigrationNote(msgspec.Struct, frozen=True, order=True):
    """A fact or a task for a person, and the object that it concerns."""

    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.about}: {self.text}"


class ObjectNotes(msgspec.Struct, frozen=True):
    """Adds notes about one object to a list."""

    about: str
    notes: list[MigrationNote]

    def __call__(self, text: str) -> None:
        """Add a note about the object."""
        self.notes.append(MigrationNote(self.about, text))


def namespace_of(manifest: Manifest) -> str:
    """Return the namespace of an object. In a file without one, it is `default`."""
    return str(manifest["metadata"].get("namespace") or "default")


def has_namespace(kind: str) -> bool:
    """Return whether objects of a kind are in a namespace."""
    return kind != "Namespace" and not kind.startswith("Cluster")


def place_object(manifest: Manifest, namespace: str) -> Manifest:
    """Return an object of a file in the namespace of the command line, as kubectl does, if it names none itself."""
    if not namespace or not has_namespace(manifest["kind"]) or manifest["metadata"].get("namespace"):
        return manifest
    return {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}


def note_default(objects: Iterable[Manifest]) -> list[MigrationNote]:
    """Return a note if an object of a file names no namespace: helm and Kustomize often add it."""
    missing = [each for each in objects if has_namespace(each["kind"]) and not each["metadata"].get("namespace")]
    if not missing:
        return []
    count = f"{len(missing)} objects have" if len(missing) > 1 else "it has"
    text = f"{count} no namespace in the file, and default is assumed: give the namespace with --namespace"
    return [MigrationNote(qualified_name(missing[0]), text)]


def qualified_name(manifest: Manifest) -> str:
    """Return `Kind namespace/name`. Notes name objects in this form, and all lists are sorted by it."""
    return f"{manifest['kind']} {namespace_of(manifest)}/{manifest['metadata']['name']}"
