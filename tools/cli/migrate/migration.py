"""Convert the CSI driver's SecretProviderClasses and mounts into SecretSyncs, whose Secrets work offline. Pure.

A class that is mounted becomes a SecretSync with one key for each file, so that workloads keep their paths. Each of its
`secretObjects` becomes a SecretSync with the name of that Secret. A part that has no counterpart gets a note.
Source: Secrets Store CSI Driver, "Sync as Kubernetes Secret"; Azure Key Vault provider, "Identity access modes"; SSE's
guide on moving from the CSI driver's extension.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import yaml

from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import DEFAULT_TYPE, SecretSync
from controller.config.clouds import find_cloud
from controller.config.settings import DEFAULT_CLOUD
from controller.domain.provider_class import ProviderConfig, VaultObject, read_class
from controller.errors import ClassError
from controller.keyvault.credentials import Identity
from controller.runtime import bounded_yaml
from tools.cli.common import kube_names
from tools.cli.doctor.class_checks import roles_of
from tools.cli.migrate.objects import Manifest, MigrationNote, ObjectNotes, namespace_of, qualified_name
from tools.cli.migrate.sync_rules import carried_metadata, find_sync_problem
from tools.cli.migrate.workloads import CsiMount, MountedFile, build_patch, find_mounts, find_unconverted

SUFFIX = "-akv"
"""The end of the name of a new object that exists beside the old one."""
# Parameters of the CSI driver for signing in. This controller uses only the managed identity that clientID names.
_DROPPED = (
    "usePodIdentity", "useVMManagedIdentity", "useAzureTokenProxy", "userAssignedIdentityID", "clientID", "clientId",
    "tenantID", "tenantId", "cloudName", "cloudEnvFileName",
)  # fmt: skip


class VaultReader(NamedTuple):
    """An identity that reads a vault, and the Azure roles that it needs there."""

    identity: Identity
    vault: str
    roles: tuple[str, ...]


class Migration(msgspec.Struct, frozen=True):
    """The result: objects to apply, patches of workloads, the identities that read vaults, and notes for a person."""

    manifests: list[Manifest]
    patches: list[Manifest]
    readers: list[VaultReader]
    notes: list[MigrationNote]
    replaced: list[str]
    """Secrets (`namespace/name`) of the CSI driver that a person must delete before the SecretSync creates its own."""


class MigrationOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Facts that replace those of the objects; an empty field means that the objects contain the fact."""

    client_id: str = ""
    service_account: str = ""


def migrate_objects(objects: Iterable[Manifest], options: MigrationOptions) -> Migration:
    """Convert every class of provider azure among `objects`, and the volumes that mount these classes."""
    objects = list(objects)
    classes = sorted((each for each in objects if each.get("kind") == SecretProviderClass.kind), key=qualified_name)
    mounts = sorted(
        (mount for each in objects for mount in find_mounts(each)), key=lambda mount: qualified_name(mount.workload)
    )
    # A class that a SecretSync uses and no workload mounts is not used by the CSI driver.
    moved = {
        (namespace_of(each), each.get("spec", {}).get("secretProviderClassName"))
        for each in objects
        if each.get("kind") == SecretSync.kind
    }
    result = Migration([], [], [], [], [])
    names = _MigrationNames(classes)
    secrets: dict[tuple[str, str], tuple[str, list[MountedFile]]] = {}
    for source in classes:
        if (provider := source.get("spec", {}).get("provider")) != "azure":
            result.notes.append(
                MigrationNote(qualified_name(source), f"provider {provider} is not azure: the class does not change")
            )
            continue
        key = (namespace_of(source), source["metadata"]["name"])
        own = [mount for mount in mounts if mount.class_key == key]
        if own or key not in moved:
            secrets[key] = _migrate_class(source, own, options, result, names)
        else:
            for wanted in source["spec"].get("secretObjects") or []:
                names.claim_secret(key[0], _secret_name(wanted), key[1])
    for workload in {qualified_name(mount.workload): mount.workload for mount in mounts}.values():
        own = [mount for mount in mounts if mount.workload is workload]
        if (patch := build_patch(workload, own, secrets, result.notes)) is not None:
            result.patches.append(patch)
    result.notes.extend(find_unconverted(objects))
    return result


