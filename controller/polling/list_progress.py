"""Track which SecretSyncs of a poll are covered before the list's last page is read. Pure.

A vault of 1,000 objects has 40 pages, and each page needs the address that the page before it contains. The gets of
changed values therefore start while the list is still being read.
"""

from collections import defaultdict
from collections.abc import Mapping

from controller.domain.provider_class import ObjectVersionRef
from controller.domain.snapshot import ListedObject, VaultSnapshot
from controller.runtime.work_queue import Key


class ListProgress:
    """The objects that a poll has listed so far, for SecretSyncs whose staleness the vault's lists alone decide.

    A SecretSync that reads several versions of an object is left out, because these versions have their own list.
    """

    def __init__(self, wanted: Mapping[Key, Mapping[str, ObjectVersionRef]], since: float) -> None:
        self._since = since
        self._listed: dict[str, dict[str, ListedObject]] = defaultdict(dict)
        self._missing: dict[Key, int] = {}
        self._users: dict[tuple[str, str], list[Key]] = defaultdict(list)
        for key, versions in wanted.items():
            objects = [version.object for version in versions.values() if not version.object.keep]
            if any(vault_object.history > 1 for vault_object in objects):
                continue
            names = {(vault_object.type, vault_object.name.lower()) for vault_object in objects}
            self._missing[key] = len(names)
            for name in names:
                self._users[name].append(key)

    def add(self, kind: str, name: str, state: ListedObject) -> list[Key]:
        """Add a listed object by its lower-case name. Return the SecretSyncs whose objects are all listed now."""
        is_new = name not in self._listed[kind]
        self._listed[kind][name] = state
        if not is_new:
            return []
        covered = []
        for key in self._users.get((kind, name), ()):
            self._missing[key] -= 1
            if not self._missing[key]:
                covered.append(key)
        return covered

    def snapshot(self) -> VaultSnapshot:
        """Return the objects listed so far. They are complete for the SecretSyncs that `add` has returned."""
        return VaultSnapshot(listed=self._listed, since=self._since)
