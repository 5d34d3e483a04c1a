"""Count the vault calls of one poll of a cluster, and name the SecretSyncs that cause them. Pure.

The controller polls once for all SecretSyncs that read a vault with one identity. A poll lists the vault if the list
has no more pages than the objects that it would get one by one. For each object with a history, it lists the versions
(`controller/keyvault/reader.py`). A selection always lists the vault.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from controller.akvsync.expand import expand_akvsync
from controller.api.akvsync import AKVSync
from controller.api.meta import CLIENT_ID, TENANT_ID, ServiceAccount
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.domain.provider_class import VaultObject, read_class
from controller.domain.selection import SELECTED_KIND
from controller.errors import ClassNotFound, ControllerError
from tools.cli.capacity.fleet import LIST_PAGE
from tools.cli.common import printable

MAX_SHOWN = 10
"""SecretSyncs and notes that the text shows for one vault. The JSON output has all."""
_VERSIONS = "versions"


class ClusterObjects(msgspec.Struct, kw_only=True):
    """The objects of a cluster or of a folder of manifests."""

    classes: list[SecretProviderClass] = []
    syncs: list[SecretSync] = []
    akv_syncs: list[AKVSync] = []
    accounts: list[ServiceAccount] = []


class VaultReader(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An identity and the vault that it reads. One poll serves all SecretSyncs with the same reader."""

    namespace: str
    service_account: str
    client_id: str
    tenant_id: str
    vault: str
    cloud: str = ""


