"""From the CSI driver's SecretProviderClasses and mounts to Secrets that stay while the cluster is offline. Pure.

A class that is mounted becomes a SecretSync with one key for each file, so that workloads keep their paths; each of its
`secretObjects` becomes a SecretSync of that Secret's name. What cannot carry over is said, never guessed.
Source: Secrets Store CSI Driver, "Sync as Kubernetes Secret"; Azure Key Vault provider, "Identity access modes"; SSE's
guide on moving from the CSI driver's extension.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import yaml

from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import DEFAULT_TYPE, RESERVED_PREFIX, SecretSync
from controller.errors import ClassError
from controller.identity import Identity
from controller.objects import VaultClass, VaultObject, read_class
from controller.settings import DEFAULT_CLOUD
from tools import bounded_yaml, kube_names

# What is made anew beside an object of the CSI driver's, or of a name that an AKVSync must not share.
SUFFIX = "-akv"
DRIVER = "secrets-store.csi.k8s.io"
Manifest = dict[str, Any]
# Where each kind of workload has its pods' template; a template that cannot change means: make it anew.
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Job": ("spec", "template"),
    "Pod": (),
}
_UNCHANGEABLE = ("Job", "Pod")
# Ways to sign in that end here. What remains is the managed identity that clientID names.
_DROPPED = (
    "usePodIdentity", "useVMManagedIdentity", "useAzureTokenProxy", "userAssignedIdentityID", "clientID", "clientId",
    "tenantID", "tenantId", "cloudName", "cloudEnvFileName",
)  # fmt: skip


class Mount(msgspec.Struct, frozen=True):
    """A workload's volume that shows a class's files."""

    workload: Manifest
    volume: Manifest
    class_name: str

    @property
    def service_account(self) -> str:
        """As whom the pods run."""
        spec = template(self.workload).get("spec", {})
        return str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "default")


class Note(msgspec.Struct, frozen=True, order=True):
    """What a person must know or do: about which object, and what."""

    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.about}: {self.text}"


class Migration(msgspec.Struct, frozen=True):
    """All that comes out: objects to apply, patches of workloads, who reads which vault, and what to know."""

    manifests: list[Manifest]
    patches: list[Manifest]
    readers: list[tuple[Identity, str]]
    notes: list[Note]
    replaced: list[str]
    """Secrets (`namespace/name`) that the CSI driver made and a SecretSync is to make: theirs must go first."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the objects do not tell: empty where they must."""

    client_id: str = ""
    service_account: str = ""


class _File(msgspec.Struct, frozen=True):
    """One file that the CSI driver mounts: its path below the volume, and how a SecretSync has it.

    One of several versions is `optional`: the vault may not have that many, and pods start all the same.
    """

    path: str
    key: str
    mode: int | None = None
    optional: bool = False


def migrate(objects: Iterable[Manifest], options: Options) -> Migration:
    """What takes the place of every azure class among `objects`, and of the volumes that mount them."""
    objects = list(objects)
    classes = sorted((each for each in objects if each.get("kind") == SecretProviderClass.kind), key=place)
    mounts = sorted((mount for each in objects for mount in _mounts(each)), key=lambda mount: place(mount.workload))
    # What SecretSyncs read already and nobody mounts has nothing of the CSI driver's.
    moved = {
        (namespace(each), each.get("spec", {}).get("secretProviderClassName"))
        for each in objects
        if each.get("kind") == SecretSync.kind
    }
    result = Migration([], [], [], [], [])
    secrets: dict[tuple[str, str], tuple[str, list[_File]]] = {}
    for source in classes:
        if (provider := source.get("spec", {}).get("provider")) != "azure":
            result.notes.append(Note(place(source), f"provider {provider} is not azure: left alone"))
            continue
        here = (namespace(source), source["metadata"]["name"])
        own = [mount for mount in mounts if _class_of(mount) == here]
        if own or here not in moved:
            secrets[here] = _class(source, own, options, result)
    for workload in {place(mount.workload): mount.workload for mount in mounts}.values():
        _workload(workload, [mount for mount in mounts if mount.workload is workload], secrets, result)
    return result


