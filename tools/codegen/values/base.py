"""Define the base of all groups of values."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tools.codegen.values import kubernetes

Free = dict[str, Any]
# A namespace's name (RFC 1123 label), and several names in one string, because Azure Arc passes lists this way.
_NAMESPACE = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
NAMESPACES = {
    "items": {"type": "string", "pattern": f"^{_NAMESPACE}$"},
    "pattern": f"^({_NAMESPACE}( *, *{_NAMESPACE})*)?$",
}
NAMESPACE = f"^({_NAMESPACE})?$"
# A ServiceAccount by its name (RFC 1123 subdomain), or by namespace and name, and several in one string.
_ACCOUNT = rf"({_NAMESPACE}/)?[a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?"
SERVICE_ACCOUNTS = {
    "items": {"type": "string", "pattern": f"^{_ACCOUNT}$"},
    "pattern": f"^({_ACCOUNT}( *, *{_ACCOUNT})*)?$",
}
NumberOrShare = Annotated[int | str, Meta(extra_json_schema={"pattern": "^((0|[1-9][0-9]{0,8})|(100|[1-9]?[0-9])%)?$"})]
Port = Annotated[int, Meta(ge=1, le=65535)]
# Labels and annotations with the API server's rules.
Labels = Annotated[dict[str, str], Meta(extra_json_schema=kubernetes.LABELS)]
Annotations = Annotated[dict[str, str], Meta(extra_json_schema=kubernetes.ANNOTATIONS)]
PullSecrets = Annotated[list[Free], Meta(extra_json_schema=kubernetes.PULL_SECRETS)]
Tolerations = Annotated[list[Free], Meta(extra_json_schema=kubernetes.TOLERATIONS)]
Resources = Annotated[Free, Meta(extra_json_schema=kubernetes.RESOURCES)]


class ValuesGroup(msgspec.Struct, rename="camel", kw_only=True, forbid_unknown_fields=True):
    """A group of values."""


class OpenValues(ValuesGroup, forbid_unknown_fields=False):
    """A group that other charts or Azure Arc fill. It can contain values that this chart does not know."""


def small_resources() -> Free:
    """Return the resources of a pod with one short task."""
    return {"requests": {"cpu": "20m", "memory": "100Mi"}, "limits": {"memory": "256Mi"}}
