"""Exchange a ServiceAccount's token for a managed identity's token for Key Vault (workload identity federation).

The cluster signs a short-lived token for the ServiceAccount (TokenRequest). Entra accepts it as the client assertion of
the managed identity that has a matching federated credential, and returns a token for the vaults. Source: Microsoft
identity platform, "client credentials flow, third case: access token request with a federated credential"; the AADSTS
numbers are from "Microsoft Entra authentication and authorization error codes".
"""

import asyncio
import base64
import random
import re
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import msgspec
from azure.core.credentials import AccessToken, AccessTokenInfo, TokenRequestOptions
from azure.core.exceptions import (
    AzureError,
    HttpResponseError,
    ServiceRequestTimeoutError,
    ServiceResponseTimeoutError,
)
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.transport import AioHttpTransport
from azure.identity.aio import ClientAssertionCredential

from controller.config.settings import TOKEN_AUDIENCE, Cloud
from controller.errors import ControllerError, NotLeading, ProviderError
from controller.keyvault.transport import CLIENT_OPTIONS, explain_connection
from controller.runtime.backoff import parse_retry_after

# Seconds before expiry at which a token is renewed, so that none expires on its way to the vault.
RENEW_BEFORE = 300.0
# One failed exchange answers all callers within this time, so a thousand SecretSyncs cause one call to Entra. A vault
# that refuses tokens cannot cause more exchanges either.
REMEMBER_FAILURE = 10.0
# Seconds before a failed exchange is repeated, plus up to half as much at random. Only the first failure is repeated,
# for all waiting callers of the identity at once: Entra's gateways, too, fail for a moment.
RETRY_DELAY = 0.2
# A token without access to a vault is renewed at this age, because the token contains group memberships, which change.
RENEW_FORBIDDEN = 300.0
# A claims challenge is answered at once, and at most this often, so that a vault with endless challenges causes few
# calls.
CHALLENGE_AGAIN = 60.0
# Far above the size of real claims challenges (Microsoft identity platform, "Claims challenges and claims requests").
MAX_CLAIMS = 4096
# Entra could not reach the issuer's discovery document or keys, or could not parse them.
UNREACHABLE_ISSUER = ("50166", "501661", "90061", "900612")
# A proxy added a header of the feature "tenant restrictions" to the request.
RESTRICTED_TENANT = ("500021", "5000211", "500022")
# The tenant's policies exclude workload identity federation, or this issuer (Azure DevOps, "Troubleshoot an Azure
# Resource Manager workload identity service connection").
FORBIDDEN_FEDERATION = ("700223", "700238")
# Entra itself, or its directory, failed for a moment, whatever the HTTP status of the answer is.
UNAVAILABLE_ENTRA = ("50033", "90006", "90012", "90024", "90033", "90090")
# Entra gets too many requests (LoopDetected, TenantThrottlingError). These refusals have status 400, and usually no
# Retry-After. Of client credentials, Entra otherwise asks for 60 seconds (MSAL.NET, "Client and server throttling").
THROTTLING_ENTRA = ("50196", "90055")
THROTTLED_SECONDS = 60.0
# An exchange can need several requests; the first reads Entra's addresses. A vault's request waits longer.
EXCHANGE_SECONDS = 40.0
# Entra's tokens are valid for at most 24 hours, 28 with continuous access evaluation. A larger number is invalid. A
# token with a shorter life than the minimum would cause an exchange for each request.
MIN_LIFETIME, MAX_LIFETIME = 10, 2 * 86_400
# What a request's header can carry (RFC 6750, section 2.1). Real tokens have a few thousand characters.
_USABLE_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,65536}")
# Entra's number: in its description, or in the list of codes of an answer without one, as the SDK prints both.
_NUMBER = re.compile(r"(?:AADSTS|[\"']error_codes[\"']: ?\[[\"']?)(\d{1,9})\b", re.ASCII | re.IGNORECASE)
NO_USABLE_ANSWER = (
    " gave no usable answer; the controller tries again by itself, and if it lasts, check the proxy and firewall to it"
)


class Identity(msgspec.Struct, frozen=True):
    """The identity that reads a vault: a ServiceAccount federated with a managed identity. Identities share nothing."""

    namespace: str
    service_account: str
    client_id: str
    tenant_id: str

    @property
    def subject(self) -> str:
        """Return the subject that the federated credential must name."""
        return f"system:serviceaccount:{self.namespace}:{self.service_account}"


class _ExchangeFailed(Exception):  # noqa: N818 - it carries an error
    """An exchange failed for a cause that can be gone a moment later."""

    def __init__(self, error: ProviderError) -> None:
        super().__init__()
        self.error = error


