"""Build the manifests with which this controller writes a wanted Secret, and check them as it does. Pure.

A Secret becomes an AKVSync. It becomes a SecretProviderClass and a SecretSync if it needs a feature that AKVSync lacks:
a pinned version, a certificate without its key, a part of a certificate in a Secret that is not of type
kubernetes.io/tls, another cloud, or a type that AKVSync does not list.
"""

from collections.abc import Iterator, Sequence

import msgspec

from controller.akvsync.expand import expand_akvsync
from controller.api.akvsync import MAX_LABELS, MAX_MAPPED, SECRET_TYPES, AKVSync
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import DEFAULT_TYPE, MAX_TEXT, TLS_TYPE, SecretSync
from controller.domain import reserved
from controller.domain.provider_class import CLIENT, TENANT, VAULT_NAME, read_class
from controller.domain.vault_objects import write_name
from controller.errors import ControllerError
from tools.cli.common import kube_names
from tools.cli.migrate.objects import Manifest
from tools.cli.migrate.operators.wanted_secrets import (
    PEM_PARTS,
    InexpressibleSecret,
    SecretEntry,
    WantedSecret,
    join_problems,
)
from tools.cli.migrate.sync_rules import find_sync_problem


def build_manifests(secret: WantedSecret, name: str, *, classes: bool) -> list[Manifest]:
    """Return an AKVSync of that name, or a class of that name and a SecretSync. Raise `InexpressibleSecret`.

    `classes` requests the second form even if the first is possible. Its objects have the format `pfx`, so that a
    certificate that the vault stores as PFX is not converted.
    """
    needs_class = _needs_class(secret)
    if secret.whole and needs_class:
        raise InexpressibleSecret(
            "only an AKVSync generates a key for each property or object, but it has no such cloud or type"
        )
    makes_class = needs_class or (classes and not secret.whole)
    found = _class_and_sync(secret, name) if makes_class else [_build_akvsync(secret, name)]
    try:
        _verify_manifests(secret, found)
    except InexpressibleSecret as problem:
        if secret.lost:  # the lost keys can be the cause
            raise InexpressibleSecret(f"{join_problems(secret.lost)}; {problem}") from problem
        raise
    return found


def _needs_class(secret: WantedSecret) -> bool:
    return (
        bool(secret.reader.cloud)
        or secret.type not in SECRET_TYPES
        or max(len(secret.labels), len(secret.annotations)) > MAX_LABELS
        or len(secret.entries) > MAX_MAPPED
        or any(
            entry.version or entry.type != "secret" or (entry.part and secret.type != TLS_TYPE)
            for entry in secret.entries
        )
    )


def _metadata_fields(secret: WantedSecret) -> Manifest:
    fields = {"labels": secret.labels, "annotations": secret.annotations}
    return {field: value for field, value in fields.items() if value}


def _build_akvsync(secret: WantedSecret, name: str) -> Manifest:
    item: Manifest = {"kubernetesSecretName": secret.name}
    if secret.type != DEFAULT_TYPE:
        item["kubernetesSecretType"] = secret.type
    item |= _metadata_fields(secret)
    item |= secret.whole or {"mapping": [_build_mapping(entry) for entry in secret.entries]}
    reader = secret.reader
    return {
        "apiVersion": AKVSync.api_version(),
        "kind": AKVSync.kind,
        "metadata": {"name": name, "namespace": secret.namespace},
        "spec": {
            "keyvaultName": reader.vault,
            "clientID": reader.client_id,
            "tenantID": reader.tenant_id,
            "serviceAccountName": reader.service_account,
            "objects": [item],
        },
    }


def _build_mapping(entry: SecretEntry) -> Manifest:
    fields = {
        "dataKey": entry.key,
        "secretInAKV": entry.object,
        "property": entry.property,
        "encoding": entry.encoding,
    }
    return {field: value for field, value in fields.items() if value}


def _class_and_sync(secret: WantedSecret, name: str) -> list[Manifest]:
    paths = _variant_paths(secret.entries)
    reader = secret.reader
    parameters = {
        "keyvaultName": reader.vault,
        "clientID": reader.client_id,
        "tenantID": reader.tenant_id,
        "objects": "".join(["array:\n", *_build_objects(secret, paths)]),
    } | ({"cloudName": reader.cloud} if reader.cloud else {})
    data = [
        {
            "sourcePath": "/".join(filter(None, (paths[_variant_of(entry)], _part_of(secret, entry)))),
            "targetKey": entry.key,
        }
        for entry in secret.entries
    ]
    source = {
        "apiVersion": SecretProviderClass.api_version(),
        "kind": SecretProviderClass.kind,
        "metadata": {"name": name, "namespace": secret.namespace},
        "spec": {"provider": "azure", "parameters": parameters},
    }
    sync = {
        "apiVersion": SecretSync.api_version(),
        "kind": SecretSync.kind,
        "metadata": {"name": secret.name, "namespace": secret.namespace},
        "spec": {
            "secretProviderClassName": name,
            "serviceAccountName": reader.service_account,
            "secretObject": {"type": secret.type, "data": data, **_metadata_fields(secret)},
        },
    }
    return [source, sync]


