"""Build outcomes of sync attempts for tables of test cases."""

from controller.api.conditions import Reason
from controller.api.secretsync import ObjectVersion
from controller.domain.status import Failed, PartiallySynced, Reportable, Synced
from controller.errors import ControllerError, ObjectError, Retry


def make_failure(
    reason: Reason, message: str = "m", retry: Retry = Retry.BACKOFF, retry_after: float | None = None
) -> Failed:
    """Return the outcome of an error with this reason."""

    class _Error(ControllerError):
        pass

    _Error.reason = reason
    return Failed(_Error(message, retry=retry, retry_after=retry_after))


def make_outcome(
    reason: Reason, message: str = "m", objects: list[ObjectVersion] | None = None, retry: Retry = Retry.BACKOFF
) -> Reportable:
    """Return an outcome whose conditions have this reason."""
    match reason:
        case Reason.WRITTEN | Reason.UP_TO_DATE:
            return Synced(message=message, changed=reason == Reason.WRITTEN, objects=objects)
        case Reason.PARTIAL:
            failed = {"pass": ObjectError("secret pass is disabled", retry=retry)}
            return PartiallySynced(message=message, failed=failed, objects=objects or [])
    return make_failure(reason, message, retry)
