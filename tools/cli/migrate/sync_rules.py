"""Check what a migration makes by the rules of the controller, the CRDs and the admission policies. Pure.

`kubectl apply` or the controller would refuse an object that breaks one, after the migration has begun.
"""

import msgspec

from controller.akvsync.expand import expand_akvsync
from controller.api.akvsync import MAX_LABELS, MAX_MAPPED, MAX_OBJECTS, AKVSync
from controller.api.secretsync import MAX_KEYS, MAX_TEXT, RESERVED_PREFIX, SecretSync
from controller.domain import decision, reserved, secret_limits
from controller.domain.provider_class import ProviderConfig, read_class
from controller.errors import ControllerError
from tools.cli.common import kube_names


def find_sync_problem(sync: SecretSync, understood: ProviderConfig) -> str:
    """Return why a SecretSync of that class would be refused, or an empty text."""
    name, wanted = sync.metadata.name, sync.spec.secret_object
    if not kube_names.is_name(name):
        return f"{name!r} is not a Secret's name, which has only small letters, digits, - and ."
    if not 1 <= len(wanted.data) <= MAX_KEYS:
        return (
            f"it has {len(wanted.data)} keys, and a SecretSync has 1 to {MAX_KEYS}" if wanted.data else "it has no data"
        )
    for pair in wanted.data:
        if not kube_names.is_source_path(pair.source_path):
            return f"a sourcePath cannot be {pair.source_path!r}; give the object another objectAlias"
    try:
        understood.wanted(wanted)
    except ControllerError as error:
        return str(error)
    if mistake := decision.find_spec_mistake(sync):
        return str(mistake)
    if len(msgspec.json.encode([wanted.labels, wanted.annotations])) > MAX_TEXT:
        return f"its labels and annotations have more than {MAX_TEXT} characters"
    return reserved.find_reserved(name, wanted.labels, wanted.annotations) or ""


def find_akvsync_problem(akv: AKVSync) -> str:
    """Return why an AKVSync without select would be refused, or an empty text."""
    if len(akv.spec.objects) > MAX_OBJECTS:
        return f"more than {MAX_OBJECTS} Secrets"
    for entry in akv.spec.objects:
        if len(entry.mapping) > MAX_MAPPED:
            return f"more than {MAX_MAPPED} keys of {entry.kubernetes_secret_name}"
        if max(len(entry.labels), len(entry.annotations)) > MAX_LABELS:
            return f"more than {MAX_LABELS} labels or annotations of {entry.kubernetes_secret_name}"
    try:
        made = expand_akvsync(akv)
        if made.source is None:
            return "a class without objects"
        understood = read_class(made.source)
    except ControllerError as error:
        return str(error)
    return next((problem for each in made.syncs.values() if (problem := find_sync_problem(each, understood))), "")


def carried_metadata(labels: dict[str, str], annotations: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the labels and annotations that this controller can write. Leave out those of other tools."""
    return (
        {key: value for key, value in labels.items() if _is_carried({key: value}, {})},
        {key: value for key, value in annotations.items() if _is_carried({}, {key: value})},
    )


def _is_carried(labels: dict[str, str], annotations: dict[str, str]) -> bool:
    return not (
        any(key.startswith(RESERVED_PREFIX) for key in (*labels, *annotations))
        or reserved.find_reserved("", labels, annotations)
        or secret_limits.find_violation(labels, annotations)
    )
