"""Test single requests to a vault in virtual time: errors, counts, waits, and effects of failures on later requests."""

import asyncio
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from azure.core.exceptions import (
    AzureError,
    DecodeError,
    HttpResponseError,
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
    ServiceResponseTimeoutError,
)

from controller.domain.provider_class import VaultObject
from controller.errors import ControllerError, ObjectError, ProviderError
from controller.keyvault import client, pool
from controller.keyvault.client import AT_ONCE, VaultClient
from controller.keyvault.credentials import FederatedCredential, Identity
from controller.keyvault.errors import VaultAddress
from controller.keyvault.objects import ObjectClient
from controller.keyvault.pool import VaultPool
from controller.keyvault.resolver import requesting_namespace
from controller.runtime import budgets
from controller.runtime.circuit_breaker import WINDOW
from controller.runtime.fair_share import FairSemaphore
from controller.runtime.rate_limiter import AdaptiveRateLimiter
from tests.support.virtual_time import run_virtual

Clock = Callable[[], float]
Result = Exception | str | float
SECRETS = cast("ObjectClient", SimpleNamespace(plural="secrets", role="Key Vault Secrets User"))
USER, OTHER = VaultObject(name="User"), VaultObject(name="other")
AGAIN = "; the controller tries again by itself"


def make_refusal(status: int, code: str = "x", **headers: str) -> HttpResponseError:
    """Return the SDK's error for an error answer of a vault."""
    error = HttpResponseError("x")
    error.status_code = status
    body = json.dumps({"error": {"code": code, "message": "x"}})
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    request = SimpleNamespace(headers={"Authorization": "Bearer refused-token"})
    error.response = SimpleNamespace(text=lambda: body, headers=named, request=request)
    return error


