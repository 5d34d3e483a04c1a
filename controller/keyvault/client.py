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
from typing import Any, NamedTuple, TypeVar

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
from controller.keyvault.credentials import NO_USABLE_ANSWER, FederatedCredential, Identity
from controller.keyvault.errors import (
    VaultAddress,
    VaultRefusal,
    explain_refusal,
    throttled_error,
    unusable_error,
)
from controller.keyvault.objects import SOURCES, ObjectClient
from controller.keyvault.resolver import requesting_namespace
from controller.keyvault.transport import explain_connection, is_cut_off, new_pipeline, was_connected
from controller.keyvault.verdict import Loss, Meaning, Verdict, judge_attempt
from controller.runtime import budgets
from controller.runtime.circuit_breaker import BreakersBySubject, CircuitBreaker
from controller.runtime.fair_share import FairSemaphore
from controller.runtime.rate_limiter import AdaptiveRateLimiter

# Maximum number of simultaneous requests to all vaults, of which a namespace has at most half. The maximum for one
# vault allows 400/s at 50 ms each. If a vault lets every request hang, there is room for the namespace's others.
AT_ONCE = 2 * int(budgets.REQUESTS.limit)
AT_ONCE_EACH = 24
# A request that would wait longer at a throttling vault makes room for requests to others, and is sent later.
PATIENCE = 1.0
# A vault's clock that differs by more is wrong. Near the year 9999, times could not be computed any more.
MAX_AHEAD = timedelta(days=36_525)

# Maximum number of failing versions of objects that are remembered.
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

T = TypeVar("T")


class _Target(NamedTuple):
    """What a request reads: a page of a list (`vault_object` is None), the versions of an object, or one of them."""

    source: ObjectClient
    verb: str
    vault_object: VaultObject | None
    version: str

    @property
    def object_name(self) -> str | None:
        """Return the name of the object. A certificate, its key and its secret have the same name."""
        return self.vault_object.name.lower() if self.vault_object else None

    @property
    def path(self) -> "_Path":
        """Return what no other target has."""
        return _Path(self.source.plural, self.verb, self.object_name, self.version)


class _Path(NamedTuple):
    """The kind of object, the operation, the name of the object if there is one, and the version."""

    plural: str
    verb: str
    object_name: str | None
    version: str