class _MigrationNames:
    """The names of classes and Secrets: those of the input, and those that the migration gave."""

    def __init__(self, classes: Iterable[Manifest]) -> None:
        self._classes = {(namespace_of(each), str(each["metadata"]["name"])): each for each in classes}
        self._wanted = {
            (where, _secret_name(wanted))
            for (where, _), each in self._classes.items()
            if each.get("spec", {}).get("provider") == "azure"
            for wanted in each["spec"].get("secretObjects") or []
        }
        self._given: set[tuple[str, str]] = set()
        # A class that is mounted makes a Secret with its own name.
        self._reserved = set(self._classes)
        self._makers: dict[tuple[str, str], str] = {}

    def name_class(self, edited: Manifest, understood: ProviderConfig) -> None:
        """Give an edited class a name that no other class has. An equal one comes from an earlier run."""
        where, name = namespace_of(edited), edited["metadata"]["name"]
        while (where, name) in self._given or (
            (other := self._classes.get((where, name))) and _parse_class(other) != understood
        ):
            name += SUFFIX
        self._given.add((where, name))
        edited["metadata"]["name"] = name

    def claim_secret(self, where: str, secret: str, maker: str) -> str:
        """Let the class `maker` make a Secret. If a secretObject makes it already, return the class of that one."""
        if first := self._makers.get((where, secret)):
            return first
        self._makers[where, secret] = maker
        return ""

    def name_secret(self, where: str, name: str) -> str:
        """Return the name of the Secret with the files of the class `name`. No other Secret has it."""
        secret = name
        while (where, secret) in self._wanted or (secret != name and (where, secret) in self._reserved):
            secret += "-files"
        self._reserved.add((where, secret))
        return secret


def _migrate_class(
    source: Manifest, mounts: Sequence[CsiMount], options: MigrationOptions, result: Migration, names: _MigrationNames
) -> tuple[str, list[MountedFile]]:
    """Add the edited class and its SecretSyncs to the result.

    Return the name of the Secret that contains the mounted files, and these files. The name is empty if no workload
    mounts the class, or if the class cannot be converted.
    """
    name = str(source["metadata"]["name"])
    say = ObjectNotes(qualified_name(source), result.notes)
    edited = _edit_class(source, options, say)
    account = _find_account(mounts, options, say)
    understood = _parse_class(edited)
    if isinstance(understood, str):
        say(f"cannot be converted: {understood}")
        return "", []
    files = list(_mounted_files(understood, source, say))
    if not files:
        say("cannot be converted: none of its objects can be read")
        return "", []
    if _parse_class(source) == understood:
        edited["metadata"] |= {"name": name} | _labels_of(source)
        edited["spec"] = source["spec"]
    else:
        names.name_class(edited, understood)
        say(
            f"the class {edited['metadata']['name']} is created beside it, so that mounts work until their workloads"
            " are patched; delete this class at the end"
        )
    result.manifests.append(edited)
    who = Identity(namespace_of(source), account, understood.client_id, understood.tenant_id)
    result.readers.append(VaultReader(who, understood.vault, roles_of(understood)))
    syncs = []
    for wanted in source["spec"].get("secretObjects") or []:
        if (sync := _convert_secret_object(wanted, edited, account, understood, say)) is None:
            continue
        if first := names.claim_secret(namespace_of(source), sync["metadata"]["name"], name):
            say(f"secretObject {_secret_name(wanted)} is left out: SecretProviderClass {first} makes this Secret")
            continue
        syncs.append(sync)
        result.replaced.append(f"{namespace_of(source)}/{sync['metadata']['name']}")
    if not mounts and syncs:
        result.manifests.extend(syncs)
        return "", []
    secret = _sync_with_all(syncs, files)
    if secret is None:
        secret = names.name_secret(namespace_of(source), name)
        data = [{"sourcePath": file.path, "targetKey": file.key} for file in files]
        sync = _make_sync(secret, edited, account, {"type": DEFAULT_TYPE, "data": data})
        if problem := find_sync_problem(msgspec.convert(sync, SecretSync), understood):
            say(f"its files are left out: {problem}")
            secret, files = "", []
        else:
            syncs.append(sync)
    else:
        sync = next(each for each in syncs if each["metadata"]["name"] == secret)
        held = {pair["sourcePath"]: pair["targetKey"] for pair in sync["spec"]["secretObject"]["data"]}
        files = [msgspec.structs.replace(file, key=held[file.path]) for file in files]
    result.manifests.extend(syncs)
    return secret, files