def set_cause(error: AzureError | ValueError, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


class RecordingLimiter:
    """A rate limiter with fixed waits. It records the callers."""

    def __init__(self, waits: Sequence[float] = (), closed: float = 0.0, *, is_slowed: bool = True) -> None:
        self.waits = list(waits)
        self.closed = closed
        self.is_slowed = is_slowed
        self.callers: list[tuple[str, Any, bool]] = []
        self.answers = 0

    def seconds_until_call(self, namespace: str, caller: Any, *, first: bool) -> float:
        self.callers.append((namespace, caller, first))
        return self.waits.pop(0) if self.waits else 0.0

    def seconds_closed(self) -> float:
        return self.closed

    def note_answer(self) -> None:
        self.answers += 1


class ClientHarness:
    """A client whose requests the test answers. The harness records their times, their counts, and refused tokens."""

    def __init__(self, clock: Clock, limiter: RecordingLimiter | None = None) -> None:
        self.clock = clock
        self.sent: list[float] = []
        self.counted: list[tuple[str, str, str]] = []
        self.refused_tokens: list[str] = []
        self.denials = 0
        self.tokens = 0
        self.token_error: ControllerError | None = None
        # The namespaces for which the name of the vault would be resolved.
        self.namespaces: list[str] = []
        self.client = VaultClient(
            VaultAddress("vault", "https://vault"),
            Identity("team", "robot", "client", "tenant"),
            cast("FederatedCredential", self),
            cast("Any", None),
            FairSemaphore(AT_ONCE),
            cast("AdaptiveRateLimiter", limiter) if limiter else AdaptiveRateLimiter(clock),
            lambda *count: self.counted.append(count),
            clock,
        )

    async def get_token_info(self) -> None:
        """Return at once, as if the token was cached, or raise `token_error`."""
        self.tokens += 1
        if self.token_error:
            raise self.token_error

    def note_refusal(self, token: str) -> None:
        self.refused_tokens.append(token)

    def note_forbidden(self) -> None:
        self.denials += 1

    async def request(
        self,
        result: Result | list[Result],
        vault_object: VaultObject | None = None,
        *,
        verb: str = "list",
        first: bool = True,
        **options: str,
    ) -> str:
        """Send a request that returns or raises `result`, or returns after that many seconds.

        A list has one result for each attempt, and its last result is repeated.
        """
        results = list(result) if isinstance(result, list) else [result]

        async def send() -> str:
            self.sent.append(self.clock())
            self.namespaces.append(requesting_namespace.get())
            current = results.pop(0) if len(results) > 1 else results[0]
            if isinstance(current, Exception):
                raise current
            if isinstance(current, float):
                await asyncio.sleep(current)
            return str(current)

        return await self.client.request(SECRETS, verb, vault_object, send, first=first, **options)

    async def get_error(
        self, result: Result, vault_object: VaultObject | None = None, **options: Any
    ) -> ControllerError:
        with pytest.raises(ControllerError) as caught:
            await self.request(result, vault_object, **options)
        return caught.value


@pytest.mark.parametrize(
    ("result", "vault_object", "message", "outcome", "attempts"),
    [
        pytest.param(
            TimeoutError(),
            None,
            "Key Vault vault did not answer in time; check the route and firewall to it",
            "error",
            1,
            id="no answer in time",
        ),
        pytest.param(make_refusal(404), None, f"Key Vault vault answered with HTTP 404{AGAIN}", "404", 1, id="404"),
        pytest.param(make_refusal(503), None, f"Key Vault vault answered with HTTP 503{AGAIN}", "503", 2, id="503"),
        pytest.param(
            make_refusal(503, Retry_After="9"),
            None,
            f"Key Vault vault answered with HTTP 503{AGAIN}",
            "503",
            1,
            id="503 with Retry-After",
        ),
        pytest.param(
            set_cause(ValueError("x"), make_refusal(401)),
            None,
            "Key Vault vault does not accept the token of identity client; check that tenantID is the vault's tenant",
            "401",
            2,
            id="unreadable challenge",
        ),
        *(
            pytest.param(
                error,
                None,
                f"Key Vault vault gave no usable answer{AGAIN}, and if it lasts, check the proxy and firewall to it",
                "error",
                2,
                id=f"unreadable list: {type(error).__name__}",
            )
            for error in (
                DecodeError("x"),
                AttributeError("x"),
                ValueError("x"),
                TypeError("x"),
                KeyError("x"),
                OverflowError("x"),
                RecursionError("x"),
            )
        ),
        *(
            pytest.param(
                error,
                USER,
                "Key Vault vault gave no usable answer for secret User; check it with `az keyvault secret show`,"
                " and if that works, check the proxy and firewall to the vault",
                "error",
                1,
                id=f"unreadable object: {type(error).__name__}",
            )
            for error in (DecodeError("x"), ValueError("x"))
        ),
        pytest.param(ObjectError("secret User is odd"), USER, "secret User is odd", "ok", 1, id="unusable object"),
        pytest.param(ProviderError("there is no token"), USER, "there is no token", None, 1, id="no token"),
        *(
            pytest.param(
                error,
                None,
                f"Key Vault vault cannot be reached ({type(error).__name__}){AGAIN}",
                "error",
                attempts,
                id=type(error).__name__,
            )
            for error, attempts in (
                (ServiceRequestError("x"), 2),
                (ServiceRequestTimeoutError("x"), 1),
                (ServiceResponseTimeoutError("x"), 1),
            )
        ),
        *(
            pytest.param(
                set_cause(error, aiohttp.ClientPayloadError("x")),
                None,
                f"Key Vault vault ended the connection within its answer{AGAIN}",
                "error",
                2,
                id=f"cut off: {type(error).__name__}",
            )
            for error in (HttpResponseError("x"), ServiceResponseError("x"))
        ),
    ],
)
def test_failure_is_explained_counted_and_retried(
    result: Exception, vault_object: VaultObject | None, message: str, outcome: str | None, attempts: int
) -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        error = await harness.get_error(result, vault_object)
        assert error.message == message
        assert len(harness.sent) == attempts
        assert harness.counted == ([("vault", "secrets.list", outcome)] * attempts if outcome else [])

    run_virtual(main)


def test_value_is_returned_and_counted() -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock, limiter := RecordingLimiter())
        assert await harness.request("value", USER, verb="get") == "value"
        assert harness.counted == [("vault", "secrets.get", "ok")]
        assert limiter.answers == 1
        assert harness.namespaces == ["team"]

    run_virtual(main)


