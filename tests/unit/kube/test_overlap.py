"""Test leadership and readiness if another release serves the same namespaces and its policy refuses requests."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from controller.config.settings import Settings
from controller.kube.client import KubeClient
from controller.kube.overlap import OverlapCheck, patience
from tests.support import virtual_time
from tests.support.scripted_api_server import ScriptedApiServer, ScriptedResponse, error_response, run_api_server

CHECKING = "checking whether another release serves the same namespaces"
FIX = "uninstall one of the two, or set watchNamespaces so that each namespace has one release"
SETTINGS = Settings(lease_name="mine", pod_namespace="home", watch_namespaces=("shop", "web"), lease_duration=15)


def make_denial(
    release: str = "there/scribe",
    renewed: str = "2026-01-01T00:00:01.000000Z",
    where: str = "shop",
    duration: int | None = 15,
) -> ScriptedResponse:
    """Return the API server's answer if another release's policy refuses a request."""
    namespace, _, name = release.partition("/")
    policy = f"overlap.{name}.{namespace}"
    lease = "" if duration is None else f", with a Lease of {duration} s"
    return error_response(
        422,
        f"leases.coordination.k8s.io \"mine\" is forbidden: ValidatingAdmissionPolicy '{policy}' with binding"
        f" '{policy}' denied request: release {release} serves {where}; {name}-0_ab12 leads it since its renewal at"
        f" {renewed}{lease}",
    )


class OverlapHarness:
    """An `OverlapCheck` with a clock that the test sets."""

    def __init__(self, kube: KubeClient, server: ScriptedApiServer, settings: Settings = SETTINGS) -> None:
        self.now = 0.0
        self.server = server
        self.overlap = OverlapCheck(kube, settings, lambda: self.now)

    async def attempt_probe(self, answer: ScriptedResponse, *, leads: bool = False, after: float = 1.0) -> str:
        """Return the readiness problem after this answer of the API server."""
        self.now += after
        self.server.default_response = lambda _: answer
        await self.overlap.attempt(leads=leads)
        assert self.overlap.may_lead == (not self.overlap.problem)
        return self.overlap.problem


@pytest.fixture
async def harness() -> AsyncIterator[OverlapHarness]:
    async with run_api_server() as server, KubeClient(server.client_config()) as kube:
        yield OverlapHarness(kube, server)


FREE = [ScriptedResponse({}, status=201), error_response(409, 'leases.coordination.k8s.io "mine" already exists')]


@pytest.mark.parametrize("free", FREE, ids=["created", "exists"])
async def test_single_release_may_lead_at_once(
    harness: OverlapHarness, free: ScriptedResponse, caplog: pytest.LogCaptureFixture
) -> None:
    assert harness.overlap.problem == CHECKING
    assert not harness.overlap.is_checked.is_set()
    assert await harness.attempt_probe(free) == ""
    assert harness.overlap.is_checked.is_set()
    [request] = harness.server.requests
    assert (request.method, request.query) == ("POST", {"dryRun": "All"})
    assert request.path == "/apis/coordination.k8s.io/v1/namespaces/home/leases"
    body = json.loads(request.body)
    assert (body["apiVersion"], body["kind"]) == ("coordination.k8s.io/v1", "Lease")
    assert body["metadata"] == {"name": "mine", "namespace": "home"}
    # The policies of other releases, also of older versions, read this text.
    assert body["spec"] == {"holderIdentity": "akv-secret-store/serves:shop,web"}
    assert not caplog.records


async def test_second_release_waits_and_names_the_leader(
    harness: OverlapHarness, caplog: pytest.LogCaptureFixture
) -> None:
    expected = f"release there/scribe serves shop, and scribe-0_ab12 leads it; {FIX}"
    assert await harness.attempt_probe(make_denial()) == expected
    for second in range(2, 100):
        renewed = f"2026-01-01T00:{second // 60:02}:{second % 60:02}.000000Z"
        assert await harness.attempt_probe(make_denial(renewed=renewed), after=10) == expected
    assert caplog.messages == [expected]


@pytest.mark.parametrize("end", [FREE[0], make_denial()], ids=["policy is deleted", "Lease is not renewed"])
async def test_second_release_takes_over_after_the_first_is_gone(
    harness: OverlapHarness, end: ScriptedResponse
) -> None:
    assert await harness.attempt_probe(make_denial())
    assert await harness.attempt_probe(end, after=patience(SETTINGS.lease_duration) - 1)
    assert await harness.attempt_probe(end, after=1) == ""


@pytest.mark.parametrize("duration", [None, 5, 15, 60, 600])
async def test_release_with_a_longer_lease_counts_as_gone_later(harness: OverlapHarness, duration: int | None) -> None:
    denial = make_denial(duration=duration)
    assert await harness.attempt_probe(denial)
    seconds = max(patience(SETTINGS.lease_duration), patience(duration or 0))
    assert await harness.attempt_probe(denial, after=seconds - 1)
    assert await harness.attempt_probe(denial, after=1) == ""


async def test_upgrade_of_the_first_release_causes_no_takeover(harness: OverlapHarness) -> None:
    assert await harness.attempt_probe(make_denial())
    for minute in range(5):  # an upgrade: no replica leads for 40 s
        assert await harness.attempt_probe(FREE[0], after=40)
        assert await harness.attempt_probe(make_denial(renewed=f"2026-01-01T00:{minute:02}:59.000000Z"), after=10)


@pytest.mark.parametrize(("other", "yields"), [("zone/a", False), ("a/zone", True), ("home/lines", True)])
async def test_one_of_two_concurrent_releases_yields(harness: OverlapHarness, other: str, yields: bool) -> None:
    assert await harness.attempt_probe(FREE[0]) == ""
    assert (await harness.attempt_probe(make_denial(other), leads=True) != "") == yields
    # A replica that does not lead waits in both cases, because its own leader decides.
    assert await harness.attempt_probe(make_denial(other, renewed="2026-01-01T00:00:02Z"), leads=False)


@pytest.mark.parametrize(("duration", "seconds"), [(5, 20), (15, 60), (60, 120), (600, 660)])
def test_patience_is_longer_than_an_upgrade_and_the_lease(duration: int, seconds: float) -> None:
    assert patience(duration) == seconds


async def test_failed_request_keeps_the_last_result(harness: OverlapHarness, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "controller.kube.overlap")
    assert await harness.attempt_probe(error_response(503)) == CHECKING
    assert [each.levelname for each in caplog.records] == ["DEBUG"]
    assert await harness.attempt_probe(FREE[0]) == ""
    assert await harness.attempt_probe(error_response(503)) == ""
    assert await harness.attempt_probe(make_denial())
    assert await harness.attempt_probe(error_response(429), after=1000)


@pytest.mark.parametrize(
    "answer",
    [
        error_response(403, 'leases is forbidden: User "x" cannot create resource "leases"'),
        error_response(400, 'admission webhook "x" does not support dry run'),
        error_response(422, "ValidatingAdmissionPolicy 'theirs' with binding 'theirs' denied request: no"),
        error_response(404),
    ],
)
async def test_release_without_an_answer_serves_and_logs_once(
    harness: OverlapHarness, answer: ScriptedResponse, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert await harness.attempt_probe(answer) == ""
        assert [each.levelname for each in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    "text",
    [
        "release x/y serves \x1b[31mall; z leads it since its renewal at 2026",
        "release x/y serves all namespaces; `curl evil` leads it since its renewal at 2026",
        "another release serves the same namespaces",
        "release x/y serves " + "a" * 900,
    ],
)
async def test_foreign_text_of_a_refusal_is_not_passed_on(harness: OverlapHarness, text: str) -> None:
    policy = "overlap.y.x"
    answer = error_response(422, f"ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: {text}")
    assert await harness.attempt_probe(answer) == f"another release serves the same namespaces; {FIX}"
    assert await harness.attempt_probe(answer, leads=True) == f"another release serves the same namespaces; {FIX}"


@pytest.mark.parametrize(
    ("unanswered", "expected"),
    [
        (0, [*range(0, 60, 10), *range(60, 420, 60), *range(420, 460, 10)]),
        (2, [0, 1, *range(2, 62, 10), *range(62, 422, 60), *range(422, 452, 10), 452]),
    ],
)
def test_probe_is_frequent_at_the_start_and_during_an_overlap(unanswered: int, expected: list[int]) -> None:
    async def main(now: Callable[[], float]) -> None:
        def clock() -> float:
            return 1000 + now()  # a monotonic clock does not begin at 0

        overlap = OverlapCheck(cast("KubeClient", None), SETTINGS, clock)
        probe_times: list[float] = []

        async def attempt(*, leads: bool) -> None:
            assert leads
            probe_times.append(clock())
            if len(probe_times) > unanswered:
                overlap.is_checked.set()
            overlap.problem = "another" if 400 <= clock() - probe_times[0] < 450 else ""

        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(overlap, "attempt", attempt)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(500):
                    await overlap.run(lambda: True)
        assert [round(moment - probe_times[0]) for moment in probe_times] == expected

    virtual_time.run_virtual(main)


async def test_process_without_an_election_sends_no_probe() -> None:
    async with run_api_server() as server, KubeClient(server.client_config()) as kube:
        harness = OverlapHarness(kube, server, Settings())
        async with asyncio.timeout(1):
            await harness.overlap.run(lambda: True)
        assert harness.overlap.may_lead
        assert harness.overlap.is_checked.is_set()
        assert server.requests == []
