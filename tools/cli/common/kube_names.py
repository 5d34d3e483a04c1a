"""Names as the API server takes them. Pure."""

import re

from controller.api.meta import MAX_NAME, is_object_name
from controller.api.secretsync import SOURCE_PATH

# Kubernetes documentation, "Object Names and IDs"; "Secrets", for the keys.
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


def is_name(text: object) -> bool:
    """Return whether an object can have this name: a DNS subdomain."""
    return isinstance(text, str) and is_object_name(text)


def is_namespace(text: object) -> bool:
    """Return whether a namespace can have this name: a DNS label."""
    return isinstance(text, str) and _LABEL.fullmatch(text) is not None


def is_source_path(text: str) -> bool:
    """Return whether a SecretSync can have this sourcePath."""
    return len(text) <= MAX_NAME and re.fullmatch(SOURCE_PATH, text) is not None and not text.endswith("\n")


def is_key(text: object) -> bool:
    """Return whether a Secret's data can have this key."""
    return isinstance(text, str) and _KEY.fullmatch(text) is not None and text not in (".", "..")
