"""Leader election by a Lease: only the leader calls vaults and writes. The other replicas keep their caches warm.

A Lease provides no fencing. The leader therefore measures the time since it sent its last successful request for the
Lease, and stops well before another replica may take over. `LeaderElector.check` runs before each request that can
change something. A request that was sent in time and arrives late cannot overwrite newer data, because Secrets and
statuses are written with a resourceVersion.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from controller import errors
from controller.api.lease import Lease, LeaseSpec
from controller.kube import permissions
from controller.kube.client import KubeClient
from controller.kube.foreign_text import RefuserKind, parse_refusal

# The default duration of the Lease, within which a failed leader is replaced. With another duration, the times below
# change in proportion.
LEASE_DURATION = 15
# A follower takes over this many seconds after the last change of the Lease that it saw. The difference from
# `RENEW_DEADLINE` tolerates two clocks of which one is a quarter faster than the other.
TAKEOVER_DELAY = 13.0
# A leader starts no more requests this many seconds after it sent its last successful request for the Lease.
RENEW_DEADLINE = 10.0
# Seconds between two attempts to take the Lease, or to renew it after a failure.
RETRY_PERIOD = 2.0
# A longer attempt is cancelled, so that several attempts fit into `RENEW_DEADLINE`.
ATTEMPT_TIMEOUT = 3.0
# The field leaseTransitions is an int32.
MAX_TRANSITIONS = 2**31 - 1
# Maximum time between two renewals: if one fails, there is time for another attempt.
MAX_RENEW_INTERVAL = RENEW_DEADLINE - ATTEMPT_TIMEOUT - RETRY_PERIOD
log = logging.getLogger(__name__)


def since_boot() -> float:
    """Return seconds since boot, including suspend: a leader that resumes after its deadline must notice it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class NoElection:
    """The leader election without a Lease: this process always leads."""

    problem = ""

    def __init__(self, leading: Callable[[bool], object]) -> None:
        self._leading = leading
        self.leads = False

    def check(self) -> None:
        """Allow the request."""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Run `lead` once."""
        self.leads = True
        self._leading(True)
        await lead()


class LeaderElector:
    """One process in the election. `identity` must be unique for each process, even in the same pod."""

    def __init__(
        self,
        kube: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        leading: Callable[[bool], object],
        clock: Callable[[], float] = since_boot,
        lease_seconds: int = LEASE_DURATION,
        renew_interval: float = RETRY_PERIOD,
        may_lead: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_lead = may_lead
        self._lease_seconds = lease_seconds
        scale = lease_seconds / LEASE_DURATION
        self._takeover_delay, self._renew_deadline, self._retry_period, self._attempt_timeout = (
            seconds * scale for seconds in (TAKEOVER_DELAY, RENEW_DEADLINE, RETRY_PERIOD, ATTEMPT_TIMEOUT)
        )
        self._renew_interval = min(renew_interval, MAX_RENEW_INTERVAL * scale)
        self.kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._leading = leading
        self._clock = clock
        self._deadline = float("-inf")
        # The last seen state, and the time at which it was first seen.
        self._seen = LeaseSpec()
        self._seen_at = clock()
        # The Lease after this process's last write, or None if another process may have written it since.
        self._held_lease: Lease | None = None
        self._reported_failure = ""
        # The reason why this process cannot lead, for readiness: the Lease cannot be read, created or renewed. Empty
        # otherwise.
        self.problem = ""
        self._failing_since: float | None = None

    @property
    def leads(self) -> bool:
        """Return whether requests can start now."""
        return self._clock() < self._deadline

    def check(self) -> None:
        """Raise `errors.NotLeading` unless this process leads."""
        if not self.leads:
            raise errors.NotLeading("this process does not lead any more, so it sent nothing; the new leader continues")

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Run `lead` whenever this process leads, until `lead` returns by itself.

        The Lease is released when this method ends, also by cancellation or an error.
        """
        try:
            ended = False
            while not ended:
                if not await self._try_acquire():
                    await asyncio.sleep(self._wait_for_lease())
                    continue
                log.info("leading", extra={"fields": {"identity": self._identity}})
                ended = await self._run_term(lead)
        finally:
            await self._release_lease()

    def _wait_for_lease(self) -> float:
        """Return the time until the next attempt to take the Lease, at most the time until it is free."""
        left = self._find_takeover_delay() - (self._clock() - self._seen_at)
        return left if 0 < left < self._retry_period else self._retry_period

    def _find_takeover_delay(self) -> float:
        """Return how long the Lease must not change before it is free. Its holder can have a longer duration."""
        return max(self._takeover_delay, self._seen.lease_duration_seconds * TAKEOVER_DELAY / LEASE_DURATION)

    async def _run_term(self, lead: Callable[[], Awaitable[None]]) -> bool:
        """Run `lead` while the Lease is renewed. Return whether it returned by itself."""
        self._leading(True)
        try:
            async with asyncio.timeout(self._wait_for_renewal()) as term:
                renewing = asyncio.ensure_future(self._renew_lease(term))
                try:
                    await lead()
                finally:
                    renewing.cancel()
        except TimeoutError:
            if not term.expired():
                raise
            log.warning("not leading any more: the lease could not be renewed in time, or another process has it")
            return False
        else:
            return True
        finally:
            self._leading(False)

    async def _renew_lease(self, term: asyncio.Timeout) -> None:
        pause = self._renew_interval
        while not term.expired():
            term.reschedule(asyncio.get_running_loop().time() + self._wait_for_renewal())
            await asyncio.sleep(pause)
            pause = self._renew_interval if await self._try_acquire() else self._retry_period

    def _wait_for_renewal(self) -> float:
        """Return the time until the deadline. A negative one ends the term at once."""
        return self._deadline - self._clock()

    async def _try_acquire(self) -> bool:
        """Take or renew the Lease if that is allowed. Return whether it succeeded."""
        if not self._may_lead():
            if self.leads:
                await self._release_lease()
            return False
        requested_at = self._clock()
        try:
            async with asyncio.timeout(self._attempt_timeout):
                lease = self._held_lease or await self._get_lease()
                self._held_lease = None
                if not self._may_have(lease.spec):
                    self._deadline = float("-inf")
                    self._note_success()
                    return False
                self._held_lease = await permissions.LEASE.merge(
                    self.kube, lease, {"spec": self._claim_lease(lease.spec)}
                )
        except errors.Conflict:
            return False  # another process was faster; the next attempt reads its identity
        except errors.NotFound as error:
            # The Lease was deleted while this process held it. Another process can create it and lead at once.
            self._deadline = float("-inf")
            self._log_failure(error.message)
            return False
        except (errors.KubeError, TimeoutError) as error:
            self._note_failure(error)
            return False
        self._note_success()
        self._deadline = requested_at + self._renew_deadline
        return True

    async def _get_lease(self) -> Lease:
        """Return the Lease. Create it if it is missing, because Argo CD does not install Leases."""
        with contextlib.suppress(errors.NotFound):
            return await permissions.LEASE.get(self.kube, self._namespace, self._name)
        body = {
            "apiVersion": Lease.api_version(),
            "kind": Lease.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
        }
        try:
            await permissions.LEASE_CREATED.create(self.kube, self._namespace, body)
        except errors.NotFound as error:
            raise errors.Refused(error.message) from error
        log.info("created the lease", extra={"fields": {"lease": f"{self._namespace}/{self._name}"}})
        return await permissions.LEASE.get(self.kube, self._namespace, self._name)

    def _note_success(self) -> None:
        """Record that the Lease could be read, and written if this process had to write it."""
        self._log_failure("")
        self.problem, self._failing_since = "", None

    def _note_failure(self, error: errors.KubeError | TimeoutError) -> None:
        """Record a failure. A refusal is a problem at once, any other failure after the duration of a Lease."""
        text = error.message if isinstance(error, errors.KubeError) else "no answer in time"
        self._log_failure(text)
        if self._failing_since is None:
            self._failing_since = self._clock()
        stays = isinstance(error, errors.Refused)
        if not stays and self._clock() - self._failing_since < self._lease_seconds:
            return
        fix = (
            _find_refusal_fix(error, self._name)
            if isinstance(error, errors.Refused)
            else "check that the API server answers, and the network connection to it"
        )
        self.problem = (
            f"no replica can lead: the Lease {self._namespace}/{self._name} cannot be read, created or renewed"
            f" ({text}); {fix}"
        )

    def _may_have(self, spec: LeaseSpec) -> bool:
        """Return whether the Lease is free, belongs to this process, or was not renewed for too long."""
        now = self._clock()
        if spec != self._seen:
            if spec.holder_identity not in ("", self._identity, self._seen.holder_identity):
                log.info("following", extra={"fields": {"leader": spec.holder_identity}})
            self._seen, self._seen_at = spec, now
        return spec.holder_identity in ("", self._identity) or now - self._seen_at >= self._find_takeover_delay()

    def _claim_lease(self, spec: LeaseSpec) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        claim = {"holderIdentity": self._identity, "leaseDurationSeconds": self._lease_seconds, "renewTime": now}
        if spec.holder_identity != self._identity:
            # The API server refuses a larger number, and no replica could lead any more.
            claim |= {"acquireTime": now, "leaseTransitions": min(spec.lease_transitions + 1, MAX_TRANSITIONS)}
        return claim

    async def _release_lease(self) -> None:
        """Release the Lease, so that another process need not wait."""
        self._deadline = float("-inf")
        try:
            # A longer Lease does not allow more time, because the kubelet kills the process after its grace period.
            async with asyncio.timeout(min(self._attempt_timeout, ATTEMPT_TIMEOUT)):
                # A renewal may have been in progress. Then only the API server has the current Lease.
                lease = self._held_lease or await permissions.LEASE.get(self.kube, self._namespace, self._name)
                self._held_lease = None
                if lease.spec.holder_identity == self._identity:
                    await permissions.LEASE.merge(self.kube, lease, {"spec": {"holderIdentity": None}})
        except (errors.KubeError, TimeoutError) as error:
            log.debug("the lease was not released (%s): it expires by itself", type(error).__name__)

    def _log_failure(self, failure: str) -> None:
        if failure and not self._reported_failure:  # an outage causes different errors; only the first one is logged
            log.warning("cannot use the lease %s/%s: %s", self._namespace, self._name, failure)
        self._reported_failure = failure


def _find_refusal_fix(error: errors.Refused, role: str) -> str:
    """Return the next step after the API server has refused a request for the Lease."""
    if error.status == 401:
        return "the API server does not accept the controller's token: delete the pod, so that it gets a new token"
    if isinstance(error, errors.PolicyRefused) or parse_refusal(error.message).by is RefuserKind.WEBHOOK:
        return "exempt the controller's ServiceAccount from it"
    return f"restore the Role {role} of the chart, or create the Lease with kubectl"
