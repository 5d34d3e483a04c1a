"""What can go wrong, each with the reason that a status shows and a message that a person can act on.

    ControllerError
    ├── KubeError              the Kubernetes API did not do what it was asked
    │   ├── NotFound           404
    │   ├── Conflict           409: somebody was faster, or the object exists
    │   ├── Expired            410: the resourceVersion is too old to watch from
    │   ├── Refused            401, 403, 413, 422: asking again the same way is of no use
    │   │   └── PolicyRefused  … by an admission policy
    │   ├── Unreachable        no answer, a time-out, 429, 5xx
    │   │   └── AnswerTooLarge … or more than is read of one
    │   └── Deposed            nothing was sent: another process leads
    ├── ProviderError          Entra or the Key Vault did not do what it was asked
    │   └── ObjectError        … for this one object alone: missing, disabled, odd
    │       └── AccessDenied   … because the identity lacks the right
    ├── ClassError             the SecretProviderClass is missing or wrong
    ├── InputError             the SecretSync or AKVSync itself cannot be carried out
    ├── ParsingDeferred        its namespace has spent its budget for parsing
    ├── OwnershipError         a Secret of that name belongs to somebody else
    └── Overtaken              what an AKVSync owns changed while it was written

Each is made once, at the boundary where the foreign error arrives. Payloads, tokens and query strings never reach a
message. `retry_after` is in seconds and only set where the other side asked for it.
"""

import enum
from typing import ClassVar, Self

from controller.api.conditions import Reason


class Retry(enum.Enum):
    """What another try depends on."""

    TIME = "time"  # it may mend itself: back off, up to five minutes
    OBSTACLE = (
        "obstacle"  # something in the cluster is in the way, and nothing tells when it goes: look every half minute
    )
    TURN = "turn"  # its turn at a busy vault, after `retry_after` and no later
    EDIT = "edit"  # only an edit of the objects involved can help, and wakes us


class ControllerError(Exception):
    """Base of all errors that a status can show."""

    reason: ClassVar[Reason] = Reason.INTERNAL_ERROR
    retry: Retry = Retry.TIME

    def __init__(self, message: str, *, retry_after: float | None = None, retry: Retry | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.retry = retry or type(self).retry

    def bare(self) -> Self:
        """This error without the frames and causes that made it, to be kept or raised again.

        Frames hold their locals, among them values on their way to a Secret; and each raise adds frames.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class KubeError(ControllerError):
    """The Kubernetes API did not do what it was asked. `status` is the HTTP status, 0 where no answer came."""

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


class Expired(KubeError):  # noqa: N818
    """410: a watch cannot go on from that resourceVersion; list again."""


class Refused(KubeError):  # noqa: N818
    """401, 403, 413, 422: the same request would be refused again."""


class PolicyRefused(Refused):
    """A ValidatingAdmissionPolicy said no; the message is the policy's."""

    reason = Reason.POLICY_REFUSED


class Unreachable(KubeError):  # noqa: N818
    """No answer in time, or one that says to come back: 429, 5xx."""


class AnswerTooLarge(Unreachable):
    """An answer has more bytes than are read; ask for less at once."""


class Deposed(KubeError):  # noqa: N818
    """This process does not lead any more. Nothing was sent, and the new leader does what is left."""


class ProviderError(ControllerError):
    """Entra or the Key Vault could not be reached, or refused."""

    reason = Reason.PROVIDER_ERROR


class ObjectError(ProviderError):
    """One object of the vault cannot be had; others may."""


class AccessDenied(ObjectError):  # noqa: N818 -- named as Key Vault names it
    """The identity lacks the right to read this object, or this list."""


def is_away(error: ControllerError) -> bool:
    """Whether it speaks of a vault, or of Entra, as a whole: nothing can be read there, whichever object it is."""
    return isinstance(error, ProviderError) and not isinstance(error, ObjectError) and error.retry is Retry.TIME


class ClassError(ControllerError):
    """The SecretProviderClass is missing or wrong."""

    reason = Reason.SPC_ERROR
    retry = Retry.EDIT


class InputError(ControllerError):
    """The SecretSync or AKVSync itself cannot be carried out."""

    reason = Reason.INPUT_INVALID
    retry = Retry.EDIT


class ParsingDeferred(ControllerError):  # noqa: N818 -- nothing is wrong with what is parsed
    """The namespace has spent its budget for parsing."""

    reason = Reason.SYNC_FAILED
    retry = Retry.TURN


class OwnershipError(ControllerError):
    """A Secret of the SecretSync's name exists and is not the SecretSync's."""

    reason = Reason.LABEL_ERROR
    retry = Retry.OBSTACLE


class Overtaken(ControllerError):  # noqa: N818 -- the next look mends it
    """What an AKVSync owns changed while it was written: the watch has not told everything yet."""

    reason = Reason.IN_PROGRESS
