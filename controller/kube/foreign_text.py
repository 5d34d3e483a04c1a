"""Decide which part of an API server's error text a message can contain. For a Secret, it is none. Pure.

An admission webhook or policy sees the whole Secret, even if a request changes only a label. Its text can quote values
in any form: in parts, encoded, encrypted. No search finds every form. The controller therefore reads only two things
from such a text: the name of the refusing component, where the API server puts it (an administrator chose it), and
which sentence of `KNOWN` the text contains. The controller then writes its own message.

Source: k8s.io/apiserver, pkg/admission/plugin (webhook/errors, policy/validating, policy/generic, resourcequota,
namespace/lifecycle) and pkg/endpoints/handlers/responsewriters.
"""

import enum
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from controller.config.settings import FOREIGN_SECRET

# Maximum number of characters of other texts.
MAX_TEXT = 1000
# Sentences of the API server, and of the chart's policies, that the controller searches for in this order. They contain
# no quotations.
IMMUTABLE_SECRET, IMMUTABLE_TYPE = "`immutable` is set", "field is immutable"
TOO_LARGE = "data: Too long"
OWNER_NOT_PERMITTED = "cannot set an ownerRef on a resource you can't delete"
KNOWN = (IMMUTABLE_SECRET, IMMUTABLE_TYPE, FOREIGN_SECRET, TOO_LARGE, OWNER_NOT_PERMITTED)
# The reasons of a meta/v1 Status. A webhook can write anything there.
_REASONS = frozenset(
    {
        "AlreadyExists",
        "BadRequest",
        "Conflict",
        "Expired",
        "Forbidden",
        "Gone",
        "InternalError",
        "Invalid",
        "MethodNotAllowed",
        "NotAcceptable",
        "NotFound",
        "RequestEntityTooLarge",
        "ServerTimeout",
        "ServiceUnavailable",
        "StorageReadError",
        "Timeout",
        "TooManyRequests",
        "Unauthorized",
        "UnsupportedMediaType",
    }
)
_NOT_SHOWN = "its message is not shown, because it can quote values"


class RefuserKind(enum.Enum):
    """The kind of component that refused a request."""

    API_SERVER = "the API server"
    NAMESPACE = "the namespace, which is being deleted"
    POLICY = "an admission policy"
    QUOTA = "a ResourceQuota"
    ROLE = "the Roles"
    WEBHOOK = "an admission webhook"
    WEBHOOK_FAILED = "an admission webhook that could not be called"
    WEBHOOK_NO_DRY_RUN = "an admission webhook that does not support dry runs"


class RequestRefusal(NamedTuple):
    """The component that refused a request, and its name if the text contains it.

    If Roles do not grant a verb, `name` is that verb.
    """

    by: RefuserKind
    name: str = ""

    @property
    def full_name(self) -> str:
        """Return the name of the component for a message."""
        if not self.name or self.by is RefuserKind.ROLE:
            return str(self.by.value)
        match self.by:
            case RefuserKind.QUOTA:
                return f"ResourceQuota '{self.name}'"
            case RefuserKind.POLICY:
                return self.name
        return f'admission webhook "{self.name}"'


_NAME = r"(?P<name>[a-z0-9][-.a-z0-9]{0,252})"
# A name is at the start of the text, or after the prefix that the API server puts before errors of its admission
# plugins. Any user can write the text after it.
_BEFORE = r'(?:[a-z.]{1,253}(?: "[^"]{0,253}")? is (?:forbidden|invalid): |Internal error occurred: )?'
_PATTERNS = tuple(
    (by, re.compile(_BEFORE + pattern))
    for by, pattern in (
        (RefuserKind.WEBHOOK_NO_DRY_RUN, f'admission webhook "{_NAME}" does not support dry run'),
        (RefuserKind.WEBHOOK, f'admission webhook "{_NAME}" denied the request'),
        (RefuserKind.WEBHOOK_FAILED, f'failed calling webhook "{_NAME}"'),
        (
            RefuserKind.POLICY,
            rf"(?:ValidatingAdmissionPolicy|policy) '{_NAME}'(?: with binding '[^']{{1,253}}')? denied",
        ),
        (RefuserKind.QUOTA, f"(?:exceeded|failed) quota: {_NAME}[,:]"),
        (
            RefuserKind.ROLE,
            r'User "[^"]{0,1000}" cannot (?P<name>get|list|watch|create|update|patch|delete) resource "',
        ),
        (RefuserKind.NAMESPACE, r"unable to create new content in namespace \S{1,253} because it is being terminated"),
    )
)