_Variant = tuple[str, str, str, str, str]


def _variant_of(entry: SecretEntry) -> _Variant:
    return entry.object, entry.type, entry.version, entry.property, entry.encoding


def _part_of(secret: WantedSecret, entry: SecretEntry) -> str:
    """Return the part for the sourcePath. It is empty for a TLS Secret, whose keys select their parts themselves."""
    return "" if secret.type == TLS_TYPE and entry.key in PEM_PARTS else entry.part


def _variant_paths(entries: Sequence[SecretEntry]) -> dict[_Variant, str]:
    """Return the path of each variant of an object. The second and later variants get an alias.

    An alias has a dot, and names of objects have none.
    """
    paths: dict[_Variant, str] = {}
    counts: dict[str, int] = {}
    for variant in dict.fromkeys(map(_variant_of, entries)):
        count = counts[variant[0]] = counts.get(variant[0], 0) + 1
        paths[variant] = variant[0] if count == 1 else f"{variant[0]}.{count}"
    return paths


def _build_objects(secret: WantedSecret, paths: dict[_Variant, str]) -> Iterator[str]:
    for variant, path in paths.items():
        name, kind, version, part, encoding = variant
        fields = {
            "objectName": write_name(name),
            "objectType": kind,
            "objectAlias": path if path != name else "",
            "objectVersion": version,
            # A property has only letters, digits, -, _, dots and backslashes, so quotes are enough.
            "objectProperty": f"'{part}'" if part else "",
            "objectEncoding": encoding,
            "objectFormat": "pfx" if kind == "secret" and _is_whole(secret, variant) else "",
        }
        yield "  - |\n" + "".join(f"    {key}: {value}\n" for key, value in fields.items() if value)


def _is_whole(secret: WantedSecret, variant: _Variant) -> bool:
    """Return whether every key gets the whole value as the vault stores it."""
    return secret.type != TLS_TYPE and all(not entry.part for entry in secret.entries if _variant_of(entry) == variant)


def _verify_manifests(secret: WantedSecret, found: Sequence[Manifest]) -> None:
    """Raise `InexpressibleSecret` if the controller or the API server would reject these manifests."""
    reader = secret.reader
    if not kube_names.is_name(secret.name):
        raise InexpressibleSecret(
            f"{secret.name!r} is not a Secret's name, which has only small letters, digits, - and ."
        )
    if problem := reserved.find_reserved(secret.name, secret.labels, secret.annotations):
        raise InexpressibleSecret(problem)
    if len(msgspec.json.encode([secret.labels, secret.annotations])) > MAX_TEXT:
        raise InexpressibleSecret(f"its labels and annotations have more than {MAX_TEXT} characters")
    if not kube_names.is_name(reader.service_account):
        raise InexpressibleSecret(f"{reader.service_account!r} is not a ServiceAccount's name: give --service-account")
    for value, pattern, what in (
        (reader.vault, VAULT_NAME, "a Key Vault's name, 3 to 24 letters, digits and single -: give --vault"),
        (reader.client_id, CLIENT, "a managed identity's client id: give --client-id"),
        (reader.tenant_id, TENANT, "a tenant's id: give --tenant-id"),
    ):
        if not pattern.fullmatch(value):
            raise InexpressibleSecret(f"{value!r} is not {what}" if value else f"it does not name {what}")
    try:
        if found[0]["kind"] == AKVSync.kind:
            made = expand_akvsync(msgspec.convert(found[0], AKVSync))
            if made.source is None:  # it only selects objects, which only the vault can list
                return
            source, syncs = made.source, list(made.syncs.values())
            if not syncs:  # only the vault can list the objects of a selection
                return
        else:
            source = msgspec.convert(found[0], SecretProviderClass)
            syncs = [msgspec.convert(each, SecretSync) for each in found[1:]]
        understood = read_class(source)
        for sync in syncs:
            if problem := find_sync_problem(sync, understood):
                raise InexpressibleSecret(problem)
        if understood.item_problems:
            raise InexpressibleSecret(understood.item_problems[0])
    except (ControllerError, msgspec.ValidationError) as error:
        raise InexpressibleSecret(str(error)) from error
