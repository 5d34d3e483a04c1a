"""Readiness waits until the release's own admission policies refuse what they forbid.

Helm applies policies after the Deployment. So the controller sends two requests that only a policy refuses: a Secret of
a forbidden type, as a dry run, and a TokenRequest for a forbidden audience, which cannot be a dry run. The answer must
name the release's own policy and binding and quote their message: another policy that refuses the same request proves
nothing about the others.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from controller import errors, permissions
from controller.api.meta import Secret
from controller.api.secretsync import SecretSync
from controller.kube import Kube
from controller.plan import OUR_LABEL
from controller.settings import TOKEN_AUDIENCE, TOKEN_SECONDS, Settings

NEVER_WRITTEN = (
    "Secrets of the types kubernetes.io/service-account-token, bootstrap.kubernetes.io/token and helm.sh/* are never"
    " written"
)
ONE_AUDIENCE = f"tokens are for the audience {TOKEN_AUDIENCE} alone"
# The API server does not take a token of this audience, nor does Entra: where no policy refuses it, it is of no use.
PROBE_AUDIENCE = "akv-secret-store-probe"
NOT_YET = "the admission policies are not in force yet"
_PROBE = "akv-secret-store-probe"
_NO_UID = "00000000-0000-0000-0000-000000000000"
# Tries, one second apart, until the log says that the policies are awaited; helm needs a few. Later tries are rarer.
TRIES_IN_SILENCE = 15
MAX_PAUSE = 10.0
MAX_QUOTED = 500
log = logging.getLogger(__name__)


class PolicyGuard:
    """Tries the policies until they are in force; `problem` is what readiness says until then."""

    def __init__(self, kube: Kube, settings: Settings) -> None:
        self._kube = kube
        self._settings = settings
        self.in_force = asyncio.Event()
        self.problem = NOT_YET
        if not settings.probe_secret_type:
            self.in_force.set()

    async def run(self) -> None:
        """Try until both requests are refused by the policies of this release."""
        tries = 0
        while not self.in_force.is_set():
            tries += 1
            await self.attempt()
            if self.in_force.is_set():
                log.info("admission policies are in force")
                return
            if tries == TRIES_IN_SILENCE:
                log.warning(
                    "waiting for the admission policies: %s. See `kubectl get validatingadmissionpolicybindings`, or"
                    " set validatingAdmissionPolicies.applyPolicies=false in the chart's values",
                    self.problem,
                )
            await asyncio.sleep(1 if tries < TRIES_IN_SILENCE else MAX_PAUSE)

    async def attempt(self) -> None:
        """Send both requests once, and remember what they show."""
        self.problem = await self._try_secrets() or await self._try_tokens()
        if not self.problem:
            self.in_force.set()

    async def _try_secrets(self) -> str:
        owner = {
            "apiVersion": SecretSync.api_version(),
            "kind": SecretSync.kind,
            "name": _PROBE,
            "uid": _NO_UID,
        }
        # All but the type is as the policy wants it.
        body = {
            "apiVersion": Secret.api_version(),
            "kind": Secret.kind,
            "metadata": {"name": _PROBE, "labels": dict([OUR_LABEL]), "ownerReferences": [owner]},
            "type": self._settings.probe_secret_type,
        }
        create = permissions.SECRETS.create(self._kube, self._settings.pod_namespace, body, dry_run=True)
        return await self._try("secrets", NEVER_WRITTEN, create)

    async def _try_tokens(self) -> str:
        request = permissions.TOKENS.request(
            self._kube,
            self._settings.pod_namespace,
            self._settings.service_account,
            audience=PROBE_AUDIENCE,
            seconds=TOKEN_SECONDS,
        )
        return await self._try("tokens", ONE_AUDIENCE, request)

    async def _try(self, kind: str, message: str, request: Awaitable[Any]) -> str:
        policy = ".".join(filter(None, (kind, self._settings.policies_name)))
        try:
            await request
        except errors.KubeError as error:
            return problem(error, policy, message)
        return f"{NOT_YET}: the API server allowed what the policy {policy} forbids"


def problem(error: errors.KubeError, policy: str, message: str) -> str:
    """Return why the answer to a forbidden request does not show that this policy is in force; empty where it does."""
    if not isinstance(error, errors.PolicyRefused):
        return f"cannot try the admission policy {policy}: {error.message[:MAX_QUOTED]}"
    if f"ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: {message}" in error.message:
        return ""
    return (
        f"the admission policy {policy} does not answer, another one refuses its test: {error.message[:MAX_QUOTED]}"
        " -- exempt the controller's ServiceAccount from that policy"
    )