def parse_refusal(text: str) -> RequestRefusal:
    """Return the component that refused a request, according to the text of the API server's error."""
    for by, pattern in _PATTERNS:
        if found := pattern.match(text):
            name = found.groupdict().get("name", "")
            if by is RefuserKind.POLICY:
                name = f"{'Validating' if 'ValidatingAdmission' in found[0] else 'Mutating'}AdmissionPolicy '{name}'"
            return RequestRefusal(by, name)
    if "AdmissionPolicy" in text:
        return RequestRefusal(RefuserKind.POLICY)
    return RequestRefusal(RefuserKind.WEBHOOK if "admission webhook" in text else RefuserKind.API_SERVER)


def passable_text(text: str, status: int, reason: str, method: str, path: str, body: Any) -> str:
    """Return the text of an error if it cannot quote a value, or else a message of the controller about it."""
    if not _can_quote_values(method, path, body):
        return text[:MAX_TEXT]
    answer = f"(HTTP {status}{f', {reason}' if reason in _REASONS else ''})"
    found = parse_refusal(text)
    if known := next((sentence for sentence in _sentences_of(found.by) if sentence in text), ""):
        return f"{found.full_name} refused the Secret {answer}: {known}"
    match found.by:
        case RefuserKind.POLICY:
            return (
                f"{found.full_name} refused the Secret {answer}; {_NOT_SHOWN}: read the policy's rules, or ask its"
                " administrator"
            )
        case RefuserKind.WEBHOOK:
            return f"{found.full_name} refused the Secret {answer}; {_NOT_SHOWN}: the webhook's log can have the reason"
        case RefuserKind.WEBHOOK_FAILED:
            return f"{found.full_name} could not be called {answer}; check the Service and the pods of that webhook"
        case RefuserKind.WEBHOOK_NO_DRY_RUN:
            return f"{found.full_name} does not support dry runs {answer}; set its sideEffects to None or NoneOnDryRun"
        case RefuserKind.QUOTA:
            return (
                f"{found.full_name} does not allow the Secret {answer}; raise the quota, or delete what is not needed"
            )
        case RefuserKind.ROLE:
            return f"no Role grants the right to {found.name} Secrets {answer}; grant it, or restore the chart's Roles"
        case RefuserKind.NAMESPACE:
            return f"the namespace is being deleted, so nothing is written there {answer}"
    return _by_api_server(status, answer)


def _sentences_of(by: RefuserKind) -> tuple[str, ...]:
    """Return the known sentences of that component. A webhook that writes one of them has another reason."""
    match by:
        case RefuserKind.API_SERVER:
            return KNOWN
        case RefuserKind.POLICY:
            return (FOREIGN_SECRET,)
    return ()


def _by_api_server(status: int, answer: str) -> str:
    if status == 404:
        return f"the Secret or its namespace does not exist {answer}"
    if status == 409:
        return f"the Secret exists already, or was changed in the meantime {answer}"
    if status in (400, 422):
        return (
            f"the API server rejected the Secret as invalid {answer}; {_NOT_SHOWN}: check that the values have the form"
            " that the Secret's type needs"
        )
    if status == 429 or status >= 500:
        return f"the API server could not answer a request for a Secret {answer}; the controller tries again by itself"
    return f"the API server refused a request for a Secret {answer}; {_NOT_SHOWN}: the API server's audit log has it"


def _can_quote_values(method: str, path: str, body: Any) -> bool:
    """Return whether the answer to a request can contain values, because it concerns a Secret with data."""
    if "secrets" not in path.split("/"):
        return False
    # A Secret that is created without data has no values. An existing one can have more than the request sends.
    return method != "POST" or not isinstance(body, Mapping) or bool(body.get("data") or body.get("stringData"))
