"""Test leadership and readiness if another release serves the same namespaces and its policy refuses requests."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from controller.config.settings import Settings
from controller.kube.client import KubeClient
from controller.kube.overlap import CHECKING, FIX, SERVED, OverlapCheck, patience
from tests.support import virtual_time
from tests.support.scripted_api_server import ScriptedApiServer, ScriptedResponse, error_response, run_api_server

OURS = "home/mine"
SETTINGS = Settings(lease_name="mine", pod_namespace="home", watch_namespaces=("shop", "web"), lease_duration=15)


def denial(
    release: str = "there/scribe", renewed: str = "2026-01-01T00:00:01.000000Z", where: str = "shop"
) -> ScriptedResponse:
    """Return the API server's answer if another release's policy refuses a request."""
    namespace, _, name = release.partition("/")
    policy = f"overlap.{name}.{namespace}"
    return error_response(
        422,
        f"leases.coordination.k8s.io \"mine\" is forbidden: ValidatingAdmissionPolicy '{policy}' with binding"
        f" '{policy}' denied request: release {release} serves {where}; {name}-0_ab12 leads it since its renewal at"
        f" {renewed}",
    )


class Question:
    """An `OverlapCheck` with a clock that the test sets."""

    def __init__(self, kube: KubeClient, server: ScriptedApiServer, settings: Settings = SETTINGS) -> None:
        self.now = 0.0
        self.server = server
        self.overlap = OverlapCheck(kube, settings, lambda: self.now)

    async def ask(self, answer: ScriptedResponse, *, leads: bool = False, after: float = 1.0) -> str:
        """Return the readiness problem after this answer of the API server."""
        self.now += after
        self.server.default_response = lambda _: answer
        await self.overlap.attempt(leads=leads)
        assert self.overlap.may_lead == (not self.overlap.problem)
        return self.overlap.problem


@pytest.fixture
async def question() -> AsyncIterator[Question]:
    async with run_api_server() as server, KubeClient(server.client_config()) as kube:
        yield Question(kube, server)


FREE = [ScriptedResponse({}, status=201), error_response(409, 'leases.coordination.k8s.io "mine" already exists')]


@pytest.mark.parametrize("free", FREE, ids=["created", "exists"])
async def test_single_release_may_lead_at_once(
    question: Question, free: ScriptedResponse, caplog: pytest.LogCaptureFixture
) -> None:
    assert question.overlap.problem == CHECKING
    assert not question.overlap.is_checked.is_set()
    assert await question.ask(free) == ""
    assert question.overlap.is_checked.is_set()
    [asked] = question.server.requests
    assert (asked.method, asked.query) == ("POST", {"dryRun": "All"})
    assert asked.path == "/apis/coordination.k8s.io/v1/namespaces/home/leases"
    body = json.loads(asked.body)
    assert (body["apiVersion"], body["kind"]) == ("coordination.k8s.io/v1", "Lease")
    assert body["metadata"] == {"name": "mine", "namespace": "home"}
    # The policies of other releases, also of older versions, read this text.
    assert body["spec"] == {"holderIdentity": "akv-secret-store/serves:shop,web"}
    assert not caplog.records


async def test_second_release_waits_and_names_the_leader(question: Question) -> None:
    expected = f"release there/scribe serves shop, and scribe-0_ab12 leads it; {FIX}"
    assert await question.ask(denial()) == expected
    for second in range(2, 100):
        renewed = f"2026-01-01T00:{second // 60:02}:{second % 60:02}.000000Z"
        assert await question.ask(denial(renewed=renewed), after=10) == expected


@pytest.mark.parametrize("end", [FREE[0], denial()], ids=["policy is deleted", "Lease is not renewed"])
async def test_second_release_takes_over_after_the_first_is_gone(question: Question, end: ScriptedResponse) -> None:
    assert await question.ask(denial())
    assert await question.ask(end, after=patience(SETTINGS.lease_duration) - 1)
    assert await question.ask(end, after=1) == ""


async def test_upgrade_of_the_first_release_causes_no_takeover(question: Question) -> None:
    assert await question.ask(denial())
    for minute in range(5):  # an upgrade: no replica leads for 40 s
        assert await question.ask(FREE[0], after=40)
        assert await question.ask(denial(renewed=f"2026-01-01T00:{minute:02}:59.000000Z"), after=10)


@pytest.mark.parametrize(("other", "yields"), [("zone/a", False), ("a/zone", True), ("home/lines", True)])
async def test_one_of_two_concurrent_releases_yields(question: Question, other: str, yields: bool) -> None:
    assert await question.ask(FREE[0]) == ""
    assert (await question.ask(denial(other), leads=True) != "") == yields
    # A replica that does not lead waits in both cases, because its own leader decides.
    assert await question.ask(denial(other, renewed="2026-01-01T00:00:02Z"), leads=False)


@pytest.mark.parametrize(("duration", "seconds"), [(5, 20), (15, 60), (60, 120), (600, 660)])
def test_patience_outlasts_upgrades_and_the_lease(duration: int, seconds: float) -> None:
    assert patience(duration) == seconds


async def test_failed_request_keeps_the_last_result(question: Question) -> None:
    assert await question.ask(error_response(503)) == CHECKING
    assert await question.ask(FREE[0]) == ""
    assert await question.ask(error_response(503)) == ""
    assert await question.ask(denial())
    assert await question.ask(error_response(429), after=1000)


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
    question: Question, answer: ScriptedResponse, caplog: pytest.LogCaptureFixture
) -> None:
    assert await question.ask(answer) == ""
    assert await question.ask(answer) == ""
    assert len([each for each in caplog.records if each.levelname == "WARNING"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "release x/y serves \x1b[31mall; z leads it since its renewal at 2026",
        "release x/y serves all namespaces; `curl evil` leads it since its renewal at 2026",
        "another release serves the same namespaces",
        "release x/y serves " + "a" * 900,
    ],
)
async def test_foreign_text_of_a_refusal_is_not_passed_on(question: Question, text: str) -> None:
    policy = "overlap.y.x"
    answer = error_response(422, f"ValidatingAdmissionPolicy '{policy}' with binding '{policy}' denied request: {text}")
    assert await question.ask(answer) == f"{SERVED}; {FIX}"
    assert await question.ask(answer, leads=True) == f"{SERVED}; {FIX}"


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
        asked: list[float] = []

        async def attempt(*, leads: bool) -> None:
            assert leads
            asked.append(clock())
            if len(asked) > unanswered:
                overlap.is_checked.set()
            overlap.problem = "another" if 400 <= clock() - asked[0] < 450 else ""

        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(overlap, "attempt", attempt)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(500):
                    await overlap.run(lambda: True)
        assert [round(moment - asked[0]) for moment in asked] == expected

    virtual_time.run_virtual(main)


async def test_process_without_an_election_sends_no_probe() -> None:
    async with run_api_server() as server, KubeClient(server.client_config()) as kube:
        question = Question(kube, server, Settings())
        async with asyncio.timeout(1):
            await question.overlap.run(lambda: True)
        assert question.overlap.may_lead
        assert question.overlap.is_checked.is_set()
        assert server.requests == []
