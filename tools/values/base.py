"""What all groups of values are made of."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

Free = dict[str, Any]
# A namespace's name (RFC 1123 label), and some in one string, as Azure Arc passes a list.
_NAMESPACE = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
NAMESPACES = {
    "items": {"type": "string", "pattern": f"^{_NAMESPACE}$"},
    "pattern": f"^({_NAMESPACE}( *, *{_NAMESPACE})*)?$",
}
NumberOrShare = Annotated[int | str, Meta(extra_json_schema={"pattern": "^([0-9]+%?)?$"})]


class Values(msgspec.Struct, rename="camel", kw_only=True, forbid_unknown_fields=True):
    """Base of all groups of values."""


class Open(Values, forbid_unknown_fields=False):
    """Base of groups that somebody else fills, and may fill with more than is known here."""