class FederatedCredential:
    """The tokens of an identity in the form that the Azure SDK expects.

    It implements `AsyncTokenCredential` and `AsyncSupportsTokenInfo`. It ignores the scope and tenant in a vault's
    challenge: the administrator defines the audience, and no answer from the network can make the controller request
    another.
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
        self.count_failure = count_failure
        self._scope = f"{cloud.audience}/.default"
        self.new_assertion = assertion
        self._assertion = ""
        self._lock = asyncio.Lock()
        self._token: AccessTokenInfo | None = None
        self._renew_at = 0.0
        self._asked_at = 0.0
        self._failure: tuple[float, ControllerError] | None = None
        self._has_failed = False
        self._claims = ""
        self._challenged_at = -CHALLENGE_AGAIN
        # `func` is synchronous and runs on the event loop. The assertion is fetched before, and only passed here.
        self._new_credential: Callable[[], ClientAssertionCredential] = lambda: ClientAssertionCredential(
            identity.tenant_id,
            identity.client_id,
            func=lambda: self._assertion,
            authority=cloud.authority,
            transport=transport,
            raw_response_hook=_raise_for_status,
            **CLIENT_OPTIONS,
        )
        self.sdk_credential = self._new_credential()

    async def get_token_info(self, *_scopes: str, options: TokenRequestOptions | None = None) -> AccessTokenInfo:
        """Return a token for the cloud's vaults.

        Raise `ProviderError` or `KubeError` with the cause if there is none.
        """
        async with self._lock:
            now = time.time()
            if options and (asked := options.get("claims")):
                self._take_challenge(asked)
            if self._token and now < self._renew_at:
                return self._token
            if self._failure and time.monotonic() < self._failure[0]:
                return self._unrenewed_token(self._failure[1])
            self._asked_at = time.monotonic()
            try:
                token = await self._exchange_token()
            except NotLeading:
                raise  # no request was sent, so there is no failure to record
            except ControllerError as error:
                self.count_failure(self._host)
                self._has_failed = True
                # The exchange can have taken longer than its failure is remembered.
                self._failure = (time.monotonic() + (error.retry_after or REMEMBER_FAILURE), error)
                return self._unrenewed_token(error)
            # If the renewal failed, the SDK returns the old token. Half of the remaining time limits the number of
            # attempts.
            left = token.expires_on - now
            self._token, self._failure, self._has_failed = token, None, False
            self._renew_at = now + max(left - RENEW_BEFORE, left / 2)
            return token

    def _unrenewed_token(self, error: ControllerError) -> AccessTokenInfo:
        """Return the old token while it is valid. Otherwise, raise the error of its renewal."""
        if self._token and self._token.expires_on > time.time():
            return self._token
        raise error.bare()

    def note_refusal(self, token: str) -> None:
        """Record that a vault refused this token.

        Another token helps, for example, after Entra replaced its keys in an emergency. The distance between exchanges
        remains.
        """
        if self._token and self._token.token != token:
            return  # another caller's exchange has replaced it
        self._expire_token(REMEMBER_FAILURE)

    def note_forbidden(self) -> None:
        """Record that a vault denies access.

        The token contains the groups that grant access, and they can have changed.
        """
        self._expire_token(RENEW_FORBIDDEN)

    def _expire_token(self, age: float) -> None:
        """Let the next caller exchange, if the last exchange is at least `age` seconds old."""
        if time.monotonic() - self._asked_at >= age:
            self._renew_at = 0.0
            self.sdk_credential = self._new_credential()  # the SDK caches tokens, too

    def _take_challenge(self, claims: str) -> None:
        """Prepare the one exchange for a vault's claims challenge."""
        now = time.monotonic()
        if len(claims) <= MAX_CLAIMS and now - self._challenged_at >= CHALLENGE_AGAIN:
            self._challenged_at, self._claims = now, claims
            self._expire_token(0.0)

    async def get_token(self, *_scopes: str, **_: Any) -> AccessToken:
        """Return the token of `get_token_info` in the SDK's older form."""
        info = await self.get_token_info()
        return AccessToken(info.token, info.expires_on)

    async def _exchange_token(self) -> AccessTokenInfo:
        """Return a new token. Repeat the exchange once if it fails for a moment and the one before did not fail."""
        self._assertion = await self.new_assertion()
        options: TokenRequestOptions = {"claims": self._claims}  # the SDK sends none for an empty text
        self._claims = ""
        try:
            async with asyncio.timeout(EXCHANGE_SECONDS):
                try:
                    return await self._request_token(options)
                except _ExchangeFailed:
                    if self._has_failed:
                        raise
                self.count_failure(self._host)
                await asyncio.sleep(RETRY_DELAY * random.uniform(1, 1.5))  # noqa: S311 - it spreads load
                return await self._request_token(options)
        except _ExchangeFailed as failed:
            raise failed.error from failed.__cause__
        except TimeoutError as error:
            raise ProviderError(f"{self._entra} did not answer in time; check the route and firewall to it") from error
        finally:
            self._assertion = ""

    async def _request_token(self, options: TokenRequestOptions) -> AccessTokenInfo:
        """Send one exchange. Raise `_ExchangeFailed` if another one can succeed at once."""
        try:
            token = await self.sdk_credential.get_token_info(self._scope, options=options)
        except HttpResponseError as error:
            raise self._translate_refusal(error) from error
        except AzureError as error:
            failure = ProviderError(explain_connection(error, self._entra))
            is_timeout = isinstance(error, ServiceRequestTimeoutError | ServiceResponseTimeoutError)
            raise (failure if is_timeout else _ExchangeFailed(failure)) from error
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            # The SDK raises these errors if an answer does not have Entra's documented form.
            raise _ExchangeFailed(ProviderError(self._entra + NO_USABLE_ANSWER)) from error
        is_usable = isinstance(token.token, str) and _USABLE_TOKEN.fullmatch(token.token)
        if not is_usable or not MIN_LIFETIME <= token.expires_on - int(time.time()) <= MAX_LIFETIME:
            raise ProviderError(self._entra + NO_USABLE_ANSWER)
        return token

    def _translate_refusal(self, error: HttpResponseError) -> Exception:
        """Return the error for a failure status, or for an answer without a token."""
        status = error.status_code or 0
        retry_after = parse_retry_after(getattr(error.response, "headers", {}))
        if _is_busy(status):
            text = f"{self._entra} answered with HTTP {status}; the controller tries again by itself"
            failure = ProviderError(text, retry_after=retry_after)
            # A busy Entra asks for fewer requests, with or without a time.
            return failure if status == 429 or retry_after else _ExchangeFailed(failure)
        if number := _NUMBER.search(str(error)):
            if number[1] in UNAVAILABLE_ENTRA:
                text = f"{self._entra} is not available for the moment; the controller tries again by itself"
                return _ExchangeFailed(ProviderError(f"{text} (AADSTS{number[1]})"))
            if number[1] in THROTTLING_ENTRA:
                text = f"{self._entra} gets too many requests for tokens of this identity or tenant"
                text = f"{text}; the controller tries again by itself (AADSTS{number[1]})"
                return ProviderError(text, retry_after=retry_after or THROTTLED_SECONDS)
            return ProviderError(_explain_number(number[1], self._identity, self._audience, self._assertion))
        if status >= 400:
            text = f"{self._entra} answered with HTTP {status} without an error number"
            return ProviderError(f"{text}; check the proxy and firewall to it")
        return _ExchangeFailed(ProviderError(self._entra + NO_USABLE_ANSWER))

    async def close(self) -> None:
        """Delete the tokens."""
        self._token = None
        await self.sdk_credential.close()

    async def __aenter__(self) -> "FederatedCredential":
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()


