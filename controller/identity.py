"""Workload identity federation: a ServiceAccount's token becomes a managed identity's token for Key Vault.

The cluster signs a short token for the ServiceAccount (TokenRequest), Entra takes it as the client assertion of the
managed identity that has a matching federated credential, and answers with a token for the vaults.
Source: Microsoft identity platform, "client credentials flow, third case: access token request with a federated
credential"; the AADSTS numbers are from "Microsoft Entra authentication and authorization error codes".
"""

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import msgspec
from azure.core.credentials import AccessToken, AccessTokenInfo, TokenRequestOptions
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.identity.aio import ClientAssertionCredential

from controller.errors import ControllerError, Deposed, ProviderError
from controller.network import CLIENT_OPTIONS, explain_connection
from controller.schedule import asked_to_wait
from controller.settings import TOKEN_AUDIENCE, Cloud

# A token is renewed this long before it ends, so that none expires on its way to the vault.
RENEW_BEFORE = 300.0
# One failed exchange answers all callers within this time: a thousand SecretSyncs are one call to Entra. A vault's
# refusals of tokens cause no more exchanges than that either.
REMEMBER_FAILURE = 10.0
# A token that a vault forbids to read is renewed at this age: group memberships are in the token, and change.
RENEW_FORBIDDEN = 300.0
# A claims challenge is answered at once, and so often at most: a vault that is never content costs that much.
CHALLENGE_AGAIN = 60.0
# Far above what a claims challenge asks (Microsoft identity platform, "Claims challenges and claims requests").
MAX_CLAIMS = 4096
# Entra could not reach the issuer's discovery document or keys, or could not parse them.
UNREACHABLE_ISSUER = ("50166", "501661", "90061", "900612")
# An exchange may take several requests, the first to learn of Entra's addresses. A vault's request waits longer.
EXCHANGE_SECONDS = 40.0
NO_USABLE_ANSWER = " gave no usable answer; the controller tries again by itself"


class Identity(msgspec.Struct, frozen=True):
    """Who reads a vault: a ServiceAccount federated with a managed identity. Nothing is shared between two of them."""

    namespace: str
    service_account: str
    client_id: str
    tenant_id: str

    @property
    def subject(self) -> str:
        """The subject that the federated credential must name."""
        return f"system:serviceaccount:{self.namespace}:{self.service_account}"