class _AttemptFailed(Exception):  # noqa: N818 - it carries an error
    """An attempt got no value. `result` is what the vault answered, or why there is no answer."""

    def __init__(self, error: ProviderError, result: VaultRefusal | Loss) -> None:
        super().__init__()
        self.error = error
        self.result = result


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
        self._failing: BreakersBySubject[_Path] = BreakersBySubject(clock, MAX_FAILING)
        # None before the vault has decided about this identity; True after the identity has read something.
        self._access: bool | None = None
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

    def failing_names(self) -> set[str]:
        """Return the names (lower case) of the objects that the vault failed to give at the last request.

        Read after the others, they do not use up the call by which an open breaker finds out that the vault is back.
        """
        return {path.object_name for path in self._failing if path.object_name}

    async def request(
        self,
        source: ObjectClient,
        verb: str,
        vault_object: VaultObject | None,
        send: Callable[[], Awaitable[T]],
        *,
        first: bool,
        version: str = "",
    ) -> T:
        """Send one request. Retry a failure if that can help, translate it, and record what it means."""
        requesting_namespace.set(self._identity.namespace)
        target, breaker = _Target(source, verb, vault_object, version), self._breakers[verb]
        for attempt in itertools.count(1):
            self._raise_if_open(breaker, target)
            # Get the token first, so that errors and delays of Entra do not count as the vault's.
            await self._credential.get_token_info()
            # A caller that was always refused has no precedence over the refreshes of its namespace.
            await self._wait_for_turn((self, verb, vault_object or source.plural), first and self._access is not False)
            async with self._own_slots, self._slots.hold_slot(self._identity.namespace):
                self._raise_if_open(breaker, target)
                if closed := self.rate_limiter.seconds_closed():
                    raise throttled_error(self.vault, closed)
                breaker.begin()
                self._failing.begin(target.path)
                try:
                    answer = await self._send_once(target, send)
                except _AttemptFailed as failed:
                    retries_left = 0 if self._failing.is_tripped(target.path) else breaker.retries_left(attempt)
                    verdict = judge_attempt(
                        failed.result, has_object=vault_object is not None, retries_left=retries_left
                    )
                    self._note_verdict(breaker, target, verdict, failed)
                    if not verdict.retry:
                        raise failed.error from failed.__cause__
                else:
                    self._access = True
                    self._note_answer(breaker, target)
                    return answer
            await asyncio.sleep(RETRY_DELAYS[attempt - 1] * random.uniform(1, 1.5))  # noqa: S311 - it spreads load
        raise AssertionError  # a breaker allows a bounded number of retries

    async def _send_once(self, target: _Target, send: Callable[[], Awaitable[T]]) -> T:
        """Send the request once and count it. Raise `_AttemptFailed` if the vault did not give what was requested."""
        place = f"Key Vault {self.vault}"
        outcome = "error"
        try:
            async with asyncio.timeout(60):
                answer = await send()
            outcome = "ok"
            return answer
        except TimeoutError as error:
            text = f"{place} did not answer in time; check the route and firewall to it"
            raise _AttemptFailed(ProviderError(text), Loss.TIMED_OUT) from error
        except HttpResponseError as error:
            if is_cut_off(error):
                raise _AttemptFailed(ProviderError(explain_connection(error, place)), Loss.CUT_OFF) from error
            if isinstance(error, DecodeError):
                raise self._unreadable_answer(target) from error
            outcome = str(error.status_code)
            raise self._translate_refusal(error, target) from error
        except UNUSABLE as error:
            if isinstance(error.__cause__, HttpResponseError):  # a challenge that the SDK could not read
                outcome = str(error.__cause__.status_code)
                raise self._translate_refusal(error.__cause__, target) from error
            raise self._unreadable_answer(target) from error
        except ObjectError as error:  # the vault answered, and the object is unusable
            outcome = "ok"
            raise _AttemptFailed(error, Loss.UNREADABLE) from error
        except ControllerError:  # from the credential, which counts and records its own failures
            outcome = ""
            raise
        except AzureError as error:
            raise _AttemptFailed(ProviderError(explain_connection(error, place)), _loss_of(error)) from error
        finally:
            if outcome:
                self._count(self.vault, f"{target.source.plural}.{target.verb}", outcome)

    def _unreadable_answer(self, target: _Target) -> _AttemptFailed:
        """Return the error for a success status with an unreadable body."""
        if target.vault_object:
            return _AttemptFailed(unusable_error(self.vault, target.vault_object), Loss.UNREADABLE)
        text = f"Key Vault {self.vault}{NO_USABLE_ANSWER}"
        return _AttemptFailed(ProviderError(text), Loss.UNREADABLE)

    def _translate_refusal(self, error: HttpResponseError, target: _Target) -> _AttemptFailed:
        """Return the error for a failure status."""
        refused = VaultRefusal.from_error(error)
        client_id = self._identity.client_id
        translated = explain_refusal(refused, self._address, client_id, target.source, target.verb, target.vault_object)
        return _AttemptFailed(translated, refused)

    def _note_verdict(self, breaker: CircuitBreaker, target: _Target, verdict: Verdict, failed: _AttemptFailed) -> None:
        """Record what an attempt without a value means for its object, the identity and the vault."""
        error = failed.error
        reason, seconds = error.message, error.retry_after or 0.0
        if isinstance(error, AccessDenied) or verdict.meaning is Meaning.IDENTITY_FAILURE:
            self._access = self._access or False
        if isinstance(error, AccessDenied):
            self._credential.note_forbidden()
        match verdict.meaning:
            case Meaning.ANSWER:
                self._note_answer(breaker, target)
            case Meaning.THROTTLED:
                self.rate_limiter.note_refusal(error.retry_after)
            case _ if verdict.lasts:
                breaker.trip(reason, seconds)
            case Meaning.OBJECT_FAILURE:
                self._failing.fail(target.path, reason, seconds, retries=verdict.retry)
                breaker.fail(reason, seconds, retries=verdict.retry, subject=target.object_name)
            case Meaning.IDENTITY_FAILURE:
                if isinstance(failed.result, VaultRefusal):
                    self._credential.note_refusal(failed.result.token)
                breaker.fail(reason, seconds, retries=verdict.retry)
            case Meaning.VAULT_FAILURE:
                breaker.fail(reason, seconds, retries=verdict.retry)

    async def _wait_for_turn(self, caller: object, first: bool) -> None:
        while wait := self.rate_limiter.seconds_until_call(self._identity.namespace, caller, first=first):
            if wait > PATIENCE and self.rate_limiter.is_slowed:
                raise throttled_error(self.vault, wait)
            await asyncio.sleep(wait)

    def _raise_if_open(self, breaker: CircuitBreaker, target: _Target) -> None:
        if reason := breaker.open_reason() or self._failing.open_reason(target.path):
            raise ProviderError(reason)

    def _note_answer(self, breaker: CircuitBreaker, target: _Target) -> None:
        breaker.succeed(target.object_name)
        self._failing.succeed(target.path)
        self.rate_limiter.note_answer()

    def _read_response(self, response: PipelineResponse[Any, Any]) -> None:
        """Read the server's clock from an answer, and record the status if the SDK could not decode the body."""
        answer = response.http_response
        try:
            server_time = parsedate_to_datetime(answer.headers.get("Date", ""))
            ahead = server_time.astimezone(UTC) - datetime.now(UTC)
        except (ValueError, OverflowError):
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


def _loss_of(error: AzureError) -> Loss:
    """Return why there is no answer."""
    if isinstance(error, ServiceRequestTimeoutError):
        return Loss.NOT_CONNECTED_IN_TIME
    if isinstance(error, ServiceResponseTimeoutError):
        return Loss.TIMED_OUT
    return Loss.CUT_OFF if was_connected(error) else Loss.NOT_CONNECTED
