"""Choose names for new objects that no existing object has. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from controller.api.akvsync import AKVSync
from controller.api.secretproviderclass import SecretProviderClass
from tools.cli.migrate.migration import SUFFIX
from tools.cli.migrate.objects import Manifest, namespace_of
from tools.cli.migrate.operators.wanted_secrets import WantedSecret


class TakenNames(msgspec.Struct, frozen=True):
    """The classes and AKVSyncs that exist, by namespace and name, and the Secrets that each AKVSync names."""

    classes: Collection[tuple[str, str]]
    akvsyncs: Mapping[tuple[str, str], Sequence[object]]


def find_taken_names(objects: Iterable[Manifest]) -> TakenNames:
    """Return the names that existing objects have."""
    classes: set[tuple[str, str]] = set()
    akvsyncs: dict[tuple[str, str], Sequence[object]] = {}
    for each in objects:
        place = (namespace_of(each), each["metadata"]["name"])
        if each["kind"] == SecretProviderClass.kind:
            classes.add(place)
        elif each["kind"] == AKVSync.kind:
            spec = each.get("spec")
            items = spec.get("objects") if isinstance(spec, dict) else None
            items = items if isinstance(items, list) else []
            akvsyncs[place] = [item.get("kubernetesSecretName") for item in items if isinstance(item, dict)]
    return TakenNames(classes, akvsyncs)


def free_name(name: str, secret: WantedSecret, taken: TakenNames) -> str:
    """Return that name for an AKVSync or a class, with `SUFFIX` as often as another object has the name.

    An AKVSync that makes this Secret alone comes from an earlier run, and so does its class: the name stays.
    """
    while True:
        place = (secret.namespace, name)
        made = taken.akvsyncs.get(place)
        if made == [secret.name] or (made is None and place not in taken.classes):
            return name
        name += SUFFIX


def name_beside(secret: WantedSecret, taken: Collection[tuple[str, str]]) -> str:
    """Return the name of a Secret beside the one that exists. No Secret in `taken` (namespace, name) has it."""
    name = f"{secret.name}{SUFFIX}"
    while (secret.namespace, name) in taken:
        name += SUFFIX
    return name
