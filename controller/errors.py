"""Define the errors of the controller, each with a reason for the status and a message that names the next step.

    ControllerError
    ├── KubeError              the Kubernetes API did not fulfil a request
    │   ├── NotFound           404
    │   ├── Conflict           409: another writer was faster, or the object exists
    │   ├── ResourceExpired    410: the resourceVersion is too old to watch from
    │   ├── Refused            401, 403, 413, 422: the same request would fail again
    │   │   └── PolicyRefused  … because of an admission policy
    │   ├── Unreachable        no answer, a timeout, 429, 5xx
    │   │   └── AnswerTooLarge … or an answer above the limit
    │   └── NotLeading         nothing was sent: another process leads
    ├── ProviderError          Entra or the Key Vault did not fulfil a request
    │   └── ObjectError        … for one object only: missing, disabled, malformed
    │       ├── AccessDenied   … because the identity lacks the right
    │       ├── ObjectGone     … because the vault has no enabled version of it
    │       ├── UnopenedPfx    … because no process could open its PFX
    │       └── UnusableValue  … because its value lacks what a key needs
    ├── ClassError             the SecretProviderClass is invalid
    │   └── ClassNotFound      … or missing
    ├── InputError             the SecretSync or AKVSync is invalid
    ├── ParsingDeferred        the namespace has spent its budget for parsing
    ├── SelectionDeferred      the namespace has spent its budget for comparing objects with its selections
    ├── OwnershipError         the Secret exists and does not belong to the SecretSync
    └── ChildConflict          a child of an AKVSync changed while the controller wrote it

The code that catches an error of a library converts it once. Messages never contain payloads, tokens or query strings.
`retry_after` is in seconds, and is set only if the server asked for a delay.
"""

import enum
from typing import ClassVar, Self

from controller.api.conditions import Reason


class Retry(enum.Enum):
    """What the next attempt depends on."""

    BACKOFF = "backoff"  # time: the cause can disappear by itself; retry with a backoff of up to five minutes
    BLOCKED = "blocked"  # an object in the cluster blocks it, and no event announces its removal; check every 30 s
    ON_NEW_VALUE = "on-new-value"  # only another value in the vault can help, and a poll detects it
    THROTTLED = "throttled"  # a busy vault or a spent budget delays it for exactly `retry_after`
    ON_EDIT = "on-edit"  # only an edit of the objects involved can help, and the edit triggers the next attempt


class ControllerError(Exception):
    """A failure that a status can report. It is the base class of all others."""

    reason: ClassVar[Reason] = Reason.INTERNAL_ERROR
    retry: Retry = Retry.BACKOFF

    def __init__(self, message: str, *, retry_after: float | None = None, retry: Retry | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.retry = retry or type(self).retry

    @property
    def is_stalled(self) -> bool:
        """Return whether only an edit of an existing object can help. The condition Stalled reports it."""
        return self.retry is Retry.ON_EDIT

    def bare(self) -> Self:
        """Return this error without its frames and causes, to keep it or to raise it again.

        Frames keep their local variables alive, which can include secret values. Each raise adds frames.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class KubeError(ControllerError):
    """The Kubernetes API did not fulfil a request. `status` is the HTTP status, or 0 if no answer arrived."""

    reason = Reason.SYNC_FAILED

    def __init__(
        self, message: str, *, status: int = 0, retry_after: float | None = None, retry: Retry | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after, retry=retry)
        self.status = status


class NotFound(KubeError):  # noqa: N818 -- named as the API names it
    """404."""


class Conflict(KubeError):  # noqa: N818
    """409: another writer was faster, or an object of that name exists."""


class ResourceExpired(KubeError):  # noqa: N818
    """410: a watch cannot continue from that resourceVersion; list again."""


class Refused(KubeError):  # noqa: N818
    """401, 403, 413, 422: the API server would refuse the same request again."""


class PolicyRefused(Refused):
    """A ValidatingAdmissionPolicy refused the request. The message is the policy's."""

    reason = Reason.POLICY_REFUSED


class Unreachable(KubeError):  # noqa: N818
    """No answer arrived in time, or the answer asks for a later attempt: 429, 5xx."""


class AnswerTooLarge(Unreachable):
    """An answer has more bytes than the limit. Request less at once."""


class NotLeading(KubeError):  # noqa: N818
    """The process is not the leader any more, so the request was not sent. The new leader does the remaining work."""


class ProviderError(ControllerError):
    """Entra or the Key Vault could not be reached or refused a request."""

    reason = Reason.PROVIDER_ERROR


class ObjectError(ProviderError):
    """One object of the vault cannot be read. Other objects can be readable."""


class AccessDenied(ObjectError):  # noqa: N818 -- named as Key Vault names it
    """The identity lacks the right to read this object, or this list."""


class ObjectGone(ObjectError):  # noqa: N818 -- a state of the object, not a fault
    """The vault reports that the object does not exist or is disabled."""


class UnopenedPfx(ObjectError):  # noqa: N818 -- the PFX may be in order
    """The process that opens a PFX did not finish. Another attempt can succeed with the same value."""


class UnusableValue(ObjectError):  # noqa: N818 -- the object is readable
    """The value of the object lacks what a key needs, such as a property.

    `version` and `updated` say which value it is, as in the status of a SecretSync. `has_no_key` means that it is the
    value of an expanded item, and that other items make all keys that its properties could have.
    """

    retry = Retry.ON_NEW_VALUE

    def __init__(
        self,
        message: str,
        *,
        version: str = "",
        updated: str = "",
        has_no_key: bool = False,
        retry_after: float | None = None,
        retry: Retry | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after, retry=retry)
        self.version = version
        self.updated = updated
        self.has_no_key = has_no_key


def is_vault_failure(error: ControllerError) -> bool:
    """Return whether the error concerns a whole vault or Entra, so that no object can be read there."""
    return isinstance(error, ProviderError) and not isinstance(error, ObjectError) and error.retry is Retry.BACKOFF


class ClassError(ControllerError):
    """The SecretProviderClass is missing or invalid."""

    reason = Reason.SPC_ERROR
    retry = Retry.ON_EDIT


class ClassNotFound(ClassError):  # noqa: N818 -- named as NotFound is
    """The SecretProviderClass is missing. It may follow a moment later if a folder of manifests is applied."""

    is_stalled = False


class InputError(ControllerError):
    """The SecretSync or AKVSync is invalid."""

    reason = Reason.INPUT_INVALID
    retry = Retry.ON_EDIT


class ParsingDeferred(ControllerError):  # noqa: N818 - the parsed value is not at fault
    """The namespace has spent its budget for parsing."""

    reason = Reason.SYNC_FAILED
    retry = Retry.THROTTLED


class OwnershipError(ControllerError):
    """A Secret with the SecretSync's name exists and does not belong to it."""

    reason = Reason.LABEL_ERROR
    retry = Retry.BLOCKED


class SelectionDeferred(ControllerError):  # noqa: N818 - the selection is not at fault
    """The namespace has spent its budget for comparing objects with its selections."""

    reason = Reason.SYNC_FAILED
    retry = Retry.THROTTLED


class ChildConflict(ControllerError):  # noqa: N818 - the next attempt resolves it
    """A child of an AKVSync changed while the controller wrote it, and the watch has not delivered the change yet."""

    reason = Reason.IN_PROGRESS