def test_request_without_a_token_is_neither_sent_nor_counted() -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock, limiter := RecordingLimiter())
        harness.token_error = ProviderError("Entra failed")
        assert await harness.get_error("value") is harness.token_error
        assert (harness.sent, harness.counted, limiter.callers) == ([], [], [])

    run_virtual(main)


def test_request_ends_after_60_s() -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        assert await harness.request(59.9) == "59.9"
        start = clock()
        assert "did not answer in time" in (await harness.get_error(1000.0)).message
        assert clock() - start == pytest.approx(60)

    run_virtual(main)


@pytest.mark.parametrize(
    ("waits", "is_slowed", "sent", "retry_after"),
    [
        ([0.0], True, [0], None),
        ([1.0, 0.5], True, [1.5], None),
        ([1.1], True, [], 1.1),
        ([0.5, 2.0], True, [], 2.0),
        ([5.0], False, [5], None),
    ],
)
def test_request_waits_one_second_at_most_for_a_throttled_vault(
    waits: list[float], is_slowed: bool, sent: list[float], retry_after: float | None
) -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock, RecordingLimiter(waits, is_slowed=is_slowed))
        if retry_after is None:
            await harness.request("value")
        else:
            error = await harness.get_error("value")
            assert error.message.startswith("Key Vault vault is throttled: ")
            assert error.retry_after == retry_after
        assert harness.sent == pytest.approx(sent)

    run_virtual(main)


def test_request_is_not_sent_if_the_vault_refused_another_meanwhile() -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock, RecordingLimiter(closed=3.0))
        error = await harness.get_error("value")
        assert (error.message.partition(":")[0], error.retry_after) == ("Key Vault vault is throttled", 3)
        assert not harness.sent

    run_virtual(main)


def test_429_closes_the_vault_for_the_time_of_retry_after() -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        error = await harness.get_error(make_refusal(429, Retry_After="7"))
        assert error.retry_after == 7
        assert harness.client.rate_limiter.seconds_closed() == 7
        assert len(harness.sent) == 1

    run_virtual(main)


@pytest.mark.parametrize(
    ("results", "first", "has_precedence"),
    [
        pytest.param([], True, True, id="no request yet"),
        pytest.param([], False, False, id="a refresh"),
        pytest.param(["value"], True, True, id="a value"),
        pytest.param(["value"], False, False, id="a refresh after a value"),
        pytest.param([make_refusal(403)], True, False, id="no access"),
        pytest.param([make_refusal(401)], True, False, id="no valid token"),
        pytest.param(["value", make_refusal(403)], True, True, id="access to another object"),
        pytest.param([make_refusal(503)], True, True, id="a failure of the vault"),
        pytest.param([make_refusal(403), "value"], True, True, id="access since then"),
    ],
)
def test_identity_that_was_always_refused_has_no_precedence(
    results: list[Exception | str], first: bool, has_precedence: bool
) -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock, limiter := RecordingLimiter())
        for number, result in enumerate(results):
            if isinstance(result, Exception):
                await harness.get_error(result, verb=f"verb-{number}")
            else:
                await harness.request(result, verb=f"verb-{number}")
        limiter.callers.clear()
        await harness.request("value", first=first)
        await harness.request("value", USER, verb="get", first=first)
        assert limiter.callers[0] == ("team", (harness.client, "list", "secrets"), has_precedence)
        assert limiter.callers[1][:2] == ("team", (harness.client, "get", USER))

    run_virtual(main)