def _parse_class(source: Manifest) -> ProviderConfig | str:
    """Return the class as the controller parses it, or the reason why it cannot."""
    try:
        return read_class(msgspec.convert(source, SecretProviderClass))
    except (ClassError, msgspec.ValidationError) as error:
        return str(error)


def _edit_class(source: Manifest, options: MigrationOptions, say: ObjectNotes) -> Manifest:
    """Return the class for this controller, without the parameters that only the CSI driver uses."""
    parameters_given = source["spec"].get("parameters") or {}
    given = {key: str(value) for key, value in parameters_given.items() if value is not None}
    value = {key.lower(): text.strip() for key, text in given.items()}
    user_assigned = value.get("userassignedidentityid", "")
    client = options.client_id or value.get("clientid", "") or user_assigned
    for switch, what in (
        ("usepodidentity", "pod identity (AzureIdentity) is not supported"),
        ("usevmmanagedidentity", "the managed identity of the nodes is not used"),
    ):
        if value.get(switch, "").lower() in ("true", "1", "t"):
            say(f"{what}: federate identity {client or '(give --client-id)'} with the ServiceAccount")
    if not client:
        say("it names no managed identity (it may use a service principal): give one with --client-id")
    if value.get("cloudenvfilename"):
        say("cloudEnvFileName names a file on the node: add the cloud to the chart's `clouds`, and set cloudName")
    if value.get("useazuretokenproxy", "").lower() in ("true", "1", "t"):
        say("useAzureTokenProxy has no counterpart: the controller connects to Entra itself")
    parameters = {key: text for key, text in given.items() if key not in _DROPPED}
    parameters |= {"clientID": client, "tenantID": value.get("tenantid", "")}
    cloud = value.get("cloudname", "")
    if cloud and not find_cloud(cloud, (DEFAULT_CLOUD,)):
        parameters["cloudName"] = cloud
    # A GitOps tool prunes a new object with its label that is not in its repository.
    labels, _ = carried_metadata(_labels_of(source).get("labels", {}), {})
    return {
        "apiVersion": SecretProviderClass.api_version(),
        "kind": SecretProviderClass.kind,
        "metadata": {"name": f"{source['metadata']['name']}{SUFFIX}", "namespace": namespace_of(source)}
        | ({"labels": labels} if labels else {}),
        "spec": {"provider": "azure", "parameters": {key: text for key, text in parameters.items() if text}},
    }


def _labels_of(source: Manifest) -> Manifest:
    """Return the field `labels` of a class's metadata, if it has labels."""
    labels = source["metadata"].get("labels")
    return {"labels": labels} if labels else {}


def _secret_name(wanted: Manifest) -> str:
    """Return the name of the Secret of a secretObject. The CSI driver ignores white space around its texts."""
    return str(wanted.get("secretName", "")).strip()


def _find_account(mounts: Sequence[CsiMount], options: MigrationOptions, say: ObjectNotes) -> str:
    accounts = sorted({mount.service_account for mount in mounts})
    for bad in (name for name in accounts if not kube_names.is_name(name)):
        say(f"a workload runs as {bad!r}, which is not a valid name of a ServiceAccount: it is left out")
    accounts = [name for name in accounts if kube_names.is_name(name)]
    if options.service_account:
        return options.service_account
    if not accounts:
        say("no workload of the input mounts it, so the SecretSync has ServiceAccount default: give --service-account")
    elif len(accounts) > 1:
        say(f"pods of {', '.join(accounts)} mount it; only {accounts[0]} needs a federated credential now")
    return accounts[0] if accounts else "default"


