"""Delay readiness until the release's own admission policies refuse forbidden requests.

Helm applies policies after the Deployment. The controller therefore sends two requests that only a policy refuses: a
Secret of a forbidden type, as a dry run, and a TokenRequest for a forbidden audience, which cannot be a dry run. The
answer must name the release's own policy and binding and quote their message. A refusal by another policy proves
nothing about this one. A message contains only the name of the refusing component, because a webhook or another policy
can write any text into its answer.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any

from controller import errors
from controller.api.meta import Secret
from controller.api.secretsync import SecretSync
from controller.config.settings import TOKEN_AUDIENCE, TOKEN_SECONDS, Settings
from controller.domain.decision import SYNC_LABEL
from controller.kube import permissions
from controller.kube.client import KubeClient
from controller.kube.foreign_text import RefuserKind, RequestRefusal, parse_refusal

NEVER_WRITTEN = (
    "Secrets of the types kubernetes.io/service-account-token, bootstrap.kubernetes.io/token and helm.sh/* are never"
    " written"
)
ONE_AUDIENCE = f"tokens are for the audience {TOKEN_AUDIENCE} alone"
# Neither the API server nor Entra accepts a token of this audience. If no policy refuses it, it is useless.
PROBE_AUDIENCE = "akv-secret-store-probe"
NOT_YET = "the admission policies are not in force yet"
_PROBE = "akv-secret-store-probe"
_NO_UID = "00000000-0000-0000-0000-000000000000"
# Attempts, one second apart, before the log reports the wait. Helm needs a few. Later attempts are less frequent.
UNREPORTED_TRIES = 15
MAX_PAUSE = 10.0
log = logging.getLogger(__name__)


class PolicyGuard:
    """Test the policies until they are in force. Until then, readiness reports `problem`."""

    def __init__(self, kube: KubeClient, settings: Settings) -> None:
        self._kube = kube
        self._settings = settings
        self.in_force = asyncio.Event()
        self.problem = NOT_YET
        if not settings.probe_secret_type:
            self.in_force.set()

    async def run(self) -> None:
        """Probe the policies until they refuse both requests."""
        tries = 0
        while not self.in_force.is_set():
            tries += 1
            await self.probe_policies()
            if self.in_force.is_set():
                log.info("admission policies are in force")
                return
            if tries == UNREPORTED_TRIES:
                log.warning(
                    "waiting for the admission policies: %s. See `kubectl get validatingadmissionpolicybindings`, or"
                    " set validatingAdmissionPolicies.applyPolicies=false in the chart's values",
                    self.problem,
                )
            await asyncio.sleep(1 if tries < UNREPORTED_TRIES else MAX_PAUSE)

    async def probe_policies(self) -> None:
        """Send both requests once, and store the result."""
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
        # Except for the type, the Secret satisfies the policy.
        body = {
            "apiVersion": Secret.api_version(),
            "kind": Secret.kind,
            "metadata": {"name": _PROBE, "labels": dict([SYNC_LABEL]), "ownerReferences": [owner]},
            "type": self._settings.probe_secret_type,
        }
        create = permissions.SECRETS.create(self._kube, self._settings.pod_namespace, body, dry_run=True)
        return await self._probe_policy("secrets", NEVER_WRITTEN, create)

    async def _try_tokens(self) -> str:
        request = permissions.TOKENS.request_token(
            self._kube,
            self._settings.pod_namespace,
            self._settings.service_account,
            audience=PROBE_AUDIENCE,
            seconds=TOKEN_SECONDS,
        )
        return await self._probe_policy("tokens", ONE_AUDIENCE, request)

    async def _probe_policy(self, kind: str, message: str, request: Awaitable[Any]) -> str:
        policy = ".".join(filter(None, (kind, self._settings.policies_name)))
        try:
            await request
        except errors.KubeError as error:
            return find_problem(error, policy, message)
        return f"{NOT_YET}: the API server allowed a request that the policy {policy} forbids"


def find_problem(error: errors.KubeError, policy: str, message: str) -> str:
    """Return why an answer does not prove that this policy is in force, or an empty text if it does."""
    denial = f"ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: {message}"
    refused_by = parse_refusal(error.message)
    if isinstance(error, errors.PolicyRefused):
        if denial in error.message:
            return ""
        return (
            f"the admission policy {policy} does not answer, {refused_by.full_name} refuses its test"
            " -- exempt the controller's ServiceAccount from that policy"
        )
    # An error without a status has a text of the client itself.
    why = _describe(refused_by, error.status) if error.status else error.message
    return f"cannot test the admission policy {policy}: {why}"


def _describe(refused_by: RequestRefusal, status: int) -> str:
    match refused_by.by:
        case RefuserKind.API_SERVER:
            return f"the API server answered with HTTP {status}"
        case RefuserKind.ROLE:
            return f"no Role grants the right to {refused_by.name}; restore the chart's Roles"
        case RefuserKind.WEBHOOK | RefuserKind.WEBHOOK_FAILED | RefuserKind.WEBHOOK_NO_DRY_RUN:
            name = refused_by.full_name
            return f"{name} refuses its test (HTTP {status}) -- exempt the controller's ServiceAccount from it"
    return f"{refused_by.full_name} refuses its test (HTTP {status})"