@pytest.mark.parametrize(
    ("result", "tokens", "denials"),
    [
        (make_refusal(401), ["refused-token"] * 2, 0),
        (make_refusal(403), [], 1),
        (make_refusal(503), [], 0),
        (make_refusal(404), [], 0),
    ],
    ids=["401", "403", "503", "404"],
)
def test_refused_tokens_and_denials_are_reported_to_the_credential(
    result: Exception, tokens: list[str], denials: int
) -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        await harness.get_error(result)
        assert (harness.refused_tokens, harness.denials) == (tokens, denials)

    run_virtual(main)


@pytest.mark.parametrize(
    ("result", "seconds"),
    [
        pytest.param(TimeoutError(), 0, id="one timeout"),
        pytest.param(make_refusal(503), 5, id="two failures"),
        pytest.param(make_refusal(401), 5, id="two refused tokens"),
        pytest.param(make_refusal(503, Retry_After="60"), 60, id="503 with Retry-After"),
        pytest.param(make_refusal(404), 5, id="a failure that lasts"),
        pytest.param(make_refusal(403), 0, id="an answer"),
    ],
)
def test_breaker_of_one_operation_opens_for_a_time(result: Exception, seconds: float) -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        error = await harness.get_error(result)
        if seconds:
            harness.sent.clear()
            await asyncio.sleep(seconds - 0.1)
            assert (await harness.get_error("value")).message == error.message
            assert not harness.sent
            assert await harness.request("value", verb="get") == "value"
            await asyncio.sleep(0.1)
        assert await harness.request("value") == "value"

    run_virtual(main)


def test_open_breaker_uses_neither_the_credential_nor_the_rate_limiter() -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock, limiter := RecordingLimiter())
        await harness.get_error(make_refusal(404))
        tokens, callers = harness.tokens, len(limiter.callers)
        await harness.get_error("value")
        assert (harness.tokens, len(limiter.callers)) == (tokens, callers)

    run_virtual(main)


def test_waiting_request_is_not_sent_after_another_opened_the_breaker() -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock, RecordingLimiter([0.5]))
        waiting = asyncio.create_task(harness.get_error("value"))
        await asyncio.sleep(0)
        error = await harness.get_error(make_refusal(404))
        assert (await waiting).message == error.message
        assert harness.sent == [0]

    run_virtual(main)


@pytest.mark.parametrize("vault_object", [None, USER], ids=["a list", "an object"])
def test_one_request_probes_after_the_time_of_a_breaker(vault_object: VaultObject | None) -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        error = await harness.get_error(make_refusal(503), vault_object)
        await asyncio.sleep(5)
        harness.sent.clear()
        probing = asyncio.create_task(harness.request(1.0, vault_object))
        await asyncio.sleep(0)
        assert (await harness.get_error("value", vault_object)).message == error.message
        assert await probing == "1.0"
        assert len(harness.sent) == 1
        assert await harness.request("value", vault_object) == "value"

    run_virtual(main)


@pytest.mark.parametrize(
    ("failure", "vault_objects"),
    [
        pytest.param(make_refusal(503), (None, None), id="lists"),
        pytest.param(make_refusal(401), (None, None), id="refused tokens"),
        pytest.param(make_refusal(503), (USER, USER), id="one object"),
        pytest.param(make_refusal(503), (USER, OTHER), id="two objects"),
    ],
)
def test_simultaneous_requests_can_each_fail_once(
    failure: Exception, vault_objects: tuple[VaultObject | None, ...]
) -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        requests = [harness.request([failure, "value"], vault_object) for vault_object in vault_objects]
        assert await asyncio.gather(*requests) == ["value", "value"]
        assert len(harness.sent) == 4

    run_virtual(main)


def test_failures_of_two_objects_open_the_breaker_of_the_vault() -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        await harness.get_error(make_refusal(503), USER)
        error = await harness.get_error(make_refusal(503), OTHER)
        harness.sent.clear()
        assert (await harness.get_error("value", VaultObject(name="third"))).message == error.message
        assert not harness.sent

    run_virtual(main)