def namespace(manifest: Manifest) -> str:
    """Its namespace; what a file leaves out is `default`."""
    return str(manifest["metadata"].get("namespace") or "default")


def place(manifest: Manifest) -> str:
    """`Kind namespace/name`: what a note is about, and the order of everything."""
    return f"{manifest['kind']} {namespace(manifest)}/{manifest['metadata']['name']}"


def template(workload: Manifest) -> Manifest:
    """Of its pods."""
    found: Any = workload
    for step in TEMPLATES[workload["kind"]]:
        found = found.get(step) or {}
    return dict(found)


def _mounts(workload: Manifest) -> Iterator[Mount]:
    if workload.get("kind") not in TEMPLATES or workload["metadata"].get("ownerReferences"):
        return  # whatever owns it is looked at instead
    for volume in (template(workload).get("spec") or {}).get("volumes") or []:
        csi = volume.get("csi") or {}
        if csi.get("driver") == DRIVER:
            yield Mount(workload, volume, str((csi.get("volumeAttributes") or {}).get("secretProviderClass", "")))


def _class_of(mount: Mount) -> tuple[str, str]:
    return namespace(mount.workload), mount.class_name


def _class(source: Manifest, mounts: Sequence[Mount], options: Options, result: Migration) -> tuple[str, list[_File]]:
    """Adds the class, edited, with its SecretSyncs; the Secret that has its files, and which they are."""
    about, name = place(source), str(source["metadata"]["name"])
    say = _Sayer(about, result.notes)
    edited = _edit(source, options, say)
    account = _account(mounts, options, say)
    understood = _understand(edited)
    if isinstance(understood, str):
        say(f"cannot carry over: {understood}")
        return "", []
    if _understand(source) == understood:
        edited["metadata"]["name"] = name
        edited["spec"] = source["spec"]
    else:
        say(
            f"the class {edited['metadata']['name']} stands beside it, so that mounts go on as they are until their"
            " workloads are patched; delete this one at the end"
        )
    result.manifests.append(edited)
    who = Identity(namespace(source), account, understood.client_id, understood.tenant_id)
    result.readers.append((who, understood.vault))
    files = list(_files(understood, source, say))
    keys = {file.path: file.key for file in files}
    syncs = []
    for wanted in source["spec"].get("secretObjects") or []:
        if (sync := _synced(wanted, edited, account, keys, say)) is not None:
            syncs.append(sync)
            result.replaced.append(f"{namespace(source)}/{sync['metadata']['name']}")
    if not mounts and syncs:
        result.manifests.extend(syncs)
        return "", []
    secret = _sync_with_all(syncs, files)
    if secret is None:
        taken = {sync["metadata"]["name"] for sync in syncs}
        secret = name if name not in taken else f"{name}-files"
        data = [{"sourcePath": file.path, "targetKey": file.key} for file in files]
        syncs.append(_sync(secret, edited, account, {"type": DEFAULT_TYPE, "data": data}))
    else:
        sync = next(each for each in syncs if each["metadata"]["name"] == secret)
        held = {pair["sourcePath"]: pair["targetKey"] for pair in sync["spec"]["secretObject"]["data"]}
        files = [msgspec.structs.replace(file, key=held[file.path]) for file in files]
    result.manifests.extend(syncs)
    return secret, files


def _understand(source: Manifest) -> VaultClass | str:
    """The class as the controller reads it, or why it cannot."""
    try:
        return read_class(msgspec.convert(source, SecretProviderClass))
    except (ClassError, msgspec.ValidationError) as error:
        return str(error)


class _Sayer(msgspec.Struct, frozen=True):
    """Notes about one object."""

    about: str
    notes: list[Note]

    def __call__(self, text: str) -> None:
        self.notes.append(Note(self.about, text))


