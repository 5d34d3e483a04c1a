"""Read manifests of other projects' kinds from files and folders.

A file that is not YAML, such as a template of a Helm chart, gets a note, and the other files are read.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from controller.runtime import bounded_yaml
from tools.cli.common import kube_names
from tools.cli.common.command import BadInput, describe_unreadable
from tools.cli.common.manifest_files import MAX_FILES, list_manifest_files, without_nulls
from tools.cli.migrate.objects import Manifest, MigrationNote, note_default, place_object

MAX_TOTAL_BYTES = 64 * 2**20
# Names of fields that one note lists.
_MAX_LISTED = 5

T = TypeVar("T", bound=msgspec.Struct)


class ForeignObjects(msgspec.Struct, frozen=True):
    """Objects, and notes about those that cannot be read."""

    objects: list[Manifest]
    notes: list[MigrationNote]


def load(paths: Iterable[Path], kinds: Iterable[str], namespace: str = "") -> ForeignObjects:
    """Return the objects in files and folders. The objects of `kinds` have valid names; others are not checked.

    An object without a namespace is in `namespace`, or in `default` with a note.
    Raise `BadInput` if a path does not exist, if there is no object at all, or if the files are too many or too large.
    """
    collector = _ManifestCollector(kinds, namespace)
    found = collector.found
    total = 0
    for path in _list_files(paths):
        try:
            text = bounded_yaml.read_text(path)
            total += len(text)
            documents = bounded_yaml.load_all(text)
        except OSError as error:
            raise BadInput(describe_unreadable(path, error)) from error
        except (ValueError, TypeError, yaml.YAMLError, RecursionError) as error:
            found.notes.append(
                MigrationNote(str(path), f"left out: {describe_unreadable(path, error).removeprefix(f'{path}: ')}")
            )
            continue
        if total > MAX_TOTAL_BYTES:
            raise BadInput(f"the files have more than {MAX_TOTAL_BYTES // 2**20} MiB together: convert them in parts")
        for number, document in enumerate(each for each in documents if each is not None):
            for item in _list_items(document):
                collector.add(item, f"{path}, document {number + 1}")
    found.notes.extend(note_default(each for each in found.objects if each["kind"] in collector.wanted))
    if not found.objects:
        raise BadInput(str(found.notes[0]) if found.notes else "the files and folders have no manifest")
    return found


def _list_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files, and the files in the folders. Do not follow links to folders."""
    count = 0
    for path in paths:
        inside = path.is_dir()
        for file in list_manifest_files(path) if inside else [path]:
            count += 1
            if count > MAX_FILES:
                raise BadInput(f"there are more than {MAX_FILES} files: convert them in parts")
            # Reading a FIFO in a folder would never end.
            if not inside or file.is_file():
                yield file


def _list_items(document: Any) -> list[Any]:
    """Return the items of a List, or the document as the only item."""
    is_list = isinstance(document, dict) and str(document.get("kind", "")).endswith("List")
    items = document.get("items") if is_list else None
    return items if isinstance(items, list) else [document]


class _ManifestCollector:
    """Collects objects, and notes about items that are left out."""

    def __init__(self, wanted: Iterable[str], namespace: str) -> None:
        self.found = ForeignObjects([], [])
        self.wanted = frozenset(wanted)
        self._namespace = namespace
        self._seen: dict[tuple[str, str, str, str], Manifest] = {}

    def add(self, item: Any, where: str) -> None:
        """Keep an item of a file, or the reason why it is left out."""
        if not isinstance(item, dict) or not isinstance(item.get("kind"), str):
            self._leave_out(where, "it is not a Kubernetes object, which has kind and metadata")
            return
        kind, meta = item["kind"], item.get("metadata")
        meta = meta if isinstance(meta, dict) else {}
        item = place_object({**item, "metadata": meta}, self._namespace)
        meta = item["metadata"]
        name, namespace = meta.get("name"), meta.get("namespace") or "default"
        if kind not in self.wanted:
            shown = {"name": name if isinstance(name, str) else "?", "namespace": str(namespace)}
            self.found.objects.append({**item, "metadata": {**meta, **shown}})
        elif not kube_names.is_name(name):
            self._leave_out(where, f"the metadata.name of this {kind} is not the name of an object")
        elif not kube_names.is_namespace(namespace):
            self._leave_out(where, f"the namespace of {kind} {name} is not a namespace's name")
        elif (same := self._seen.setdefault(_key_of(item), item)) is item:
            self.found.objects.append(item)
        elif same != item:
            self._leave_out(where, f"there is another {kind} {namespace}/{name} before it")

    def _leave_out(self, where: str, why: str) -> None:
        self.found.notes.append(MigrationNote(where, f"left out: {why}"))


def _key_of(manifest: Manifest) -> tuple[str, str, str, str]:
    meta = manifest["metadata"]
    group = str(manifest.get("apiVersion", "")).rpartition("/")[0]
    return group, manifest["kind"], str(meta.get("namespace") or "default"), str(meta["name"])


def read(raw: object, shape: type[T]) -> T:
    """Return a manifest as a `shape`. Raise `msgspec.ValidationError`, which names the field.

    Ignore fields that are null, as the API server does.
    """
    try:
        return msgspec.convert(without_nulls(raw), shape)
    except UnicodeEncodeError as error:
        raise msgspec.ValidationError("a text contains half of a surrogate pair, which is not valid") from error


def unknown_fields(raw: object, known: msgspec.Struct) -> list[str]:
    """Return the paths of the manifest's fields that the struct lacks: at most `_MAX_LISTED`, and how many more."""
    found = list(_unknown_fields(without_nulls(raw), msgspec.to_builtins(known), ""))
    return found[:_MAX_LISTED] + ([f"{len(found) - _MAX_LISTED} more"] if len(found) > _MAX_LISTED else [])


def _unknown_fields(raw: Any, known: Any, at: str) -> Iterator[str]:
    if isinstance(raw, dict) and isinstance(known, dict):
        for key, value in raw.items():
            path = f"{at}.{key}" if at else str(key)
            if key in known:
                yield from _unknown_fields(value, known[key], path)
            else:
                yield path
    elif isinstance(raw, list) and isinstance(known, list):
        for number, (item, other) in enumerate(zip(raw, known, strict=False)):
            yield from _unknown_fields(item, other, f"{at}[{number}]")