def read_claims(token: str) -> dict[str, Any]:
    """Return the claims of a token without verification, only for messages."""
    try:
        part = token.split(".")[1]
        found = msgspec.json.decode(base64.urlsafe_b64decode(part + "=="))  # padding beyond the necessary is ignored
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_busy(status: int) -> bool:
    return status == 429 or status >= 500


def _raise_for_status(response: PipelineResponse[Any, Any]) -> None:
    """Raise `HttpResponseError` for a failure that does not have Entra's documented form.

    Gateways and proxies answer with pages. The SDK loses the status and Retry-After of an answer that is not JSON.
    """
    answer = response.http_response
    is_json = "json" in answer.headers.get("Content-Type", "").lower()
    if _is_busy(answer.status_code) or (answer.status_code >= 400 and not is_json):
        raise HttpResponseError(response=answer)


def _explain_number(number: str, identity: Identity, audience: str, assertion: str) -> str:
    """Return the cause and the next step. Of Entra's own text, only the number is used."""
    issuer = str(read_claims(assertion).get("iss", "the cluster's"))
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
        "900023": f"tenant {identity.tenant_id} is not a valid tenant name or id; correct tenantID",
        "900382": (
            f"tenant {identity.tenant_id} belongs to another cloud than this Entra endpoint; correct cloudName or"
            " tenantID"
        ),
        "7000112": (
            f"{client} is disabled in tenant {identity.tenant_id}; enable its service principal there (Enterprise"
            " applications, Properties), or correct clientID"
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
            f"Entra does not accept {audience}/.default as a scope; correct the cloud's audience in the chart's clouds"
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
    causes["90038"] = causes["900432"] = causes["900382"]
    for same in UNREACHABLE_ISSUER:
        causes[same] = (
            f"Entra could not fetch or read the keys of the issuer {issuer}; publish its discovery document and keys"
            " there, so that they can be read from the internet"
        )
    for same in RESTRICTED_TENANT:
        causes[same] = (
            "a proxy between the cluster and Entra adds tenant restrictions to requests, which exclude tenant"
            f" {identity.tenant_id}; add tenant {identity.tenant_id} to the tenants that it allows, or correct tenantID"
        )
    for same in FORBIDDEN_FEDERATION:
        causes[same] = (
            f"a policy of tenant {identity.tenant_id} forbids federated credentials of issuer {issuer}; allow this"
            " issuer in the policy"
        )
    text = causes.get(
        number,
        f"Entra refused {client}; search for AADSTS{number} in Microsoft's documentation 'Microsoft Entra"
        " authentication and authorization error codes'",
    )
    return f"{text} (AADSTS{number})"