@pytest.mark.parametrize(
    ("failure", "opens"),
    [
        pytest.param(ServiceRequestError("x"), True, id="no connection"),
        pytest.param(set_cause(ServiceResponseError("x"), aiohttp.ServerDisconnectedError()), False, id="cut off"),
    ],
)
def test_vault_without_a_connection_fails_for_all_objects(failure: Exception, opens: bool) -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        error = await harness.get_error(failure, USER)
        assert len(harness.sent) == 2
        if opens:
            assert (await harness.get_error("value", OTHER)).message == error.message
        else:
            assert await harness.request("value", OTHER) == "value"

    run_virtual(main)


@pytest.mark.parametrize(
    ("result", "vault_object", "answers"),
    [
        (make_refusal(403), None, 1),
        (make_refusal(404), USER, 1),
        (make_refusal(404), None, 0),
        (make_refusal(503), None, 0),
        (ServiceRequestTimeoutError("x"), None, 0),
        (ServiceResponseTimeoutError("x"), None, 0),
        (ServiceRequestError("x"), None, 0),
    ],
    ids=[
        "denied list",
        "missing object",
        "missing list",
        "failure",
        "no connection in time",
        "timeout",
        "no connection",
    ],
)
def test_refusal_of_one_request_is_an_answer_of_the_vault(
    result: Exception, vault_object: VaultObject | None, answers: int
) -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock, limiter := RecordingLimiter())
        await harness.get_error(result, vault_object)
        assert limiter.answers == answers

    run_virtual(main)


def test_few_failures_among_many_lists_open_no_breaker() -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        for _ in range(4):
            await harness.request("value")
        await harness.get_error(make_refusal(503))
        assert await harness.request("value") == "value"

    run_virtual(main)


def test_failing_object_is_not_requested_and_others_are() -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        error = await harness.get_error(make_refusal(503), USER, verb="get")
        assert len(harness.sent) == 2
        assert harness.client.failing_names() == {"user"}
        harness.sent.clear()
        assert (await harness.get_error("value", USER, verb="get", version="")).message == error.message
        assert not harness.sent
        assert await harness.request("value", OTHER, verb="get") == "value"
        assert await harness.request("value", USER, verb="get", version="v1") == "value"
        assert await harness.request("value", USER, verb="list_versions") == "value"
        await asyncio.sleep(5)
        # The request after the breaker's time is a probe, so it is not retried.
        harness.sent.clear()
        start = clock()
        await harness.get_error(make_refusal(503), USER, verb="get")
        assert harness.sent == [start] == [clock()]
        await asyncio.sleep(5)
        assert await harness.request("value", USER, verb="get") == "value"
        assert harness.client.failing_names() == set()

    run_virtual(main)


def test_failures_of_256_objects_are_remembered() -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        for number in range(257):
            await harness.get_error(TimeoutError(), VaultObject(name=f"object-{number}"), verb="get")
            await asyncio.sleep(WINDOW)
        assert harness.client.failing_names() == {f"object-{number}" for number in range(1, 257)}

    run_virtual(main)


def test_vault_gets_24_requests_at_once() -> None:
    async def main(clock: Clock) -> None:
        harness = ClientHarness(clock)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(30):
                tasks.create_task(harness.request(1.0))
        assert harness.sent == [0.0] * 24 + [1.0] * 6

    run_virtual(main)


# The headers that the client reads in each answer, and its readers of objects

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
MAX_AHEAD = timedelta(days=36_525)
SECOND = timedelta(seconds=1)


class RecordedSource:
    """A reader of objects that records its arguments."""

    def __init__(self, *args: object, **options: object) -> None:
        self.args = args
        self.options = options
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


