"""Combine the SecretSyncs of one class into one AKVSync, if an AKVSync can express the same. Pure."""

from collections.abc import Sequence

import msgspec

from controller.api.akvsync import AKVSync
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.domain.provider_class import ProviderConfig, read_class
from controller.errors import ClassError
from tools.cli.migrate.migration import SUFFIX
from tools.cli.migrate.objects import Manifest
from tools.cli.migrate.sync_rules import find_akvsync_problem


class InexpressibleSync(Exception):  # noqa: N818 -- an answer, not an error
    """An AKVSync cannot express a part of the class or its SecretSyncs. The message names the part."""


def build_akvsync(source: Manifest, syncs: Sequence[Manifest]) -> Manifest:
    """Return one AKVSync for a class and its SecretSyncs. Raise `InexpressibleSync` if its Secrets would differ."""
    try:
        understood = read_class(msgspec.convert(source, SecretProviderClass))
    except (ClassError, msgspec.ValidationError) as error:
        raise InexpressibleSync(str(error)) from error
    if understood.cloud:
        raise InexpressibleSync(f"cloudName {understood.cloud}")
    accounts = {sync["spec"]["serviceAccountName"] for sync in syncs}
    if len(accounts) != 1:
        raise InexpressibleSync("several ServiceAccounts")
    objects = []
    for sync in syncs:
        secret = sync["spec"]["secretObject"]
        item: Manifest = {"kubernetesSecretName": sync["metadata"]["name"]}
        if secret["type"] != "Opaque":
            item["kubernetesSecretType"] = secret["type"]
        item |= {field: secret[field] for field in ("labels", "annotations") if field in secret}
        item["mapping"] = [_convert_entry(pair, understood) for pair in secret["data"]]
        objects.append(item)
    made: Manifest = {
        "apiVersion": SecretSync.api_version(),
        "kind": "AKVSync",
        # An AKVSync generates a class with its own name, and never takes over an existing class.
        "metadata": {
            "name": source["metadata"]["name"].removesuffix(SUFFIX) + SUFFIX,
            "namespace": source["metadata"]["namespace"],
        },
        "spec": {
            "keyvaultName": understood.vault,
            "clientID": understood.client_id,
            "tenantID": understood.tenant_id,
            "serviceAccountName": accounts.pop(),
            "objects": objects,
        },
    }
    try:
        problem = find_akvsync_problem(msgspec.convert(made, AKVSync))
    except msgspec.ValidationError as error:
        raise InexpressibleSync(str(error)) from error
    if problem:
        raise InexpressibleSync(problem)
    return made


def _convert_entry(pair: Manifest, understood: ProviderConfig) -> Manifest:
    path = pair["sourcePath"]
    stem, _, number = path.rpartition("/")
    found = understood.objects.get(path) or (understood.histories.get(stem) if number.isdigit() else None)
    if found is None:
        raise InexpressibleSync(f"sourcePath {path}, a part of an object")
    if found.version:
        raise InexpressibleSync(f"objectVersion of {found.name}")
    if found.format != "pem":
        raise InexpressibleSync(f"objectFormat {found.format} of {found.name}")
    for field, is_used in (("objectExpand", found.expand), ("objectKeep", found.keep)):
        if is_used:
            raise InexpressibleSync(f"{field} of {found.name}")
    if found.type != "secret":  # certInAKV reads the certificate with its private key, unlike objectType cert
        raise InexpressibleSync(f"objectType {found.type} of {found.name}")
    entry: Manifest = {"dataKey": pair["targetKey"], "secretInAKV": found.name}
    if found.history > 1 and stem:
        entry["version"] = int(number)
    if found.property_path:
        entry["property"] = found.property_path
    if found.encoding != "utf-8":
        entry["encoding"] = found.encoding
    return entry
