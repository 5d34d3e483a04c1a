"""Build the statuses, polls and outcomes of one SecretSync for tests of its tasks and of its schedule."""

from datetime import UTC, datetime, timedelta
from typing import Any

from controller.api.conditions import Condition, ConditionType, Reason
from controller.api.secretsync import ObjectVersion, SecretSyncStatus
from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.domain.snapshot import ListedObject, VaultSnapshot
from controller.domain.status import Failed, PartiallySynced, Synced
from controller.errors import ControllerError, ObjectError, ProviderError, UnusableValue
from controller.keyvault.errors import throttled_error
from controller.runtime.clock import format_time
from controller.secretsync.tasks import ReportFailure
from tests.support.outcomes import make_failure

NOW = 1000.0
DATE = datetime(2030, 1, 1, tzinfo=UTC)
UPDATED, LATER = DATE - timedelta(days=2), DATE - timedelta(days=1)
PASS, USER, BOTH = frozenset({"pass"}), frozenset({"user"}), frozenset({"user", "pass"})
WANTED = {key: ObjectVersionRef(VaultObject(name=key)) for key in ("user", "pass")}
REPORT_UNREACHABLE = ReportFailure(ProviderError("the vault is unreachable"))


def make_failed(**given: Any) -> Failed:
    return make_failure(Reason.PROVIDER_ERROR, "a message", **given)


def make_partial(error: ControllerError, **errors: ControllerError) -> PartiallySynced:
    """Return the outcome where this error prevents the write of `pass`, and other errors prevent other writes."""
    return PartiallySynced(message="a message", failed={"pass": error, **errors}, objects=[])


READY = Synced(message="a message")
UNREACHABLE = Failed(ProviderError("a message"))
DISABLED, THROTTLED = ObjectError("secret pass is disabled"), throttled_error("shop", None)
LACKING = UnusableValue("secret pass has no property", version="2", updated=format_time(LATER))


def make_condition(ready: bool, generation: int = 0, reason: Reason = Reason.UP_TO_DATE) -> Condition:
    return Condition(
        type=ConditionType.READY,
        status="True" if ready else "False",
        reason=reason,
        message="",
        last_transition_time=format_time(DATE),
        observed_generation=generation,
    )


def make_status(ready: bool | None = True, age: float | None = 0.0) -> SecretSyncStatus:
    last = None if age is None else format_time(DATE - timedelta(seconds=age))
    updated = format_time(UPDATED)
    return SecretSyncStatus(
        conditions=[] if ready is None else [make_condition(ready)],
        objects=[ObjectVersion(target_key=key, object=f"secret/{key}", version="1", updated=updated) for key in WANTED],
        last_successful_sync_time=last,
    )


def make_snapshot(*stale: str) -> VaultSnapshot:
    """Return a snapshot in which these target keys are stale."""
    return VaultSnapshot(
        listed={"secret": {key: ListedObject(LATER if key in stale else UPDATED, True) for key in WANTED}}
    )
