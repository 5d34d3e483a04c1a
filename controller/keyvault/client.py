"""Send the requests to one Key Vault as one identity: in fair order, counted, and with readable errors.

Source: Azure Key Vault REST API reference; "Azure Key Vault throttling guidance".
"""

import asyncio
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from azure.core.exceptions import (
    AzureError,
    DecodeError,
    HttpResponseError,
    ServiceRequestTimeoutError,
    ServiceResponseTimeoutError,
)
from azure.core.pipeline import PipelineResponse
from azure.core.pipeline.transport import AioHttpTransport

from controller.domain.provider_class import VaultObject
from controller.errors import AccessDenied, ControllerError, ObjectError, ProviderError
from controller.keyvault.credentials import FederatedCredential, Identity
from controller.keyvault.errors import (
    LASTING,
    VaultAddress,
    VaultRefusal,
    explain_refusal,
    throttled_error,
    unusable_error,
)
from controller.keyvault.objects import SOURCES, ObjectClient
from controller.keyvault.resolver import requesting_namespace
from controller.keyvault.transport import explain_connection, is_cut_off, new_pipeline
from controller.runtime import budgets
from controller.runtime.circuit_breaker import CircuitBreaker
from controller.runtime.fair_share import FairSemaphore
from controller.runtime.rate_limiter import AdaptiveRateLimiter

# Maximum number of simultaneous requests to all vaults, of which a namespace has at most half. The maximum for one
# vault allows 400/s at 50 ms each. If a vault lets every request hang, there is room for the namespace's others.
AT_ONCE = 2 * int(budgets.REQUESTS.most)
AT_ONCE_EACH = 24
# A request that would wait longer at a throttling vault makes room for requests to others, and is sent later.
PATIENCE = 1.0
# A vault's clock that differs by more is wrong. Near the year 9999, times could not be computed any more.
MAX_AHEAD = timedelta(days=36_525)

# Maximum number of failing objects that are remembered.
MAX_FAILING = 256
# Seconds before a failed call is sent again, by retry, plus up to half as much at random.
RETRY_DELAYS = (0.2, 1.0)

# The SDK's errors for a body that does not match the API.
UNUSABLE = (
    AttributeError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    RecursionError,
)
TIMEOUTS = (ServiceRequestTimeoutError, ServiceResponseTimeoutError)

T = TypeVar("T")


class _RequestFailed(Exception):  # noqa: N818 - it carries an error
    """A request failed. `again` means that another attempt can succeed at once; `lasts`, that none can."""

    def __init__(self, error: ProviderError, *, again: bool, lasts: bool = False) -> None:
        super().__init__()
        self.error = error
        self.again = again
        self.lasts = lasts


