"""Translate messages about a generated SecretSync into the terms of its AKVSync. Pure."""

import re
from typing import Any

import msgspec

# Maximum number of failing keys of PartialSync's list in a message.
MAX_SHOWN = 3
# Each pair is a field or step that the user of an AKVSync does not have, and its replacement. They apply in this order.
_SENTENCES: tuple[tuple[str, str], ...] = (
    (
        r"there is no SecretProviderClass \S+ in namespace \S+; create it or correct secretProviderClassName",
        "an object that the controller generates from this AKVSync is missing; the controller creates it again",
    ),
    (r", or write objectFormat: pfx to have the PFX as it is", ""),
    (r"map it by its name alone in an Opaque Secret", "set kubernetesSecretType to Opaque"),
    (r"correct the sourcePath", "correct secretInAKV or certInAKV"),
    (r"of an earlier SecretSync of this name", "of an earlier object of this name"),
    (r"set the SecretProviderClass's (\w+)", r"set \1"),
    (r"set the same labels and annotations in secretObject", "set the same labels and annotations in the AKVSync"),
    (r"correct objectVersion or remove it", "correct version"),
    (r"take objectVersionHistory out", "lower versionHistory"),
    (r"SecretProviderClass [-.a-z0-9]+: ", ""),
    (r"secretObject\.type\b", "kubernetesSecretType"),
    (r"secretObject\.(labels|annotations)\b", r"\1"),
    (
        r"rename the SecretSync, or delete that Secret",
        "set another kubernetesSecretName, or delete that Secret",
    ),
    (r"rename the SecretSync", "set another kubernetesSecretName"),
    (r"does not belong to this SecretSync", "does not belong to this AKVSync"),
    (r"correct objectName, objectType or objectVersion", "correct secretInAKV or certInAKV"),
    (r"correct objectName or objectType", "correct secretInAKV or certInAKV"),
    (r"add versions or take the key out of the SecretSync", "add versions or lower versionHistory or version"),
    (r"take it out of the SecretSync", "take it out of the AKVSync"),
    (r"split the SecretSync", "split the mapping"),
    (r"^type (\S+) needs", r"kubernetesSecretType \1 needs"),
    (r"map (it|one) in secretObject\.data", r"map \1 in mapping"),
)
# The remaining terms of SecretSyncs and SecretProviderClasses, so that new messages are translated, too.
_TERMS: tuple[tuple[str, str], ...] = (
    (r"\bobjectVersionHistory\b", "versionHistory"),
    (r"\bobjectVersion\b", "version"),
    (r"\bobject(?:Name|Alias)\b", "secretInAKV or certInAKV"),
    (r"\bobjectType\b", "the kind"),
    (r"\bobjectFormat\b", "the format"),
    (r"\bobjectEncoding\b", "encoding"),
    (r"\bobjectProperty\b", "property"),
    (r"\bobjectExpand\b", "expand"),
    (r"\btargetKey(s?)\b", r"dataKey\1"),
    (r"\bsourcePath(s?)\b", r"object\1"),
    (r"\bsecretObject\.data\b", "mapping"),
    (r"\bsecretObject\b", "this object of the AKVSync"),
    (r"\bsecretProviderClassName\b", "the AKVSync"),
    (r"\bSecretProviderClasses\b", "AKVSyncs"),
    (r"\bSecretProviderClass\b", "AKVSync"),
    (r"\bSecretSync(s?)\b", r"AKVSync\1"),
)
_COMPILED = tuple((re.compile(pattern), term) for pattern, term in (*_SENTENCES, *_TERMS))


def in_akvsync_terms(message: str) -> str:
    """Return the message of a generated SecretSync with the fields and steps of its AKVSync."""
    if message.startswith("[{"):
        message = _list_failures(message)
    for pattern, term in _COMPILED:
        message = pattern.sub(term, message)
    return message


def _list_failures(message: str) -> str:
    """Return PartialSync's JSON as a sentence: the failing keys, by dataKey."""
    try:
        items = msgspec.json.decode(message, type=list[dict[str, Any]])
    except (ValueError, RecursionError):
        return message
    failed = [f"{item.get('targetKey')}: {item.get('message')}" for item in items if item.get("status") == "failed"]
    count = next((item["failed"] for item in items if isinstance(item.get("failed"), int)), len(failed))
    shown = "; ".join(failed[:MAX_SHOWN])
    return f"{shown} (and {count - MAX_SHOWN} more keys fail)" if count > MAX_SHOWN else shown
