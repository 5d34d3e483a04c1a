"""Readiness waits while another release serves the same namespaces: two releases would both write.

Each release has an admission policy that refuses one request of all other accounts: a dry run that creates a Lease and
names the namespaces that a release serves. The policy reads its own release's Lease, and refuses only while a replica
of that release leads. So this needs no right to read objects of others, an editor cannot forge the answer, and it
covers releases whose Roles end at their own namespaces. The request is for this release's own Lease, so it changes
nothing even where it is not a dry run.
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

# What the dry run's holderIdentity begins with; the namespaces follow, with commas between them, or nothing for all.
QUESTION = "akv-secret-store/serves:"
# The name of the policy begins with this.
POLICY = "overlap"
SERVED = "another release serves the same namespaces"
CHECKING = "checking whether another release serves the same namespaces"
FIX = "uninstall one of the two, or set watchNamespaces so that each namespace has one release"
# Seconds from one question to the next: while another release serves, and in the first minute; and later.
PAUSE, LATER_PAUSE = 10.0, 60.0
_NAME = r"[a-z0-9][-a-z0-9.]{0,252}"
_REFUSAL = re.compile(
    rf"^[^']{{0,400}}ValidatingAdmissionPolicy '{POLICY}\.{_NAME}' with binding '{POLICY}\.{_NAME}' denied request: "
    rf"(?P<said>release (?P<release>{_NAME}/{_NAME}) serves (?P<where>[-a-z0-9, .]{{1,600}}))"
    r"; (?P<leader>[-a-z0-9._]{1,320}) leads it since its renewal at (?P<renewed>[-0-9TZ:.]{1,40})$"
)
log = logging.getLogger(__name__)


def patience(lease_duration: int) -> float:
    """Return the seconds without a renewal after which the other release is gone. An upgrade takes less."""
    return min(4 * lease_duration, lease_duration + 60)


class Overlap:
    """What is known of another release over the same namespaces; see the module."""

    def __init__(self, kube: KubeClient, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._kube = kube
        self._settings = settings
        self._clock = clock
        self._patience = patience(settings.lease_duration)
        self._is_checked = not settings.lease_name
        # What the other release's policy said last, and when it said something else before.
        self._seen = ""
        self._changed_at = float("-inf")
        # Why this release may not lead, for readiness; empty where it may.
        self.problem = CHECKING if settings.lease_name else ""

    @property
    def may_lead(self) -> bool:
        """Whether no other release is known to serve the same namespaces."""
        return not self.problem

    async def run(self, leads: Callable[[], bool]) -> None:
        """Ask again and again; `leads` says whether this process leads its own release."""
        started = self._clock()
        while self._settings.lease_name:
            await self.attempt(leads=leads())
            is_settled = self.may_lead and self._clock() - started >= LATER_PAUSE
            await asyncio.sleep(LATER_PAUSE if is_settled else PAUSE)

    async def attempt(self, *, leads: bool) -> None:
        """Ask once, and remember what the answer shows."""
        try:
            said = await self._ask()
        except errors.Unreachable as error:
            log.debug("cannot ask whether another release serves the same namespaces: %s", error)
            return
        except errors.KubeError as error:
            if not self._is_checked:
                log.warning("cannot ask whether another release serves the same namespaces: %s", error)
            said = ""
        self._is_checked = True
        problem = self._judge(said, leads=leads)
        if problem != self.problem and problem:
            log.warning("%s", problem)
        self.problem = problem

    async def _ask(self) -> str:
        """Return what another release's policy says; empty where none refuses."""
        spec = {"holderIdentity": QUESTION + ",".join(self._settings.watch_namespaces)}
        metadata = {"name": self._settings.lease_name, "namespace": self._settings.pod_namespace}
        body: dict[str, Any] = {
            "apiVersion": Lease.api_version(), "kind": Lease.kind, "metadata": metadata, "spec": spec,
        }  # fmt: skip
        try:
            await permissions.LEASE_CREATED.create(self._kube, self._settings.pod_namespace, body, dry_run=True)
        except errors.Conflict:
            return ""  # the Lease exists, and no policy refused before that was found
        except errors.PolicyRefused as error:
            if f"ValidatingAdmissionPolicy '{POLICY}." in error.message:
                return error.message
            raise
        return ""

    def _judge(self, said: str, *, leads: bool) -> str:
        """Return why this release may not lead."""
        now = self._clock()
        if said and said != self._seen:
            self._seen, self._changed_at = said, now
        if now - self._changed_at >= self._patience:
            return ""
        found = _REFUSAL.match(self._seen)
        if leads and found and f"{self._settings.pod_namespace}/{self._settings.lease_name}" < found["release"]:
            return ""  # both began at the same moment: the other one gives way
        if not found:
            return f"{SERVED}; {FIX}"
        return f"{found['said']}, and {found['leader']} leads it; {FIX}"
