"""What Kubernetes accepts in a Secret's metadata and as its keys. The controller checks this before it reads a vault.

A Secret that the API server would refuse costs a vault read for each attempt otherwise. Kubernetes also bounds the size
of all annotations; the controller reads no spec that large.
Source: apimachinery, `validation.IsQualifiedName`, `IsValidLabelValue`, `IsConfigMapKey`.
"""

import re
from collections.abc import Mapping

from controller.api.meta import DNS_SUBDOMAIN

MAX_NAME = 63
MAX_PREFIX = 253
MAX_KEY = 253
_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PREFIX = re.compile(DNS_SUBDOMAIN)
_DATA_KEY = re.compile(r"[-._A-Za-z0-9]+")
_NAME_RULE = (
    f"at most {MAX_NAME} letters, digits, - . and _, with a letter or digit at both ends; before it, where needed, a"
    " DNS name and a slash"
)
_VALUE_RULE = f"at most {MAX_NAME} letters, digits, - . and _, with a letter or digit at both ends, or empty"
# Of a text that breaks a rule, a message quotes this much.
_MAX_QUOTED = 80


def violation(labels: Mapping[str, str], annotations: Mapping[str, str]) -> str | None:
    """Return why Kubernetes would refuse a Secret with these, with the fix; None where it would not."""
    for key, value in labels.items():
        if not _is_qualified_name(key):
            return f"secretObject.labels: the key {_quoted(key)} is not a label's key: write {_NAME_RULE}"
        if value and (len(value) > MAX_NAME or not _NAME.fullmatch(value)):
            return (
                f"secretObject.labels: the value {_quoted(value)} of {_quoted(key)} is not a label's value: write"
                f" {_VALUE_RULE}; an annotation may have any text"
            )
    for key in annotations:
        # Kubernetes checks annotations' keys in small letters, so that the prefix may have capitals.
        if not _is_qualified_name(key.lower()):
            return f"secretObject.annotations: the key {_quoted(key)} is not an annotation's key: write {_NAME_RULE}"
    return None


def key_violation(key: str) -> str | None:
    """Return why Kubernetes would refuse a Secret with this key in its data; None where it would not."""
    if not _DATA_KEY.fullmatch(key):
        return f"targetKey {_shortened(key)}: a Secret's keys have letters, digits, - . and _ only"
    if len(key) > MAX_KEY:
        return f"targetKey {_shortened(key)}: a Secret's key has at most {MAX_KEY} characters"
    if key == "." or key.startswith(".."):
        return f"targetKey {_shortened(key)}: a Secret's key is not . alone and does not begin with two dots"
    return None


def _is_qualified_name(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > MAX_PREFIX or not _PREFIX.fullmatch(prefix)):
        return False
    return len(name) <= MAX_NAME and bool(_NAME.fullmatch(name))


def _quoted(text: str) -> str:
    return repr(_shortened(text))


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 3] + "..."