class SourceHarness:
    """A client whose readers are recorded, and the functions that they call with each answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.credential, self.transport, self.pipeline = object(), object(), object()
        self.readers: list[Callable[[Any], None]] = []
        monkeypatch.setattr(client, "SOURCES", {"secret": RecordedSource, "key": RecordedSource})
        monkeypatch.setattr(client, "new_pipeline", self._new_pipeline)
        monkeypatch.setattr(client, "datetime", SimpleNamespace(now=NOON.astimezone))
        self.client = VaultClient(
            VaultAddress("vault", "https://vault", api_version="7.4"),
            Identity("team", "robot", "client", "tenant"),
            cast("FederatedCredential", self.credential),
            cast("Any", self.transport),
            FairSemaphore(AT_ONCE),
            cast("AdaptiveRateLimiter", RecordingLimiter()),
            lambda *_: None,
            clock := lambda: 0.0,
        )
        assert self.client.clock is clock

    def _new_pipeline(self, credential: object, reader: Callable[[Any], None]) -> object:
        assert credential is self.credential
        self.readers.append(reader)
        return self.pipeline

    def read_answer(self, status: int, headers: dict[str, str]) -> None:
        """Let the client read an answer."""
        self.client.source_of("secret")
        answer = SimpleNamespace(status_code=status, reason="x", headers=headers, text=lambda: "", body=lambda: b"")
        self.readers[0](SimpleNamespace(http_response=answer))


async def test_each_kind_of_object_has_one_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = SourceHarness(monkeypatch)
    found = [cast("Any", harness.client.source_of(kind)) for kind in ("secret", "key", "secret")]
    assert found[0] is found[2] is not found[1]
    assert found[0].args == ("vault", "https://vault", harness.credential)
    assert found[0].options == {
        "transport": harness.transport,
        "policies": harness.pipeline,
        "api_version": "7.4",
    }
    await harness.client.close()
    assert [source.closed for source in found[:2]] == [1, 1]


@pytest.mark.parametrize(
    ("headers", "ahead"),
    [
        ({}, timedelta()),
        ({"Date": format_datetime(NOON + timedelta(hours=1), usegmt=True)}, timedelta(hours=1)),
        ({"Date": format_datetime(NOON - timedelta(hours=1), usegmt=True)}, timedelta(hours=-1)),
        ({"Date": format_datetime(NOON + MAX_AHEAD - SECOND, usegmt=True)}, MAX_AHEAD - SECOND),
        ({"Date": format_datetime(NOON + MAX_AHEAD, usegmt=True)}, timedelta()),
        ({"Date": format_datetime(NOON - MAX_AHEAD, usegmt=True)}, timedelta()),
        ({"Date": "soon"}, timedelta()),
        ({"Date": "Fri, 31 Dec 9999 23:59:59 -1400"}, timedelta()),
    ],
)
def test_time_of_the_vault_is_read_from_its_answers(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], ahead: timedelta
) -> None:
    harness = SourceHarness(monkeypatch)
    assert harness.client.server_time() == NOON
    harness.read_answer(200, headers)
    assert harness.client.server_time() == NOON + ahead


@pytest.mark.parametrize(("status", "fails"), [(200, False), (404, False), (499, False), (500, True), (503, True)])
def test_status_of_a_failing_vault_is_an_error_before_its_body_is_read(
    monkeypatch: pytest.MonkeyPatch, status: int, fails: bool
) -> None:
    harness = SourceHarness(monkeypatch)
    if not fails:
        harness.read_answer(status, {})
        return
    with pytest.raises(HttpResponseError) as caught:
        harness.read_answer(status, {})
    assert caught.value.status_code == status


def test_all_vaults_together_get_twice_the_requests_of_one_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    slots: list[int] = []
    monkeypatch.setattr(pool, "FairSemaphore", slots.append)

    async def get_assertion(_: Identity) -> str:
        return ""

    VaultPool({}, get_assertion, lambda *_: None)
    assert slots == [2 * budgets.REQUESTS.limit]