def _edit(source: Manifest, options: Options, say: _Sayer) -> Manifest:
    """A class of this controller's, without what belongs to the CSI driver's ways."""
    given = {key: str(value) for key, value in (source["spec"].get("parameters") or {}).items()}
    value = {key.lower(): text.strip() for key, text in given.items()}
    user_assigned = value.get("userassignedidentityid", "")
    client = options.client_id or value.get("clientid", "") or user_assigned
    for switch, what in (
        ("usepodidentity", "pod identity (AzureIdentity) ends"),
        ("usevmmanagedidentity", "the nodes' managed identity is no longer asked"),
    ):
        if value.get(switch, "").lower() in ("true", "1", "t"):
            say(f"{what}: federate identity {client or '(give --client-id)'} with the ServiceAccount")
    if not client:
        say("it names no managed identity (a service principal, perhaps): give one with --client-id")
    if "cloudenvfilename" in value:
        say("cloudEnvFileName names a file on the node: have the cloud added to the chart's `clouds`, set cloudName")
    if value.get("useazuretokenproxy", "").lower() in ("true", "1", "t"):
        say("useAzureTokenProxy has no counterpart: the controller asks Entra itself")
    parameters = {key: text for key, text in given.items() if key not in _DROPPED}
    parameters |= {"clientID": client, "tenantID": value.get("tenantid", "")}
    cloud = value.get("cloudname", "")
    if cloud and cloud != DEFAULT_CLOUD:
        parameters["cloudName"] = cloud
    labels = {field: source["metadata"][field] for field in ("labels",) if source["metadata"].get(field)}
    return {
        "apiVersion": SecretProviderClass.api_version(),
        "kind": SecretProviderClass.kind,
        "metadata": {"name": f"{source['metadata']['name']}{SUFFIX}", "namespace": namespace(source), **labels},
        "spec": {"provider": "azure", "parameters": {key: text for key, text in parameters.items() if text}},
    }


def _account(mounts: Sequence[Mount], options: Options, say: _Sayer) -> str:
    accounts = sorted({mount.service_account for mount in mounts})
    for bad in (name for name in accounts if not kube_names.is_name(name)):
        say(f"a workload runs as {bad!r}, a name that no ServiceAccount can have: it is left out")
    accounts = [name for name in accounts if kube_names.is_name(name)]
    if options.service_account:
        return options.service_account
    if not accounts:
        say("no workload here mounts it, so the SecretSync names ServiceAccount default: give --service-account")
    elif len(accounts) > 1:
        say(f"pods of {', '.join(accounts)} mount it; {accounts[0]} is the one that needs a federated credential now")
    return accounts[0] if accounts else "default"


def _files(understood: VaultClass, source: Manifest, say: _Sayer) -> Iterator[_File]:
    modes = _modes(str(source["spec"]["parameters"].get("objects", "")), say)
    taken: set[str] = set()
    for problem in understood.problems:
        say(problem)
    for found in understood.objects.values():
        paths = list(_paths(found))
        if bad := next((path for path in paths if not kube_names.is_source_path(path)), ""):
            say(f"{bad!r} is left out: no sourcePath can name it; give the object another objectAlias")
            continue
        for path in paths:
            key = re.sub(r"[^-._A-Za-z0-9]", "-", path)
            while key in taken:
                key += "-"
            taken.add(key)
            yield _File(path, key, modes.get(found.served_as), optional=found.history > 1)
        if found.history > 1:
            say(
                f"{found.served_as} has {found.history} versions; the CSI provider mounts one more, which is not kept."
                " The vault may have fewer, so the volume is optional: pods start even before the Secret is there"
            )


def _paths(found: VaultObject) -> list[str]:
    if found.history <= 1:
        return [found.served_as]
    return [f"{found.served_as}/{number}" for number in range(found.history)]


def _modes(objects: str, say: _Sayer) -> dict[str, int]:
    """Return filePermission by file. The text was read before, so it is YAML; to this loader all of it is text."""
    modes = {}
    for text in yaml.load(objects, Loader=yaml.CBaseLoader)["array"]:  # noqa: S506 -- it makes strings alone
        try:
            bounded_yaml.check(text)
            item = yaml.load(text, Loader=yaml.CBaseLoader)  # noqa: S506
        except (yaml.YAMLError, AttributeError, TypeError):  # an item at fault, which is reported already
            continue
        given = item if isinstance(item, dict) else {}
        name, permission = given.get("objectAlias") or given.get("objectName"), given.get("filePermission")
        if not (name and permission and isinstance(name, str) and isinstance(permission, str)):
            continue
        if re.fullmatch(r"0?o?[0-7]{3,4}", permission):
            modes[name] = int(permission.replace("o", ""), 8)
        else:
            say(f"filePermission {permission} of {name} is no octal number: it gets the volume's own")
    return modes