class VaultClient:
    """A client for one vault and one identity. `count` receives vault, operation and outcome of each request."""

    def __init__(
        self,
        address: VaultAddress,
        identity: Identity,
        credential: FederatedCredential,
        transport: AioHttpTransport,
        slots: FairSemaphore,
        pace: AdaptiveRateLimiter,
        count: Callable[[str, str, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.vault = address.name
        self.url = address.url
        self._address = address
        self._identity = identity
        self._slots = slots
        self._own_slots = asyncio.Semaphore(AT_ONCE_EACH)
        self.rate_limiter = pace
        self._count = count
        # By verb: if only lists fail, values can still be read.
        self._breakers: defaultdict[str, CircuitBreaker] = defaultdict(lambda: CircuitBreaker(clock))
        # None before the vault has decided about this identity; True after the identity has read something.
        self._access: bool | None = None
        # The objects whose last request failed as if the vault were unreachable. Read after the others, they do not
        # use up the call by which an open breaker finds out that the vault is back.
        self.failing: set[VaultObject] = set()
        self._server_ahead = timedelta()
        self._credential = credential
        self._transport = transport
        self._sources: dict[str, ObjectClient] = {}

    def source_of(self, kind: str) -> ObjectClient:
        """Return the reader of objects of that objectType. Create it on first use."""
        if kind not in self._sources:
            pipeline = new_pipeline(
                self._credential, self._read_response
            )  # a client links its policies and cannot share them
            self._sources[kind] = SOURCES[kind](
                self.vault,
                self.url,
                self._credential,
                transport=self._transport,
                policies=pipeline,
                api_version=self._address.api_version,
            )
        return self._sources[kind]

    def server_time(self) -> datetime:
        """Return the vault's time (UTC) according to its last answer."""
        return datetime.now(UTC) + self._server_ahead

    async def request(
        self,
        source: ObjectClient,
        verb: str,
        found: VaultObject | None,
        send: Callable[[], Awaitable[T]],
        *,
        first: bool,
    ) -> T:
        """Send one request. Retry a failure if that can help, translate it, and record it for the vault."""
        requesting_namespace.set(self._identity.namespace)
        breaker = self._breakers[verb]
        for attempt in itertools.count(1):
            self._raise_if_open(breaker)
            # Get the token first, so that errors and delays of Entra do not count as the vault's.
            await self._credential.get_token_info()
            # A caller that was always refused has no precedence over the refreshes of its namespace.
            await self._wait_for_turn((self, verb, found or source.plural), first and self._access is not False)
            async with self._own_slots, self._slots.hold_slot(self._identity.namespace):
                self._raise_if_open(breaker)
                if closed := self.rate_limiter.seconds_closed():
                    raise throttled_error(self.vault, closed)
                breaker.begin()
                try:
                    return await self._send_once(source, verb, found, send)
                except _RequestFailed as failed:
                    self._note_failure(breaker, failed, retries=failed.again and attempt == 1)
                    if not (failed.again and breaker.can_retry(attempt)):
                        self._note_failing(found)
                        raise failed.error from failed.__cause__
            await asyncio.sleep(RETRY_DELAYS[attempt - 1] * random.uniform(1, 1.5))  # noqa: S311 - it spreads load
        raise AssertionError  # a breaker allows a bounded number of retries

    async def _send_once(
        self, source: ObjectClient, verb: str, found: VaultObject | None, send: Callable[[], Awaitable[T]]
    ) -> T:
        """Send the request once and count it. Raise `_RequestFailed` if the vault as a whole failed."""
        breaker, place = self._breakers[verb], f"Key Vault {self.vault}"
        outcome = "error"
        try:
            async with asyncio.timeout(60):
                answer = await send()
            outcome = "ok"
            self._access = True
            self._note_answer(breaker)
            self.failing.discard(found)
            return answer
        except TimeoutError as error:
            text = f"{place} did not answer in time; check the route and firewall to it"
            raise _RequestFailed(ProviderError(text), again=False) from error
        except HttpResponseError as error:
            if is_cut_off(error):
                raise _RequestFailed(ProviderError(explain_connection(error, place)), again=True) from error
            if isinstance(error, DecodeError):
                raise self._unusable_answer(breaker, found) from error
            outcome = str(error.status_code)
            raise self._translate_refusal(breaker, error, source, verb, found) from error
        except UNUSABLE as error:
            if isinstance(error.__cause__, HttpResponseError):  # a challenge that the SDK could not read
                outcome = str(error.__cause__.status_code)
                raise self._translate_refusal(breaker, error.__cause__, source, verb, found) from error
            raise self._unusable_answer(breaker, found) from error
        except ObjectError:  # the vault answered, and the object is unusable
            outcome = "ok"
            self._note_answer(breaker)
            raise
        except ControllerError:  # from the credential, which counts and records its own failures
            outcome = ""
            raise
        except AzureError as error:
            text = explain_connection(error, place)
            raise _RequestFailed(ProviderError(text), again=not isinstance(error, TIMEOUTS)) from error
        finally:
            if outcome:
                self._count(self.vault, f"{source.plural}.{verb}", outcome)

    def _unusable_answer(self, breaker: CircuitBreaker, found: VaultObject | None) -> Exception:
        """Return the error for a success status with an unreadable body.

        It concerns the object, if one was requested.
        """
        if found:
            self._note_answer(breaker)
            return unusable_error(self.vault, found)
        text = f"Key Vault {self.vault} gave no usable answer; the controller tries again by itself"
        return _RequestFailed(ProviderError(text), again=True)

    def _translate_refusal(
        self,
        breaker: CircuitBreaker,
        error: HttpResponseError,
        source: ObjectClient,
        verb: str,
        found: VaultObject | None,
    ) -> Exception:
        """Return the error for a failure status. It concerns the object, the identity's token or the vault."""
        refused = VaultRefusal.from_error(error)
        translated = explain_refusal(refused, self._address, self._identity.client_id, source, verb, found)
        if refused.status == 429:
            self.rate_limiter.note_refusal(refused.retry_after)
            return translated
        if isinstance(translated, AccessDenied) or refused.status == 401:
            self._access = self._access or False
        if isinstance(translated, AccessDenied):
            self._credential.note_forbidden()
        if isinstance(translated, ObjectError):
            self._note_answer(breaker)
            return translated
        passes = refused.may_pass
        if refused.status == 401 and refused.token_fault not in LASTING:
            passes = self._credential.note_refusal(refused.token) or passes
        return _RequestFailed(translated, again=passes and not refused.retry_after, lasts=not passes)

    async def _wait_for_turn(self, who: object, first: bool) -> None:
        while wait := self.rate_limiter.seconds_until_call(self._identity.namespace, who, first=first):
            if wait > PATIENCE and self.rate_limiter.is_slowed:
                raise throttled_error(self.vault, wait)
            await asyncio.sleep(wait)

    def _raise_if_open(self, breaker: CircuitBreaker) -> None:
        if reason := breaker.open_reason():
            raise ProviderError(reason)

    def _note_answer(self, breaker: CircuitBreaker) -> None:
        breaker.succeed()
        self.rate_limiter.note_answer()

    def _note_failing(self, found: VaultObject | None) -> None:
        if found:
            if len(self.failing) >= MAX_FAILING:  # editors choose the names of objects
                self.failing.clear()
            self.failing.add(found)

    def _note_failure(self, breaker: CircuitBreaker, failed: _RequestFailed, *, retries: bool) -> None:
        error = failed.error
        if failed.lasts:
            breaker.trip(error.message, error.retry_after or 0.0)
        else:
            breaker.fail(error.message, error.retry_after or 0.0, retries=retries)

    def _read_response(self, response: PipelineResponse[Any, Any]) -> None:
        """Read the server's clock from an answer, and record the status if the SDK could not decode the body."""
        answer = response.http_response
        try:
            said = parsedate_to_datetime(answer.headers.get("Date", ""))
            ahead = said.astimezone(UTC) - datetime.now(UTC)
        except (ValueError, TypeError, OverflowError):
            pass  # the header is missing or malformed
        else:
            if abs(ahead) < MAX_AHEAD:
                self._server_ahead = ahead
        if answer.status_code >= 500:  # usually a gateway's error page
            raise HttpResponseError(response=answer)

    async def close(self) -> None:
        """Close the clients."""
        for source in self._sources.values():
            await source.close()