def _mounted_files(understood: ProviderConfig, source: Manifest, say: ObjectNotes) -> Iterator[MountedFile]:
    modes = _file_modes(str(source["spec"]["parameters"].get("objects", "")), say)
    taken: set[str] = set()
    for problem in understood.item_problems:
        say(problem)
    for found in understood.all_objects:
        paths = list(_paths_of(found))
        if bad := next((path for path in paths if not kube_names.is_source_path(path)), ""):
            say(f"{bad!r} is left out: a sourcePath cannot name it; give the object another objectAlias")
            continue
        for path in paths:
            key = re.sub(r"[^-._A-Za-z0-9]", "-", path)
            while key in taken:
                key += "-"
            taken.add(key)
            yield MountedFile(path, key, modes.get(found.served_as), optional=found.history > 1)
        if found.history > 1:
            say(
                f"{found.served_as} has {found.history} versions; the CSI provider mounts one more, which is not kept."
                " The vault may have fewer, so the volume is optional: pods start even before the Secret exists"
            )


def _paths_of(found: VaultObject) -> list[str]:
    if found.history <= 1:
        return [found.served_as]
    return [f"{found.served_as}/{number}" for number in range(found.history)]


def _file_modes(objects: str, say: ObjectNotes) -> dict[str, int]:
    """Return the filePermission of each file. `objects` is valid YAML, because the class was parsed before."""
    modes = {}
    for text in yaml.load(objects, Loader=yaml.CBaseLoader)["array"]:  # noqa: S506 -- it makes strings alone
        try:
            bounded_yaml.check(text)
            item = yaml.load(text, Loader=yaml.CBaseLoader)  # noqa: S506
        except (yaml.YAMLError, AttributeError, TypeError):  # `item_problems` reports a broken item
            continue
        given = item if isinstance(item, dict) else {}
        name, permission = given.get("objectAlias") or given.get("objectName"), given.get("filePermission")
        if not (name and permission and isinstance(name, str) and isinstance(permission, str)):
            continue
        if re.fullmatch(r"0?o?[0-7]{3,4}", permission):
            modes[name] = int(permission.replace("o", ""), 8)
        else:
            say(f"filePermission {permission} of {name} is not an octal number: the volume's own mode applies")
    return modes


def _convert_secret_object(
    wanted: Manifest, source: Manifest, account: str, understood: ProviderConfig, say: ObjectNotes
) -> Manifest | None:
    """Return a SecretSync for one of the class's secretObjects, or None with a note if it cannot be converted."""
    name = _secret_name(wanted)
    secret: Manifest = {
        "type": str(wanted.get("type") or "").strip() or DEFAULT_TYPE,
        "data": [
            {"sourcePath": str(each.get("objectName", "")).strip(), "targetKey": str(each.get("key", "")).strip()}
            for each in wanted.get("data") or []
        ],
    }
    given = [wanted.get(field) or {} for field in ("labels", "annotations")]
    for field, before, kept in zip(("labels", "annotations"), given, carried_metadata(*given), strict=True):
        secret |= {field: kept} if kept else {}
        if lost := sorted(before.keys() - kept.keys()):
            say(f"secretObject {name}: its {field} {', '.join(lost)} are left out: the controller does not write them")
    sync = _make_sync(name, source, account, secret)
    if problem := find_sync_problem(msgspec.convert(sync, SecretSync), understood):
        say(f"secretObject {name!r} is left out: {problem}")
        return None
    return sync


def _make_sync(name: str, source: Manifest, account: str, secret: Manifest) -> Manifest:
    return {
        "apiVersion": SecretSync.api_version(),
        "kind": SecretSync.kind,
        "metadata": {"name": name, "namespace": namespace_of(source)},
        "spec": {
            "secretProviderClassName": source["metadata"]["name"],
            "serviceAccountName": account,
            "secretObject": secret,
        },
    }


def _sync_with_all(syncs: Sequence[Manifest], files: Sequence[MountedFile]) -> str | None:
    """Return the name of a Secret that contains every file unchanged, so that no second Secret is necessary."""
    for sync in syncs:
        wanted = sync["spec"]["secretObject"]
        if wanted["type"] == DEFAULT_TYPE and {file.path for file in files} <= {
            pair["sourcePath"] for pair in wanted["data"]
        }:
            return str(sync["metadata"]["name"])
    return None
