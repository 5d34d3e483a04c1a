"""The requests to one Key Vault as one identity: each in its turn, counted, and its failure in words for people.

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

from controller import budgets
from controller.breaker import CircuitBreaker
from controller.errors import AccessDenied, ControllerError, ObjectError, ProviderError
from controller.identity import FederatedCredential, Identity
from controller.network import explain_connection, is_too_large, new_pipeline
from controller.objects import VaultObject
from controller.pace import Pace
from controller.refusals import LASTING, Refused, VaultAddress, explain, throttled, unusable
from controller.resolver import requesting_namespace
from controller.shares import Slots
from controller.sources import SOURCES, Source

# Requests under way at once to all vaults, of which a namespace has at most half; and to one vault, enough to fill
# 400/s at 50 ms each: where it lets every request hang, there is room for the namespace's others.
AT_ONCE = 2 * int(budgets.REQUESTS.most)
AT_ONCE_EACH = 24
# Whoever would wait longer for its turn at a vault that refuses makes room for the work on others, and comes again.
PATIENCE = 1.0

# Seconds before a call that failed is sent again, by retry; half as much again at random.
RETRY_DELAYS = (0.2, 1.0)

# The SDK fails in these ways on a body that does not match the API.
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


class _Failed(Exception):  # noqa: N818 -- carries an error
    """A request failed. `again` says that another attempt may succeed at once."""

    def __init__(self, error: ProviderError, *, again: bool) -> None:
        super().__init__()
        self.error = error
        self.again = again


class Calls:
    """One vault as one identity reaches it; `count` hears vault, operation and outcome of each request."""

    def __init__(
        self,
        address: VaultAddress,
        identity: Identity,
        credential: FederatedCredential,
        transport: AioHttpTransport,
        slots: Slots,
        pace: Pace,
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
        self._pace = pace
        self._count = count
        # By verb: where only lists fail, values can still be had.
        self._breakers: defaultdict[str, CircuitBreaker] = defaultdict(lambda: CircuitBreaker(clock))
        # None until the vault has decided about this identity; True once it has ever let it read something.
        self._access: bool | None = None
        self._server_ahead = timedelta()
        self._credential = credential
        self._transport = transport
        self._sources: dict[str, Source] = {}

    def source(self, kind: str) -> Source:
        """What reads objects of that objectType, made when it is needed first."""
        if kind not in self._sources:
            pipeline = new_pipeline(self._credential, self._note)  # a client links its policies, so each has its own
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
        """What time it is by the vault's clock, going by its last answer (UTC)."""
        return datetime.now(UTC) + self._server_ahead

    async def make(
        self,
        source: Source,
        verb: str,
        found: VaultObject | None,
        request: Callable[[], Awaitable[T]],
        *,
        first: bool,
    ) -> T:
        """Send one request. Its failure is retried where that may help, translated, and remembered for the vault."""
        requesting_namespace.set(self._identity.namespace)
        breaker = self._breakers[verb]
        for attempt in itertools.count(1):
            self._raise_if_open(breaker)
            # Entra's faults and delays are not the vault's, so the token is there before the vault is asked.
            await self._credential.get_token_info()
            # A requester that has only been refused does not come before the refreshes of its namespace.
            await self._turn((self, verb, found or source.plural), first and self._access is not False)
            async with self._own_slots, self._slots.of(self._identity.namespace):
                self._raise_if_open(breaker)
                if closed := self._pace.closed():
                    raise throttled(self.vault, closed)
                breaker.begin()
                try:
                    return await self._attempt(source, verb, found, request)
                except _Failed as failed:
                    if not (failed.again and breaker.can_retry(attempt)):
                        raise failed.error from failed.__cause__
            await asyncio.sleep(RETRY_DELAYS[attempt - 1] * random.uniform(1, 1.5))  # noqa: S311 -- spreads load
        raise AssertionError  # a breaker allows a bounded number of retries

    async def _attempt(
        self, source: Source, verb: str, found: VaultObject | None, request: Callable[[], Awaitable[T]]
    ) -> T:
        """Send the request once and count it. Raises `_Failed` if the vault as a whole failed."""
        breaker, place = self._breakers[verb], f"Key Vault {self.vault}"
        outcome = "error"
        try:
            async with asyncio.timeout(60):
                answer = await request()
            outcome = "ok"
            self._access = True
            self._answered(breaker)
            return answer
        except TimeoutError as error:
            text = f"{place} did not answer in time; check the route and firewall to it"
            raise self._failed(breaker, ProviderError(text), again=False) from error
        except HttpResponseError as error:
            if isinstance(error, DecodeError):
                raise self._odd(breaker, found) from error
            outcome = str(error.status_code)
            raise self._refused(breaker, error, source, verb, found) from error
        except UNUSABLE as error:
            if isinstance(error.__cause__, HttpResponseError):  # a challenge that the SDK could not read
                outcome = str(error.__cause__.status_code)
                raise self._refused(breaker, error.__cause__, source, verb, found) from error
            raise self._odd(breaker, found) from error
        except ObjectError:  # the vault answered, with an object that cannot be used
            outcome = "ok"
            self._answered(breaker)
            raise
        except ControllerError:  # from the credential, which counts and remembers its own failures
            outcome = ""
            raise
        except AzureError as error:
            if found and is_too_large(error):
                raise self._odd(breaker, found) from error
            text = explain_connection(error, place)
            raise self._failed(breaker, ProviderError(text), again=not isinstance(error, TIMEOUTS)) from error
        finally:
            if outcome:
                self._count(self.vault, f"{source.plural}.{verb}", outcome)

    def _odd(self, breaker: CircuitBreaker, found: VaultObject | None) -> Exception:
        """Success by its status, with a body that cannot be read: that concerns the object, if one was asked for."""
        if found:
            self._answered(breaker)
            return unusable(self.vault, found)
        text = f"Key Vault {self.vault} gave no usable answer; the controller tries again by itself"
        return self._failed(breaker, ProviderError(text), again=True)

    def _refused(
        self, breaker: CircuitBreaker, error: HttpResponseError, source: Source, verb: str, found: VaultObject | None
    ) -> Exception:
        """Any status but success: it concerns the object, the identity's token or the vault."""
        refused = Refused.by(error)
        translated = explain(refused, self._address, self._identity.client_id, source, verb, found)
        if refused.status == 429:
            self._pace.refused(refused.retry_after)
            return translated
        if isinstance(translated, AccessDenied) or refused.status == 401:
            self._access = self._access or False
        if isinstance(translated, AccessDenied):
            self._credential.forbidden()
        if isinstance(translated, ObjectError):
            self._answered(breaker)
            return translated
        again = refused.may_pass and not refused.retry_after
        if refused.status == 401 and refused.token_fault not in LASTING:
            again = self._credential.refused(refused.token) or again
        return self._failed(breaker, translated, again=again, lasts=not again)

    async def _turn(self, who: object, first: bool) -> None:
        while wait := self._pace.wait(self._identity.namespace, who, first=first):
            if wait > PATIENCE and self._pace.slowed:
                raise throttled(self.vault, wait)
            await asyncio.sleep(wait)

    def _raise_if_open(self, breaker: CircuitBreaker) -> None:
        if reason := breaker.reason():
            raise ProviderError(reason)

    def _answered(self, breaker: CircuitBreaker) -> None:
        breaker.succeed()
        self._pace.answered()

    def _failed(self, breaker: CircuitBreaker, error: ProviderError, *, again: bool, lasts: bool = False) -> _Failed:
        if lasts:
            breaker.trip(error.message, error.retry_after or 0.0)
        else:
            breaker.fail(error.message)
        return _Failed(error, again=again)

    def _note(self, response: PipelineResponse[Any, Any]) -> None:
        """Takes the server's clock from an answer, and the status of one whose body the SDK could not decode."""
        answer = response.http_response
        try:
            said = parsedate_to_datetime(answer.headers.get("Date", ""))
            self._server_ahead = said.astimezone(UTC) - datetime.now(UTC)
        except (ValueError, TypeError):
            pass
        if answer.status_code >= 500:  # a gateway's error page, mostly
            raise HttpResponseError(response=answer)

    async def close(self) -> None:
        """Lets go of the clients."""
        for source in self._sources.values():
            await source.close()
