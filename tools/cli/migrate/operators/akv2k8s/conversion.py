"""Convert AzureKeyVaultSecrets (akv2k8s) into AKVSyncs, or SecretProviderClasses and SecretSyncs. Pure.

The controller of akv2k8s copies objects of a vault into Secrets. Each such Secret is taken over with all its keys. If
some keys have no counterpart, the other keys become a Secret beside it. The env-injector of akv2k8s replaces
`name@azurekeyvault` in a container's environment with a value that is in no Secret. For such a value, the conversion
makes a new Secret and a patch of the workload.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from controller.api.akvsync import AKVSync
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import DEFAULT_TYPE
from tools.cli.migrate import sync_rules
from tools.cli.migrate.objects import Manifest, namespace_of, qualified_name
from tools.cli.migrate.operators import foreign_manifests, new_names, secret_manifests, wanted_secrets
from tools.cli.migrate.operators.akv2k8s import keys
from tools.cli.migrate.operators.akv2k8s.kinds import GROUP, KIND, VERSIONS, AzureKeyVaultSecret
from tools.cli.migrate.operators.new_names import TakenNames
from tools.cli.migrate.operators.result import ConversionOptions, ConversionResult, SecretTakeover, SourceObject
from tools.cli.migrate.operators.wanted_secrets import (
    InexpressibleSecret,
    SecretEntry,
    VaultIdentity,
    WantedSecret,
)
from tools.cli.migrate.workloads import TEMPLATES

_INJECTED = re.compile(r"([a-zA-Z0-9]([a-zA-Z0-9-]{0,253}[a-zA-Z0-9])?)@azurekeyvault(\?([a-zA-Z_][a-zA-Z0-9_.]*)?)?")
# Kinds of workloads whose pod template cannot change.
UNCHANGEABLE = ("Job", "Pod")
_Sources = dict[tuple[str, str], AzureKeyVaultSecret]
"""AzureKeyVaultSecrets by namespace and name."""
_Members = list[tuple[str, AzureKeyVaultSecret]]
"""The AzureKeyVaultSecrets that write one Secret, each with its name."""


def checked_kinds() -> tuple[str, ...]:
    """Return the kinds whose objects must have valid names for the conversion."""
    return (KIND, SecretProviderClass.kind, AKVSync.kind, *TEMPLATES)


def convert_objects(objects: Iterable[Manifest], options: ConversionOptions) -> ConversionResult:
    """Convert every AzureKeyVaultSecret among `objects`, and the values that the env-injector injects."""
    objects = sorted(objects, key=qualified_name)
    result = ConversionResult()
    sources: _Sources = {}
    for each in objects:
        if str(each.get("apiVersion", "")).rpartition("/")[0] != GROUP:
            if each["kind"] not in TEMPLATES:
                result.untouched.append(qualified_name(each))
        elif (read := _read_secret(each, result)) is not None:
            sources[namespace_of(each), each["metadata"]["name"]] = read
    taken = new_names.find_taken_names(objects)
    conversion = _SecretConversion(sources, options, result, taken)
    conversion.convert_secrets()
    for each in objects:
        if each["kind"] in TEMPLATES and not each["metadata"].get("ownerReferences"):
            conversion.patch_workload(each)
        elif each["kind"] not in (*TEMPLATES, KIND):
            conversion.note_injections(each)
    conversion.convert_injected()
    return result


def _read_secret(manifest: Manifest, result: ConversionResult) -> AzureKeyVaultSecret | None:
    about = qualified_name(manifest)
    version = str(manifest["apiVersion"]).rpartition("/")[2]
    if manifest["kind"] != KIND:
        result.note(about, "names an identity for akv2k8s: federate that identity with a ServiceAccount instead")
        return None
    if version not in VERSIONS:
        result.note(about, f"is not carried over: the version {version} is not one of {', '.join(VERSIONS)}")
        return None
    try:
        read = foreign_manifests.read({"metadata": {}, **manifest}, AzureKeyVaultSecret)
    except msgspec.ValidationError as error:
        result.note(about, f"is not carried over: it does not have the form of its kind: {error}")
        return None
    for path in foreign_manifests.unknown_fields(manifest.get("spec"), read.spec):
        result.note(about, f"spec.{path} is not known here and is left out")
    return read


class _SecretConversion:
    """One conversion: it adds manifests, patches and notes to a result."""

    def __init__(
        self, sources: _Sources, options: ConversionOptions, result: ConversionResult, taken: TakenNames
    ) -> None:
        self._sources, self._options, self._result, self._taken = sources, options, result, taken
        self._names = {
            (where, each.spec.output.secret.name)
            for (where, _), each in sources.items()
            if each.spec.output.secret.name
        }
        # AzureKeyVaultSecrets whose values are injected through objects that are not converted.
        self._used: set[tuple[str, str]] = set()
        # The keys that each new Secret needs for injected values, by namespace and name of the AzureKeyVaultSecret.
        self._injected: dict[tuple[str, str], dict[str, SecretEntry]] = {}

    def convert_secrets(self) -> None:
        """Convert the Secrets that the controller of akv2k8s writes. Several AzureKeyVaultSecrets can write one."""
        groups = self._group_by_secret()
        names = set(groups)
        for (where, secret_name), members in groups.items():
            self._convert_group(where, secret_name, members, names)

    def _group_by_secret(self) -> dict[tuple[str, str], _Members]:
        """Return the AzureKeyVaultSecrets by the Secret that they write. Add a note for each ConfigMap."""
        groups: dict[tuple[str, str], _Members] = {}
        for (where, name), each in self._sources.items():
            output = each.spec.output
            if output.config_map.name:
                self._result.note(
                    f"{KIND} {where}/{name}",
                    f"writes the ConfigMap {output.config_map.name}: this controller writes only Secrets; sync a Secret"
                    " and let the workload read that",
                )
            if output.secret.name:
                groups.setdefault((where, output.secret.name), []).append((name, each))
        return groups

    def _convert_group(self, where: str, secret_name: str, members: _Members, names: set[tuple[str, str]]) -> None:
        """Convert one Secret. Add the new one to `names`, the Secrets by namespace and name."""
        owners = tuple(SourceObject(KIND.lower(), where, name) for name, _ in members)
        try:
            secret = self._make_secret(where, secret_name, members)
            given = secret
            if self._options.beside or secret.lost:
                given = msgspec.structs.replace(secret, name=new_names.name_beside(secret, names))
            self._add_secret(given)
        except InexpressibleSecret as problem:
            for name, _ in members:
                self._result.note(f"{KIND} {where}/{name}", f"is not carried over: {problem}")
            self._result.remaining.extend(owners)
            return
        names.add((where, given.name))
        takeover = SecretTakeover(where, secret_name, given.name, owners)
        if secret.lost:
            self._result.note_lost(f"{KIND} {where}/{members[0][0]}", given.name, secret)
            self._result.partial.append(takeover)
            self._result.remaining.extend(owners)
        else:
            self._result.takeovers.append(takeover)

    def _make_secret(self, where: str, name: str, members: _Members) -> WantedSecret:
        types = {each.spec.output.secret.type or DEFAULT_TYPE for _, each in members}
        readers = {self._reader_of(each) for _, each in members}
        if len(types) > 1 or len(readers) > 1:
            what = "types" if len(types) > 1 else "vaults"
            raise InexpressibleSecret(f"Secret {name} has several {what}: use a Secret for each")
        (kind,), (reader,) = types, readers
        whole = [found for _, each in members if (found := keys.convert_whole(each))]
        if whole and len(members) > 1:
            raise InexpressibleSecret(f"Secret {name} has several values, and one of them becomes several keys")
        entries: dict[str, SecretEntry] = {}
        lost: dict[str, str] = {}
        labels: dict[str, str] = {}
        annotations: dict[str, str] = {}
        for source, each in members:
            try:
                own = [] if whole else list(keys.convert_entries(each))
            except InexpressibleSecret as problem:
                lost[f"{KIND} {source}"] = str(problem)
                continue
            for entry in own:
                if entry.key in entries:
                    raise InexpressibleSecret(f"two AzureKeyVaultSecrets write the key {entry.key} of Secret {name}")
                entries[entry.key] = entry
            labels |= each.metadata.labels
            annotations |= each.metadata.annotations
            if each.spec.vault.azure_identity.name:
                self._result.note(
                    f"{KIND} {where}/{source}",
                    f"azureIdentity {each.spec.vault.azure_identity.name} is not supported: give that identity's id"
                    " with --client-id, in a separate run for these manifests",
                )
        if lost and not entries:
            raise InexpressibleSecret(
                wanted_secrets.join_problems(lost) if len(lost) > 1 else next(iter(lost.values()))
            )
        labels, annotations = sync_rules.carried_metadata(labels, annotations)
        return WantedSecret(
            namespace=where,
            name=name,
            type=kind,
            lost=lost,
            labels=labels,
            annotations=annotations,
            entries=list(entries.values()),
            whole=whole[0] if whole else None,
            reader=reader,
        )

    def _reader_of(self, source: AzureKeyVaultSecret) -> VaultIdentity:
        """Return the reader of the vault. akv2k8s has one identity for all, and no manifest names it."""
        given = self._options
        if not given.client_id or not given.tenant_id:
            raise InexpressibleSecret(
                "akv2k8s reads every vault with one identity, and no manifest names it; this controller uses an"
                " identity for each namespace: give --client-id and --tenant-id"
            )
        return VaultIdentity(
            vault=given.vault or source.spec.vault.name,
            client_id=given.client_id,
            tenant_id=given.tenant_id,
            service_account=given.service_account or "default",
        )

    def _add_secret(self, secret: WantedSecret) -> None:
        name = new_names.free_name(secret.name, secret, self._taken)
        self._result.manifests.extend(secret_manifests.build_manifests(secret, name, classes=self._options.classes))
        self._result.add_roles(secret)

    def patch_workload(self, manifest: Manifest) -> None:
        """Add a patch for a workload, if the env-injector injects values into its environment."""
        about, where = qualified_name(manifest), namespace_of(manifest)
        body: Manifest = {}
        for field in ("initContainers", "containers"):
            containers = []
            for container in _only_dicts(_pod_spec(manifest).get(field)):
                env = list(self._patch_variables(container, where, about))
                if env and isinstance(container.get("name"), str):
                    containers.append({"name": container["name"], "env": env})
            if containers:
                body[field] = containers
        if not body:
            return
        if manifest["kind"] in UNCHANGEABLE:
            self._result.note(about, "its pod template cannot change: create it again with the env of this patch")
        body = {"spec": body}
        for step in reversed(TEMPLATES[manifest["kind"]]):
            body = {step: body}
        meta = {"name": manifest["metadata"]["name"], "namespace": where}
        head = {"apiVersion": str(manifest.get("apiVersion")), "kind": manifest["kind"], "metadata": meta}
        self._result.patches.append(head | body)

    def _patch_variables(self, container: Manifest, where: str, about: str) -> Iterator[Manifest]:
        for variable in _only_dicts(container.get("env")):
            name, value = variable.get("name"), variable.get("value")
            if not isinstance(name, str) or not isinstance(value, str) or "@azurekeyvault" not in value:
                continue
            if not (match := _INJECTED.fullmatch(value)):
                self._result.note(about, f"the value of {name} is not NAME@azurekeyvault: the env-injector leaves it")
                continue
            source = self._sources.get((where, match[1]))
            try:
                if source is None:
                    raise InexpressibleSecret(f"{KIND} {where}/{match[1]} is not among the manifests: add its file")
                entry = keys.convert_injected(source, match[4] or "")
                secret = self._injected_secret(where, match[1], [entry])
                secret_manifests.build_manifests(secret, match[1], classes=False)  # raises if this is not possible
            except InexpressibleSecret as problem:
                self._result.note(about, f"the environment variable {name} stays: {problem}")
                continue
            self._injected.setdefault((where, match[1]), {})[entry.key] = entry
            key_ref = {"name": self._injected_name(where, match[1]), "key": entry.key}
            # A strategic merge patch finds the variable by its name; null removes its old value.
            yield {"name": name, "value": None, "valueFrom": {"secretKeyRef": key_ref}}

    def note_injections(self, manifest: Manifest) -> None:
        """Add a note for each value that the env-injector injects through an object that is not converted."""
        for text in sorted(_find_injected(manifest)):
            self._result.note(
                qualified_name(manifest),
                f"{text} in it stays, because this kind is not converted: write an AKVSync for the value, and let the"
                " workload read its Secret",
            )
            self._used.add((namespace_of(manifest), text.partition("@")[0]))

    def _injected_name(self, where: str, source: str) -> str:
        """Return the name of the new Secret. Another Secret can have the AzureKeyVaultSecret's name already."""
        return source if (where, source) not in self._names else f"{source}-env"

    def _injected_secret(self, where: str, source: str, entries: Sequence[SecretEntry]) -> WantedSecret:
        return WantedSecret(
            namespace=where,
            name=self._injected_name(where, source),
            type=DEFAULT_TYPE,
            labels={},
            annotations={},
            entries=entries,
            reader=self._reader_of(self._sources[where, source]),
        )

    def convert_injected(self) -> None:
        """Convert the Secrets that the patched workloads read, and note AzureKeyVaultSecrets without a use."""
        for (where, name), entries in self._injected.items():
            self._add_secret(self._injected_secret(where, name, list(entries.values())))
        for (where, name), each in self._sources.items():
            output = each.spec.output
            is_used = (where, name) in self._injected or (where, name) in self._used
            if not (output.secret.name or output.config_map.name or is_used):
                self._result.note(
                    f"{KIND} {where}/{name}",
                    "writes no Secret, and no workload among the manifests uses its value: add the workloads, and the"
                    " ConfigMaps of their environment, or delete it",
                )


def _find_injected(value: Any) -> set[str]:
    """Return the texts in an object that the env-injector replaces."""
    if isinstance(value, dict | list):
        return set().union(*map(_find_injected, value.values() if isinstance(value, dict) else value))
    return {value} if isinstance(value, str) and _INJECTED.fullmatch(value) else set()


def _pod_spec(manifest: Manifest) -> Manifest:
    """Return the specification of a workload's pods; an empty one if it has none."""
    found: Any = manifest
    for step in (*TEMPLATES[manifest["kind"]], "spec"):
        found = found.get(step) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _only_dicts(found: Any) -> list[Manifest]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
