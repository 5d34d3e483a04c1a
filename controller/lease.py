"""Which process leads: it alone asks vaults and writes. The others keep their caches warm and wait.

A Lease does not fence by itself. So a leader counts its own time, from before it asked for the lease, and gives up well
before anybody else may take over; `Elector.check` stands before every request that could change something. One that was
sent in time and arrives late cannot overwrite newer data: Secrets and statuses are written with a resourceVersion.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from controller import errors, permissions
from controller.api.lease import Lease, LeaseSpec
from controller.kube import Kube

# What the Lease says, and what people may count on: a leader that died is replaced within this time.
LEASE_SECONDS = 15
# So long after the last change that it saw, a follower takes over. Between this and `HOLD` there is room for clocks of
# which one goes a quarter faster than the other.
PATIENCE = 13.0
# So long after it asked for the lease with success, a leader starts no more requests.
HOLD = 10.0
RETRY = 2.0
# An attempt that hangs longer is given up, so that several fit into `HOLD`.
ATTEMPT = 3.0
log = logging.getLogger(__name__)


def since_boot() -> float:
    """Seconds, also those in which the machine slept: a leader that slept past its deadline must know."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Leader:
    """Leads always: a process that is told of no Lease is the only one."""

    problem = ""

    def __init__(self, leading: Callable[[bool], object]) -> None:
        self._leading = leading
        self.leads = False

    def check(self) -> None:
        """Never raises."""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Runs `lead` once."""
        self.leads = True
        self._leading(True)
        await lead()


class Elector:
    """One process's part in the election. `identity` must be another for each process, even in the same pod."""

    def __init__(
        self,
        kube: Kube,
        namespace: str,
        name: str,
        identity: str,
        leading: Callable[[bool], object],
        clock: Callable[[], float] = since_boot,
    ) -> None:
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._leading = leading
        self._clock = clock
        self._deadline = float("-inf")
        # What was seen last, and when it was first seen so.
        self._seen = LeaseSpec()
        self._seen_at = clock()
        # The lease as our last write left it; None where we did not write, or where somebody else may have since.
        self._ours: Lease | None = None
        self._trouble = ""
        # Why no process can ever lead, for readiness: the Lease can neither be read nor created. Empty otherwise.
        self.problem = ""

    @property
    def leads(self) -> bool:
        """Whether requests may be started now."""
        return self._clock() < self._deadline

    def check(self) -> None:
        """Raises `errors.Deposed` unless this process leads."""
        if not self.leads:
            raise errors.Deposed("this process does not lead any more, so it sent nothing; the new leader goes on")

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Waits for its turn and runs `lead` while it lasts, again and again; until `lead` ends by itself.

        However this ends, by itself, by cancellation or by a crash, the lease is given back then.
        """
        try:
            ended = False
            while not ended:
                if not await self._attempt():
                    await asyncio.sleep(self._pause())
                    continue
                log.info("leading", extra={"fields": {"identity": self._identity}})
                ended = await self._term(lead)
        finally:
            await self._release()

    def _pause(self) -> float:
        """Until the next attempt to take the lease: not later than the moment from which on it may be taken."""
        left = PATIENCE - (self._clock() - self._seen_at)
        return left if 0 < left < RETRY else RETRY

    async def _term(self, lead: Callable[[], Awaitable[None]]) -> bool:
        """Runs `lead` while the lease is renewed; answers whether it ended by itself."""
        self._leading(True)
        try:
            async with asyncio.timeout(self._rest()) as term:
                renewing = asyncio.ensure_future(self._renew(term))
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

    async def _renew(self, term: asyncio.Timeout) -> None:
        while not term.expired():
            term.reschedule(asyncio.get_running_loop().time() + self._rest())
            await asyncio.sleep(RETRY)
            await self._attempt()

    def _rest(self) -> float:
        return max(0.0, self._deadline - self._clock())

    async def _attempt(self) -> bool:
        """Takes or renews the lease where that is allowed; answers whether it was."""
        asked = self._clock()
        try:
            async with asyncio.timeout(ATTEMPT):
                lease = self._ours or await self._get()
                self._ours = None
                if not self._may_have(lease.spec):
                    self._deadline = float("-inf")
                    return False
                self._ours = await permissions.LEASE.merge(self._kube, lease, {"spec": self._claim(lease.spec)})
        except errors.Conflict:
            return False  # somebody was faster; who, the next attempt sees
        except errors.NotFound as error:
            # It was deleted while this process held it. Another process may create it and lead at once.
            self._deadline = float("-inf")
            self._complain(error.message)
            return False
        except (errors.KubeError, TimeoutError) as error:
            self._complain(error.message if isinstance(error, errors.KubeError) else "no answer in time")
            return False
        self._complain("")
        self._deadline = asked + HOLD
        return True

    async def _get(self) -> Lease:
        """Return the Lease, and create it where it is missing: Argo CD leaves Leases out of every application."""
        try:
            try:
                found = await permissions.LEASE.get(self._kube, self._namespace, self._name)
            except errors.NotFound:
                body = {
                    "apiVersion": Lease.api_version(),
                    "kind": Lease.kind,
                    "metadata": {"name": self._name, "namespace": self._namespace},
                }
                await permissions.LEASE_CREATED.create(self._kube, self._namespace, body)
                log.info("created the lease", extra={"fields": {"lease": f"{self._namespace}/{self._name}"}})
                found = await permissions.LEASE.get(self._kube, self._namespace, self._name)
        except errors.Refused as error:
            self.problem = (
                f"no replica can lead: the Lease {self._namespace}/{self._name} cannot be read or created"
                f" ({error.message}); restore the Role {self._name} of the chart, or create the Lease with kubectl"
            )
            raise
        self.problem = ""
        return found

    def _may_have(self, spec: LeaseSpec) -> bool:
        """Free, ours already, or its holder has not been heard of for too long."""
        now = self._clock()
        if spec != self._seen:
            if spec.holder_identity not in ("", self._identity, self._seen.holder_identity):
                log.info("following", extra={"fields": {"leader": spec.holder_identity}})
            self._seen, self._seen_at = spec, now
        return spec.holder_identity in ("", self._identity) or now - self._seen_at >= PATIENCE

    def _claim(self, spec: LeaseSpec) -> dict[str, Any]:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        claim = {"holderIdentity": self._identity, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        if spec.holder_identity != self._identity:
            claim |= {"acquireTime": now, "leaseTransitions": spec.lease_transitions + 1}
        return claim

    async def _release(self) -> None:
        """Gives back what is ours, so that the next need not wait."""
        self._deadline = float("-inf")
        try:
            async with asyncio.timeout(ATTEMPT):
                # A renewal may have been under way: then only the API server knows what stands there.
                lease = self._ours or await permissions.LEASE.get(self._kube, self._namespace, self._name)
                self._ours = None
                if lease.spec.holder_identity == self._identity:
                    await permissions.LEASE.merge(self._kube, lease, {"spec": {"holderIdentity": None}})
        except (errors.KubeError, TimeoutError) as error:
            log.debug("the lease was not given back (%s): it ends by itself", type(error).__name__)

    def _complain(self, trouble: str) -> None:
        if trouble and not self._trouble:  # an outage has many faces; its first one is enough
            log.warning("cannot use the lease %s/%s: %s", self._namespace, self._name, trouble)
        self._trouble = trouble