class SyncCost(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The objects that one SecretSync reads, and the calls that a poll would save without it."""

    name: str
    objects: int
    saved_without_it: int


class GroupCost(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The calls of one poll of one reader, and the SecretSyncs that cause them, the most expensive first."""

    reader: VaultReader
    calls: int
    lists: int
    gets: int
    version_lists: int
    selects: bool
    syncs: list[SyncCost]


class PollCosts(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The calls of one poll of all readers. `notes` name the objects that are not counted, with the reason."""

    groups: list[GroupCost]
    calls_by_vault: dict[str, int]
    reads_by_vault: dict[str, int]
    notes: list[str]


class _ReaderGroup(msgspec.Struct):
    members: dict[str, frozenset[VaultObject]] = msgspec.field(default_factory=dict)
    selects: bool = False


class _CallCounts(msgspec.Struct, frozen=True):
    lists: int
    gets: int
    version_lists: int

    @property
    def total(self) -> int:
        return self.lists + self.gets + self.version_lists


def poll_costs(objects: ClusterObjects, vault_objects: int = 0) -> PollCosts:
    """Calculate the costs. `vault_objects` is the number of objects in each vault; 0 for only those that are read."""
    notes: list[str] = []
    classes = {_key_of(item): item for item in objects.classes}
    syncs = {_key_of(item): item for item in objects.syncs}
    accounts = {_key_of(item): item for item in objects.accounts}
    groups: dict[VaultReader, _ReaderGroup] = {}
    for akv in objects.akv_syncs:
        _add_generated(akv, classes, syncs, groups, notes)
    for (namespace, name), sync in sorted(syncs.items()):
        try:
            reader, wanted = _resolve_reader(sync, classes, accounts)
        except ControllerError as error:
            notes.append(f"SecretSync {namespace}/{name} is not counted: {error.message}")
        else:
            groups.setdefault(reader, _ReaderGroup()).members[name] = wanted
    found = [_group_cost(reader, group, vault_objects) for reader, group in groups.items()]
    found.sort(
        key=lambda group: (-group.calls, group.reader.vault, group.reader.namespace, group.reader.service_account)
    )
    calls: Counter[str] = Counter()
    reads: Counter[str] = Counter()
    for cost in found:
        calls[cost.reader.vault] += cost.calls
        reads[cost.reader.vault] += len(frozenset[VaultObject]().union(*groups[cost.reader].members.values()))
    return PollCosts(groups=found, calls_by_vault=dict(calls.most_common()), reads_by_vault=dict(reads), notes=notes)


def _key_of(item: SecretProviderClass | SecretSync | ServiceAccount) -> tuple[str, str]:
    return item.metadata.namespace or "default", item.metadata.name


def _add_generated(
    akv: AKVSync,
    classes: dict[tuple[str, str], SecretProviderClass],
    syncs: dict[tuple[str, str], SecretSync],
    groups: dict[VaultReader, _ReaderGroup],
    notes: list[str],
) -> None:
    """Add the objects that an AKVSync generates, unless the input contains them, as a cluster does."""
    namespace, spec = akv.metadata.namespace or "default", akv.spec
    try:
        generated = expand_akvsync(akv)
    except ControllerError as error:
        notes.append(f"AKVSync {namespace}/{akv.metadata.name} is not counted: {error.message}")
        return
    if generated.source is not None:
        classes.setdefault((namespace, generated.source.metadata.name), generated.source)
    for name, sync in generated.syncs.items():
        syncs.setdefault((namespace, name), sync)
    if generated.selects:
        reader = VaultReader(
            namespace=namespace,
            service_account=spec.service_account_name,
            client_id=spec.client_id,
            tenant_id=spec.tenant_id,
            vault=spec.keyvault_name.lower(),
        )
        groups.setdefault(reader, _ReaderGroup()).selects = True


def _resolve_reader(
    sync: SecretSync,
    classes: Mapping[tuple[str, str], SecretProviderClass],
    accounts: Mapping[tuple[str, str], ServiceAccount],
) -> tuple[VaultReader, frozenset[VaultObject]]:
    """Return the reader and the vault objects of a SecretSync. Raise `ControllerError`."""
    namespace, class_name = sync.metadata.namespace or "default", sync.spec.secret_provider_class_name
    source = classes.get((namespace, class_name))
    if source is None:
        raise ClassNotFound(f"there is no SecretProviderClass {class_name} in namespace {namespace}")
    read = read_class(source, without_identity=True)
    account = accounts.get((namespace, sync.spec.service_account_name))
    annotations = account.metadata.annotations if account else {}
    reader = VaultReader(
        namespace=namespace,
        service_account=sync.spec.service_account_name,
        client_id=read.client_id or annotations.get(CLIENT_ID, ""),
        tenant_id=read.tenant_id or annotations.get(TENANT_ID, ""),
        vault=read.vault.lower(),
        cloud=read.cloud,
    )
    wanted = read.wanted(sync.spec.secret_object).values()
    return reader, frozenset(version.object.in_vault for version in wanted if not version.object.keep)


def _group_cost(reader: VaultReader, group: _ReaderGroup, vault_objects: int) -> GroupCost:
    wanted_by = Counter(found for wanted in group.members.values() for found in wanted)
    in_all = _count_objects(wanted_by)
    everything = _count_calls(in_all, group.selects, vault_objects)
    syncs = []
    for name, wanted in group.members.items():
        in_others = in_all - _count_objects(found for found in wanted if wanted_by[found] == 1)
        saved = everything.total - _count_calls(in_others, group.selects, vault_objects).total
        syncs.append(SyncCost(name=name, objects=len(wanted), saved_without_it=saved))
    syncs.sort(key=lambda cost: (-cost.saved_without_it, -cost.objects, cost.name))
    return GroupCost(
        reader=reader,
        calls=everything.total,
        lists=everything.lists,
        gets=everything.gets,
        version_lists=everything.version_lists,
        selects=group.selects,
        syncs=syncs,
    )


def _count_objects(objects: Iterable[VaultObject]) -> Counter[str]:
    """Count the objects by kind; those with a history, whose versions are listed, as `_VERSIONS`."""
    return Counter(_VERSIONS if found.history > 1 else found.type for found in objects)


def _count_calls(needs: Counter[str], selects: bool, vault_objects: int) -> _CallCounts:
    """Return the calls of a poll for these numbers of objects."""
    lists = gets = 0
    for kind in (needs.keys() | ({SELECTED_KIND} if selects else set())) - {_VERSIONS}:
        pages = max(1, math.ceil(max(vault_objects, needs[kind]) / LIST_PAGE))
        if pages <= needs[kind] or (selects and kind == SELECTED_KIND):
            lists += pages
        else:
            gets += needs[kind]
    return _CallCounts(lists, gets, needs[_VERSIONS])


def format_costs(costs: PollCosts) -> Iterator[str]:
    """Return the costs as text, the most expensive vault first."""
    if not costs.groups and not costs.notes:
        yield "no SecretSync and no AKVSync: no poll calls a vault"
    for vault, calls in costs.calls_by_vault.items():
        yield f"Key Vault {printable.line(vault)}: {calls} calls for a poll without changes"
        for group in (group for group in costs.groups if group.reader.vault == vault):
            reader = group.reader
            kinds = [f"{group.lists} list pages", f"{group.gets} gets", f"{group.version_lists} version lists"]
            how = ", ".join(kind for kind in kinds if not kind.startswith("0 "))
            who = printable.line(f"{reader.namespace}/{reader.service_account}")
            yield f"  as ServiceAccount {who}: {group.calls} calls ({how}){', with select' * group.selects}"
            for sync in group.syncs[:MAX_SHOWN]:
                saved = f", {sync.saved_without_it} of these calls" if sync.saved_without_it else ""
                yield f"    SecretSync {printable.line(sync.name)}: {sync.objects} objects{saved}"
            if len(group.syncs) > MAX_SHOWN:
                yield f"    and {len(group.syncs) - MAX_SHOWN} more SecretSyncs (-o json shows all)"
    for note in costs.notes[:MAX_SHOWN]:
        yield f"note: {printable.line(note)}"
    if len(costs.notes) > MAX_SHOWN:
        yield f"note: and {len(costs.notes) - MAX_SHOWN} more (-o json shows all)"
