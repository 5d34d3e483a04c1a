"""Check a Secret's metadata and keys by Kubernetes' rules before the controller reads a vault.

Otherwise each attempt to write an invalid Secret would cost a vault read. Kubernetes also limits the size of all
annotations; the controller reads no spec that large. Source: apimachinery, `validation.IsQualifiedName`,
`IsValidLabelValue`, `IsConfigMapKey`.
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
# Maximum length of an invalid text in a message.
_MAX_QUOTED = 80


def find_violation(labels: Mapping[str, str], annotations: Mapping[str, str]) -> str | None:
    """Return why Kubernetes would refuse a Secret with these, with the fix, or None if it would not."""
    for key, value in labels.items():
        if not _is_qualified_name(key):
            return f"secretObject.labels: the key {_quote(key)} is not a label's key: write {_NAME_RULE}"
        if value and (len(value) > MAX_NAME or not _NAME.fullmatch(value)):
            return (
                f"secretObject.labels: the value {_quote(value)} of {_quote(key)} is not a label's value: write"
                f" {_VALUE_RULE}; an annotation may have any text"
            )
    for key in annotations:
        # Kubernetes checks the keys of annotations in lower case, so the prefix can have capitals. Go's lower case of
        # U+0130 is one character, Python's is two.
        if not _is_qualified_name(key.replace("\u0130", "i").lower()):
            return f"secretObject.annotations: the key {_quote(key)} is not an annotation's key: write {_NAME_RULE}"
    return None


def key_violation(key: str) -> str | None:
    """Return why Kubernetes would refuse a Secret with this key in its data, or None if it would not."""
    if not _DATA_KEY.fullmatch(key):
        return f"targetKey {_shorten(key)}: a Secret's keys have letters, digits, - . and _ only"
    if len(key) > MAX_KEY:
        return f"targetKey {_shorten(key)}: a Secret's key has at most {MAX_KEY} characters"
    if key == "." or key.startswith(".."):
        return f"targetKey {_shorten(key)}: a Secret's key is not a single dot and does not begin with two dots"
    return None


def _is_qualified_name(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > MAX_PREFIX or not _PREFIX.fullmatch(prefix)):
        return False
    return len(name) <= MAX_NAME and bool(_NAME.fullmatch(name))


def _quote(text: str) -> str:
    return repr(_shorten(text))


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_QUOTED else text[: _MAX_QUOTED - 3] + "..."
