"""Messages about a generated SecretSync, in the terms of the AKVSync that its user wrote. Pure."""

import re
from typing import Any

import msgspec

# Of PartialSync's list, how many failing keys are shown.
MAX_SHOWN = 3
# In this order; each names a field or a step that the user of an AKVSync does not have, and what stands in its place.
_TERMS: tuple[tuple[str, str], ...] = (
    (r"SecretProviderClass [-.a-z0-9]+: ", ""),
    (r"secretObject\.type\b", "kubernetesSecretType"),
    (r"secretObject\.(labels|annotations)\b", r"\1"),
    (
        r"rename the SecretSync, or move that Secret away and the sync follows",
        "set another kubernetesSecretName, or move that Secret away and the AKVSync follows",
    ),
    (r"rename the SecretSync", "set another kubernetesSecretName"),
    (r"does not belong to this SecretSync", "does not belong to this AKVSync"),
    (r"correct objectName, objectType or objectVersion", "correct secretInAKV or certInAKV"),
    (r"correct objectName or objectType", "correct secretInAKV or certInAKV"),
    (r"add versions or take the key out of the SecretSync", "add versions or lower versionHistory or version"),
    (r"take it out of the SecretSync", "take it out of the AKVSync"),
    (r"split the SecretSync", "split the mapping"),
    (r"map (it|one) in secretObject\.data", r"map \1 in mapping"),
    (r"\bobjectVersionHistory\b", "versionHistory"),
    (r"\btargetKey\b", "dataKey"),
    (r"\bsourcePath\b", "object"),
    (r"\bthis SecretSync\b", "this AKVSync"),
)
_COMPILED = tuple((re.compile(pattern), term) for pattern, term in _TERMS)


def in_akvsync_terms(message: str) -> str:
    """Return the message of a generated SecretSync as it reads for the AKVSync's user."""
    if message.startswith("[{"):
        message = _listed(message)
    for pattern, term in _COMPILED:
        message = pattern.sub(term, message)
    return message


def _listed(message: str) -> str:
    """Return PartialSync's JSON as a sentence: the failing keys, by dataKey."""
    try:
        items = msgspec.json.decode(message, type=list[dict[str, Any]])
    except msgspec.DecodeError:
        return message
    failed = [f"{item.get('targetKey')}: {item.get('message')}" for item in items if item.get("status") == "failed"]
    count = next((item["failed"] for item in items if isinstance(item.get("failed"), int)), len(failed))
    shown = "; ".join(failed[:MAX_SHOWN])
    return f"{shown} (and {count - MAX_SHOWN} more keys fail)" if count > MAX_SHOWN else shown