def _synced(wanted: Manifest, source: Manifest, account: str, keys: Mapping[str, str], say: _Sayer) -> Manifest | None:
    """A SecretSync for one of the class's secretObjects."""
    name = str(wanted.get("secretName", ""))
    if not kube_names.is_name(name):
        say(f"secretObject {name!r} is left out: no Secret can have this name; a name has small letters, digits, -, .")
        return None
    pairs = [(str(each.get("objectName", "")), str(each.get("key", ""))) for each in wanted.get("data") or []]
    stems = {path.partition("/")[0] for path in keys}
    lost = [path for path, _ in pairs if path not in keys and path.partition("/")[0] not in stems]
    if bad := [key for _, key in pairs if not kube_names.is_key(key)]:
        say(f"secretObject {name} is left out: no Secret can have the key {bad[0]!r}; it has letters, digits, -, _, .")
        return None
    if lost or not pairs:
        say(f"secretObject {name} is left out: " + (f"the class has no object {lost[0]}" if lost else "it has no data"))
        return None
    secret: Manifest = {
        "type": wanted.get("type") or DEFAULT_TYPE,
        "data": [{"sourcePath": path, "targetKey": key} for path, key in pairs],
    }
    for field in ("labels", "annotations"):
        kept = {k: v for k, v in (wanted.get(field) or {}).items() if not str(k).startswith(RESERVED_PREFIX)}
        secret |= {field: kept} if kept else {}
    return _sync(name, source, account, secret)


def _sync(name: str, source: Manifest, account: str, secret: Manifest) -> Manifest:
    return {
        "apiVersion": SecretSync.api_version(),
        "kind": SecretSync.kind,
        "metadata": {"name": name, "namespace": namespace(source)},
        "spec": {
            "secretProviderClassName": source["metadata"]["name"],
            "serviceAccountName": account,
            "secretObject": secret,
        },
    }


def _sync_with_all(syncs: Sequence[Manifest], files: Sequence[_File]) -> str | None:
    """A Secret that has every file already, byte for byte: another one with the same values would be one too many."""
    for sync in syncs:
        wanted = sync["spec"]["secretObject"]
        if wanted["type"] == DEFAULT_TYPE and {file.path for file in files} <= {
            pair["sourcePath"] for pair in wanted["data"]
        }:
            return str(sync["metadata"]["name"])
    return None


def _workload(
    workload: Manifest,
    mounts: Sequence[Mount],
    secrets: Mapping[tuple[str, str], tuple[str, list[_File]]],
    result: Migration,
) -> None:
    say = _Sayer(place(workload), result.notes)
    volumes = []
    for mount in mounts:
        name, files = secrets.get(_class_of(mount), ("", []))
        if not name:
            say(f"volume {mount.volume['name']} stays: SecretProviderClass {mount.class_name} is not carried over")
            continue
        items = [
            {"key": file.key, "path": file.path} | ({"mode": file.mode} if file.mode is not None else {})
            for file in files
        ]
        # A strategic merge patch finds the volume by its name; null takes its old source away.
        secret = {"secretName": name, "items": items} | ({"optional": True} if any(f.optional for f in files) else {})
        volumes.append({"name": mount.volume["name"], "csi": None, "secret": secret})
        if publish := (mount.volume["csi"].get("nodePublishSecretRef") or {}).get("name"):
            say(f"Secret {publish} (a service principal) is no longer read: revoke it once all is verified")
    if not volumes:
        return
    if workload["kind"] in _UNCHANGEABLE:
        say("its pods' template cannot change: make it anew with the volumes of this patch")
    body: Manifest = {"spec": {"volumes": volumes}}
    for step in reversed(TEMPLATES[workload["kind"]]):
        body = {step: body}
    meta = {"name": workload["metadata"]["name"], "namespace": namespace(workload)}
    head = {"apiVersion": workload["apiVersion"], "kind": workload["kind"], "metadata": meta}
    result.patches.append(head | body)
