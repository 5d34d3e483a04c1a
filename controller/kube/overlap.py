"""Delay readiness while another release serves the same namespaces, because two releases would both write.

Each release has an admission policy that refuses one request of other ServiceAccounts: a dry run that creates a Lease
and names the namespaces that a release serves. The policy reads its own release's Lease, and refuses only while a
replica of that release leads. So the check needs no right to read other releases' objects, an editor cannot forge the
answer, and it also finds releases whose Roles cover only their own namespaces. The request is for this release's own
Lease, so it would change nothing even if it were not a dry run.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Any

from controller import errors
from controller.api.lease import Lease
from controller.config.settings import Settings
from controller.kube import permissions
from controller.kube.client import KubeClient

# The holderIdentity of the dry run begins with this. The served namespaces follow, with commas between them, or nothing
# for all namespaces.
SERVES_PREFIX = "akv-secret-store/serves:"
# The first part of the policy's name.
POLICY = "overlap"
SERVED = "another release serves the same namespaces"
CHECKING = "checking whether another release serves the same namespaces"
FIX = "uninstall one of the two, or set watchNamespaces so that each namespace has one release"
# Seconds between two checks: until the first answer, in the first minute and while another release serves, and later.
FIRST_PAUSE, PAUSE, LATER_PAUSE = 1.0, 10.0, 60.0
_NAME = r"[a-z0-9][-a-z0-9.]{0,252}"
_REFUSAL = re.compile(
    rf"^[^']{{0,400}}ValidatingAdmissionPolicy '{POLICY}\.{_NAME}' with binding '{POLICY}\.{_NAME}' denied request: "
    rf"(?P<claim>release (?P<release>{_NAME}/{_NAME}) serves (?P<where>[-a-z0-9, .]{{1,600}}))"
    r"; (?P<leader>[-a-z0-9._]{1,320}) leads it since its renewal at (?P<renewed>[-0-9TZ:.]{1,40})"
    r"(, with a Lease of (?P<duration>\d{1,9}) s)?$"
)
log = logging.getLogger(__name__)


def patience(lease_duration: int) -> float:
    """Return the seconds without a renewal after which the other release counts as gone. An upgrade takes less."""
    return min(4 * lease_duration, lease_duration + 60)


class OverlapCheck:
    """Check whether another release serves the same namespaces. `problem` is why this release must not lead.

    `is_checked` is set at the first answer of the API server.
    """

    def __init__(self, kube: KubeClient, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._settings = settings
        self._clock = clock
        self._patience = patience(settings.lease_duration)
        self.is_checked = asyncio.Event()
        if not settings.lease_name:
            self.is_checked.set()
        # The last refusal of another release's policy, and the time at which its text last changed.
        self._seen = ""
        self._changed_at = float("-inf")
        # Why this release must not lead, for readiness, or an empty text.
        self.problem = CHECKING if settings.lease_name else ""

    @property
    def may_lead(self) -> bool:
        """Return whether no other release is known to serve the same namespaces."""
        return not self.problem

    async def run(self, leads: Callable[[], bool]) -> None:
        """Check periodically. `leads` returns whether this process leads its own release."""
        started = self._clock()
        while self._settings.lease_name:
            await self.attempt(leads=leads())
            await asyncio.sleep(self._find_pause(self._clock() - started))

    def _find_pause(self, age: float) -> float:
        if not self.is_checked.is_set():
            return FIRST_PAUSE
        return LATER_PAUSE if self.may_lead and age >= LATER_PAUSE else PAUSE

    async def attempt(self, *, leads: bool) -> None:
        """Check once, and store the result in `problem`."""
        try:
            refusal = await self._send_dry_run()
        except errors.Unreachable as error:
            log.debug("cannot ask whether another release serves the same namespaces: %s", error)
            return
        except errors.KubeError as error:
            if not self.is_checked.is_set():
                log.warning("cannot ask whether another release serves the same namespaces: %s", error)
            refusal = ""
        problem = self._find_problem(refusal, leads=leads)
        if problem != self.problem and problem:
            log.warning("%s", problem)
        self.problem = problem
        self.is_checked.set()

    async def _send_dry_run(self) -> str:
        """Return the refusal of another release's policy, or an empty text."""
        spec = {"holderIdentity": SERVES_PREFIX + ",".join(self._settings.watch_namespaces)}
        metadata = {"name": self._settings.lease_name, "namespace": self._settings.pod_namespace}
        body: dict[str, Any] = {
            "apiVersion": Lease.api_version(), "kind": Lease.kind, "metadata": metadata, "spec": spec,
        }  # fmt: skip
        try:
            await permissions.LEASE_CREATED.create(self._kube, self._settings.pod_namespace, body, dry_run=True)
        except errors.Conflict:
            return ""  # the Lease exists, and policies decide before the API server notices that
        except errors.PolicyRefused as error:
            if f"ValidatingAdmissionPolicy '{POLICY}." in error.message:
                return error.message
            raise
        return ""

    def _find_problem(self, refusal: str, *, leads: bool) -> str:
        """Return why this release must not lead, or an empty text."""
        now = self._clock()
        if refusal and refusal != self._seen:
            self._seen, self._changed_at = refusal, now
        found = _REFUSAL.match(self._seen)
        # A release with a longer Lease can renew it more rarely.
        other = int(found["duration"] or 0) if found else 0
        if now - self._changed_at >= max(self._patience, patience(other)):
            return ""
        if leads and found and f"{self._settings.pod_namespace}/{self._settings.lease_name}" < found["release"]:
            return ""  # both lead: the release whose name sorts first continues
        if not found:
            return f"{SERVED}; {FIX}"
        return f"{found['claim']}, and {found['leader']} leads it; {FIX}"
