"""Manifests of Kubernetes objects as a migration names and sorts them, and its notes about them. Pure."""

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


def qualified_name(manifest: Manifest) -> str:
    """Return `Kind namespace/name`. Notes name objects in this form, and all lists are sorted by it."""
    return f"{manifest['kind']} {namespace_of(manifest)}/{manifest['metadata']['name']}"