class FederatedCredential:
    """An identity's tokens, as the Azure SDK asks for them (`AsyncTokenCredential`, `AsyncSupportsTokenInfo`).

    Scope and tenant that a vault's challenge proposes are ignored: the administrator said for which audience tokens
    are asked, and no answer from the network can make the controller ask for another.
    """

    def __init__(
        self,
        identity: Identity,
        cloud: Cloud,
        transport: AioHttpTransport,
        assertion: Callable[[], Awaitable[str]],
        count_failure: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._identity = identity
        self._audience = cloud.audience
        self._host = urlsplit(cloud.authority).netloc
        self._entra = f"Microsoft Entra ({self._host})"
        self._count_failure = count_failure
        self._scope = f"{cloud.audience}/.default"
        self._new_assertion = assertion
        self._assertion = ""
        self._lock = asyncio.Lock()
        self._token: AccessTokenInfo | None = None
        self._renew_at = 0.0
        self._asked_at = 0.0
        self._failure: tuple[float, ControllerError] | None = None
        self._claims = ""
        self._challenged_at = -CHALLENGE_AGAIN
        # `func` is synchronous and runs on the event loop: the assertion is fetched before, and only handed over here.
        self._new_credential: Callable[[], ClientAssertionCredential] = lambda: ClientAssertionCredential(
            identity.tenant_id,
            identity.client_id,
            func=lambda: self._assertion,
            authority=cloud.authority,
            transport=transport,
            **CLIENT_OPTIONS,
        )
        self._credential = self._new_credential()

    async def get_token_info(self, *_scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """A token for the cloud's vaults; `ProviderError` or `KubeError` says why there is none."""
        async with self._lock:
            now = time.time()
            if options and (asked := options.get("claims")):
                self._take_challenge(asked)
            if self._token and now < self._renew_at:
                return self._token
            if self._failure and time.monotonic() < self._failure[0]:
                raise self._failure[1].bare()
            self._asked_at = time.monotonic()
            try:
                token = await self._exchange()
            except Deposed:
                raise  # nothing was asked, so there is nothing to remember
            except ControllerError as error:
                self._count_failure(self._host)
                if self._token and self._token.expires_on > now:
                    self._renew_at = now + REMEMBER_FAILURE  # early renewal has failed, and what is there still serves
                    return self._token
                self._failure = (time.monotonic() + (error.retry_after or REMEMBER_FAILURE), error)
                raise
            # The SDK gives the old token back where renewal failed: half of what is left, so that it is asked seldom.
            left = token.expires_on - now
            self._token, self._failure = token, None
            self._renew_at = now + max(left - RENEW_BEFORE, left / 2)
            return token

    def refused(self, token: str) -> bool:
        """Note that a vault refused this token; return whether another one is there, or will be asked for.

        Another token helps after Entra replaced its keys in haste, for example. Exchanges keep their distance.
        """
        if self._token and self._token.token != token:
            return True  # another caller's exchange has replaced it meanwhile
        return self._renew(REMEMBER_FAILURE)

    def forbidden(self) -> None:
        """Note that a vault denies access: the groups that grant it are in the token, and may have changed since."""
        self._renew(RENEW_FORBIDDEN)

    def _renew(self, age: float) -> bool:
        """Have the next caller exchange, if the last exchange is at least `age` seconds old."""
        if time.monotonic() - self._asked_at < age:
            return False
        self._renew_at = 0.0
        self._credential = self._new_credential()  # the SDK caches tokens too
        return True

    def _take_challenge(self, claims: str) -> None:
        """Prepare the one exchange that a vault's claims challenge asks for."""
        now = time.monotonic()
        if len(claims) <= MAX_CLAIMS and now - self._challenged_at >= CHALLENGE_AGAIN:
            self._challenged_at, self._claims = now, claims
            self._renew(0.0)

    async def get_token(self, *_scopes: str, **_: Any) -> AccessToken:
        """As `get_token_info`, in the SDK's older form."""
        info = await self.get_token_info()
        return AccessToken(info.token, info.expires_on)

    async def _exchange(self) -> AccessTokenInfo:
        self._assertion = await self._new_assertion()
        claims, self._claims = self._claims, ""
        try:
            options: TokenRequestOptions = {"claims": claims} if claims else {}
            async with asyncio.timeout(EXCHANGE_SECONDS):
                return await self._credential.get_token_info(self._scope, options=options)
        except TimeoutError as error:
            raise ProviderError(f"{self._entra} did not answer in time; check the route and firewall to it") from error
        except HttpResponseError as error:
            if error.status_code == 429 or (error.status_code or 0) >= 500:
                text = f"{self._entra} answered with HTTP {error.status_code}; the controller tries again by itself"
                raise ProviderError(text, retry_after=asked_to_wait(getattr(error.response, "headers", {}))) from error
            if number := re.search(r"AADSTS(\d{1,9})\b", str(error.message)):
                raise ProviderError(_explain(number[1], self._identity, self._audience, self._assertion)) from error
            raise ProviderError(self._entra + NO_USABLE_ANSWER) from error
        except AzureError as error:
            raise ProviderError(explain_connection(error, self._entra)) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # What the SDK trips over where an answer is not what Entra promises.
            raise ProviderError(self._entra + NO_USABLE_ANSWER) from error
        finally:
            self._assertion = ""

    async def close(self) -> None:
        """Forgets the tokens."""
        self._token = None
        await self._credential.close()

    async def __aenter__(self) -> "FederatedCredential":
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()


def claims(token: str) -> dict[str, Any]:
    """What a token says of itself, unverified: only for messages."""
    try:
        part = token.split(".")[1]
        found = msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, msgspec.DecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _explain(number: str, identity: Identity, audience: str, assertion: str) -> str:
    """One sentence of cause and one of what to do. Entra's own text goes no further than its number."""
    issuer = str(claims(assertion).get("iss", "the cluster's"))
    client = f"identity {identity.client_id}"
    credential = (
        f"give it a federated credential with issuer {issuer}, subject {identity.subject} and audience {TOKEN_AUDIENCE}"
    )
    causes = {
        "700211": f"no federated credential of {client} names this cluster's issuer; {credential}",
        "700212": f"the federated credential of {client} names another audience; {credential}",
        "700213": f"no federated credential of {client} names this ServiceAccount; {credential}",
        "7002138": f"the federated credential of {client} differs from the subject in letter case; {credential}",
        "70025": f"{client} has no federated credential; {credential}",
        "70021": f"no federated credential of {client} matches this ServiceAccount's token; {credential}",
        "700016": f"{client} is unknown in tenant {identity.tenant_id}; correct clientID or tenantID",
        "90002": f"tenant {identity.tenant_id} does not exist; correct tenantID",
        "900023": f"tenant {identity.tenant_id} is no tenant's name or id; correct tenantID",
        "900382": (
            f"tenant {identity.tenant_id} belongs to another cloud than the one that was asked; correct cloudName or"
            " tenantID"
        ),
        "7000229": (
            f"{client} has no service principal in tenant {identity.tenant_id}; create it there (az ad sp create --id"
            f" {identity.client_id}), or correct clientID or tenantID"
        ),
        "53003": (
            f"a Conditional Access policy of tenant {identity.tenant_id} blocks {client}; exclude this workload"
            " identity from the policy, or allow the cluster's addresses in it"
        ),
        "50020": (
            f"{client} comes from another identity provider than tenant {identity.tenant_id} allows; correct tenantID,"
            " or use an identity of that tenant"
        ),
        "50058": (
            f"Entra expects a sign-in for {client}, which a workload cannot do; check that clientID names a managed"
            " identity or an application"
        ),
        "500011": (
            f"the audience {audience} is unknown in tenant {identity.tenant_id}; correct tenantID, cloudName, or the"
            " cloud's audience in the chart's clouds"
        ),
        "1002012": (
            f"Entra does not take {audience}/.default as a scope; correct the cloud's audience in the chart's clouds"
        ),
        "700024": (
            "the ServiceAccount's token is outside its valid time; set the clock of the cluster's nodes (more than five"
            " minutes off)"
        ),
        "700027": (
            f"Entra could not verify the ServiceAccount's token with the keys published at {issuer}; publish the keys"
            " that the cluster signs with"
        ),
    }
    causes["7000272"] = causes["700027"]
    for same in UNREACHABLE_ISSUER:
        causes[same] = (
            f"Entra could not fetch or read the keys of the issuer {issuer}; publish its discovery document and keys"
            " there, so that they can be read from the internet"
        )
    text = causes.get(
        number,
        f"Entra refused {client}; search for AADSTS{number} in Microsoft's documentation 'Microsoft Entra"
        " authentication and authorization error codes'",
    )
    return f"{text} (AADSTS{number})"
