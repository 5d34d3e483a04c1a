"""Test leader election in virtual time: at most one leader, a timely takeover, and an immediate release."""

import asyncio
import contextlib
import itertools
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller import errors
from controller.api.lease import Lease
from controller.kube import leader_election
from controller.kube.client import KubeClient
from controller.kube.leader_election import (
    ATTEMPT_TIMEOUT,
    LEASE_DURATION,
    RENEW_DEADLINE,
    RETRY_PERIOD,
    TAKEOVER_DELAY,
    LeaderElector,
    NoElection,
)
from tests.support import virtual_time
from tests.support.scripted_api_server import connect_to_api_server, error_response

Clock = Callable[[], float]


class FakeLeaseApi:
    """An API server with one Lease."""

    def __init__(self) -> None:
        self.version = 1
        self.spec: dict[str, Any] = {}
        self.exists = True
        self.may_create = True
        self.on_request: Callable[[], Any] = lambda: asyncio.sleep(0)

    async def call(self, method: str, _path: str, *, body: Mapping[str, Any] | None = None, **_: Any) -> bytes:
        await self.on_request()
        if method == "POST":
            self._create()
        elif not self.exists:
            raise errors.NotFound('leases "l" not found', status=404)
        if method == "PATCH":
            assert body
            if body["metadata"]["resourceVersion"] != str(self.version):
                raise errors.Conflict("the object has been modified")
            self.version += 1
            self.spec = {key: value for key, value in (self.spec | body["spec"]).items() if value is not None}
        answer = {"metadata": {"name": "l", "namespace": "n", "resourceVersion": str(self.version)}, "spec": self.spec}
        return msgspec.json.encode(answer)

    def _create(self) -> None:
        if not self.may_create:
            raise errors.Refused("no right to create leases in n", status=403)
        if self.exists:
            raise errors.Conflict("it exists")
        self.exists, self.spec = True, {}
        self.version += 1

    @property
    def holder(self) -> str:
        return str(self.spec.get("holderIdentity", ""))


class Replica:
    """One process that takes part in the election, and its terms as leader."""

    def __init__(
        self,
        api: FakeLeaseApi,
        name: str,
        clock: Clock,
        lease_seconds: int = LEASE_DURATION,
        renew_interval: float = RETRY_PERIOD,
    ) -> None:
        self.gauge: list[bool] = []
        self.may_lead = True
        self.elector = LeaderElector(
            cast("KubeClient", api),
            "n",
            "l",
            name,
            self.gauge.append,
            clock,
            lease_seconds=lease_seconds,
            renew_interval=renew_interval,
            may_lead=lambda: self.may_lead,
        )
        self.done = asyncio.Event()
        self.term_count = 0
        self.task = asyncio.ensure_future(self.elector.run(self._lead))

    async def _lead(self) -> None:
        self.term_count += 1
        await self.done.wait()

    async def kill(self) -> None:
        """End the process as SIGKILL does, without releasing the lease."""
        self.elector.kube = cast("KubeClient", FakeLeaseApi())
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


async def _hang() -> None:
    await asyncio.sleep(1000)


def make_failing_request(error: errors.KubeError) -> Callable[[], Any]:
    async def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize("later", [0.0, 0.3, 0.9, 1.3, 1.9])
@pytest.mark.parametrize("moment", [0.01, 0.5, 1.0, 1.5, 1.99])
def test_replica_takes_over_within_the_lease_time_of_a_dead_leader(moment: float, later: float) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock)
        await asyncio.sleep(later)
        second = Replica(api, "b", clock)
        await asyncio.sleep(100 + moment - later)
        assert (first.elector.leads, second.elector.leads, api.holder) == (True, False, "a")
        assert first.gauge == [True]
        assert api.spec["leaseDurationSeconds"] == LEASE_DURATION
        await first.kill()
        await asyncio.sleep(LEASE_DURATION)
        assert second.elector.leads
        assert (api.holder, api.spec["leaseTransitions"]) == ("b", 2)
        await second.kill()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("seconds", [5, 60, 600])
def test_takeover_time_is_proportional_to_the_lease_duration(seconds: int) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock, seconds)
        second = Replica(api, "b", clock, seconds)
        await asyncio.sleep(10 * seconds)
        assert (api.holder, api.spec["leaseDurationSeconds"]) == ("a", seconds)
        await first.kill()
        await asyncio.sleep(0.6 * seconds)
        assert api.holder == "a"
        await asyncio.sleep(0.6 * seconds)  # the time of a request does not change with the duration
        assert api.holder == "b"
        await second.kill()

    virtual_time.run_virtual(main)


def test_follower_with_a_shorter_duration_waits_until_the_leader_has_stopped() -> None:
    """An upgrade shortens the duration, and the leader of the earlier release loses its connection."""

    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        outage = Outage(100.0, 1000.0, "unreachable")
        first = Replica(cast("FakeLeaseApi", FaultyConnection(api, clock, [outage])), "a", clock, 60)
        await asyncio.sleep(1)
        second = Replica(api, "b", clock, 15)
        for _ in range(170):
            await asyncio.sleep(1)
            assert first.elector.leads + second.elector.leads <= 1
        assert (first.elector.leads, second.elector.leads, api.spec["leaseDurationSeconds"]) == (False, True, 15)
        await first.kill()
        await second.kill()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize(
    ("duration", "interval", "writes"), [(15, 2, 1800), (60, 15, 240), (60, 10, 360), (60, 1000, 180), (600, 150, 24)]
)
def test_leader_renews_once_per_renew_interval(duration: int, interval: float, writes: int) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        leader = Replica(api, "a", clock, duration, interval)
        await asyncio.sleep(1)
        before = api.version
        await asyncio.sleep(3600)
        assert (leader.term_count, leader.elector.leads) == (1, True)
        assert api.version - before == pytest.approx(writes, rel=0.02)  # an answer takes time as well
        await leader.kill()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("fails", [1, 2])
def test_failed_renewal_is_retried_before_the_next_interval(fails: int) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        leader = Replica(api, "a", clock, 60, 15)
        await asyncio.sleep(1)
        left = 0

        async def fail_some() -> None:
            nonlocal left
            left -= 1
            if left >= 0:
                raise errors.Unreachable("HTTP 500", status=500)

        api.on_request = fail_some
        for _ in range(20):
            left = fails
            await asyncio.sleep(60)
            assert left < 0
        assert (leader.term_count, leader.gauge) == (1, [True])
        await leader.kill()

    virtual_time.run_virtual(main)


def test_replica_that_may_not_lead_sends_no_requests() -> None:
    async def main(clock: Clock) -> None:
        api, requested_at = FakeLeaseApi(), []

        async def record() -> None:
            requested_at.append(clock())

        api.on_request = record
        replica = Replica(api, "a", clock)
        replica.may_lead = False
        await asyncio.sleep(600)
        assert requested_at == []
        await replica.kill()

    virtual_time.run_virtual(main)


def test_replica_that_may_not_lead_releases_the_lease_and_waits() -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock)
        await asyncio.sleep(30)
        first.may_lead = False
        await asyncio.sleep(RETRY_PERIOD)
        assert (first.gauge, api.holder) == ([True, False], "")
        with pytest.raises(errors.NotLeading):
            first.elector.check()
        version = api.version
        await asyncio.sleep(600)
        assert (first.term_count, api.version) == (1, version)
        first.may_lead = True
        await asyncio.sleep(RETRY_PERIOD)
        assert (first.gauge, api.holder) == ([True, False, True], "a")
        await first.kill()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("others", [0, 1, 4])
def test_missing_lease_is_created_and_one_replica_leads_at_once(others: int) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        api.exists = False
        replicas = [Replica(api, name, clock) for name in "abcde"[: 1 + others]]
        await asyncio.sleep(0.1)
        assert [replica.elector.leads for replica in replicas] == [True] + [False] * others
        await asyncio.sleep(60)
        assert sum(replica.term_count for replica in replicas) == 1
        for replica in replicas:
            assert replica.elector.problem == ""
            await replica.kill()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize(("duration", "interval", "longest"), [(15, 2, 5), (60, 15, 25)])
@pytest.mark.parametrize("later", [0.1, 0.5, 0.9])
def test_deleted_lease_causes_two_leaders_until_the_next_renewal(
    later: float, duration: int, interval: float, longest: float
) -> None:
    async def main(clock: Clock) -> float:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock, duration, interval)
        await asyncio.sleep(interval * (10 + later))
        api.exists = False
        second = Replica(api, "b", clock, duration, interval)
        both = 0.0
        for _ in range(600):
            await asyncio.sleep(0.1)
            both += 0.1 * (first.elector.leads and second.elector.leads)
        assert (first.elector.leads, second.elector.leads) == (False, True)
        await first.kill()
        await second.kill()
        return both

    assert 0 < virtual_time.run_virtual(main) <= longest


def test_leader_whose_lease_is_deleted_stops_and_creates_it(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock)
        await asyncio.sleep(30.5)
        api.exists = False
        await asyncio.sleep(2 * RETRY_PERIOD)
        first.elector.check()
        assert (first.gauge, first.term_count, api.holder) == ([True, False, True], 2, "a")
        await first.kill()

    virtual_time.run_virtual(main)
    assert [record.getMessage() for record in caplog.records] == [
        'cannot use the lease n/l: leases "l" not found',
        "not leading any more: the lease could not be renewed in time, or another process has it",
    ]


def test_replica_whose_lease_is_deleted_before_the_claim_does_not_lead() -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        requests = itertools.count(1)

        async def delete_before_the_claim() -> None:
            if next(requests) == 2:
                api.exists = False

        api.on_request = delete_before_the_claim
        first = Replica(api, "a", clock)
        await asyncio.sleep(1)
        assert (first.gauge, api.holder) == ([], "")
        await asyncio.sleep(RETRY_PERIOD)
        assert (first.gauge, api.holder) == ([True], "a")
        await first.kill()

    virtual_time.run_virtual(main)


def test_conflict_is_neither_logged_nor_a_problem(caplog: pytest.LogCaptureFixture) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock)
        api.on_request = make_failing_request(errors.Conflict("the object has been modified"))
        await asyncio.sleep(2 * LEASE_DURATION)
        assert (first.elector.problem, first.elector.leads) == ("", False)
        await first.kill()

    virtual_time.run_virtual(main)
    assert not caplog.records


def test_leader_stops_if_another_replica_recreated_its_lease() -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock)
        await asyncio.sleep(30.5)
        api.spec, api.version = {"holderIdentity": "b"}, 99
        await asyncio.sleep(2 * RETRY_PERIOD)
        assert (first.elector.leads, api.holder) == (False, "b")
        await first.kill()

    virtual_time.run_virtual(main)


def test_lease_that_cannot_be_created_is_a_problem_until_it_exists() -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        api.exists = api.may_create = False
        first = Replica(api, "a", clock)
        await asyncio.sleep(10)
        assert first.elector.problem == (
            "no replica can lead: the Lease n/l cannot be read, created or renewed (no right to create leases in n);"
            " restore the Role l of the chart, or create the Lease with kubectl"
        )
        api.exists = True
        await asyncio.sleep(RETRY_PERIOD)
        assert first.elector.problem == ""
        assert first.elector.leads
        await first.kill()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize(
    ("on_request", "after", "words"),
    [
        (
            make_failing_request(errors.Refused("no right", status=403)),
            RETRY_PERIOD,
            ["(no right)", "restore the Role l"],
        ),
        (
            make_failing_request(errors.PolicyRefused("policy 'x' refused", status=422)),
            RETRY_PERIOD,
            ["policy 'x'", "exempt the controller's ServiceAccount from it"],
        ),
        (
            make_failing_request(errors.Refused('admission webhook "x.y" denied the request: no', status=403)),
            RETRY_PERIOD,
            ['admission webhook "x.y"', "exempt the controller's ServiceAccount from it"],
        ),
        (
            make_failing_request(errors.Refused("Unauthorized", status=401)),
            RETRY_PERIOD,
            ["(Unauthorized)", "delete the pod, so that it gets a new token"],
        ),
        (
            make_failing_request(errors.NotFound("no namespace n", status=404)),
            RETRY_PERIOD,
            ["no namespace n", "restore the Role l"],
        ),
        (
            make_failing_request(errors.Unreachable("HTTP 500", status=500)),
            LEASE_DURATION,
            ["HTTP 500", "API server answers"],
        ),
        (make_failing_request(errors.AnswerTooLarge("too much")), LEASE_DURATION, ["too much", "API server answers"]),
        (
            make_failing_request(errors.ResourceExpired("gone", status=410)),
            LEASE_DURATION,
            ["gone", "API server answers"],
        ),
        (_hang, LEASE_DURATION, ["no answer in time", "API server answers"]),
    ],
    ids=["role", "policy", "webhook", "token", "namespace", "5xx", "large", "gone", "hangs"],
)
def test_lasting_lease_failure_is_a_problem_until_it_ends(
    on_request: Callable[[], Any], after: float, words: list[str]
) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        usual_request = api.on_request
        first = Replica(api, "a", clock)
        await asyncio.sleep(10)
        assert first.elector.problem == ""
        api.on_request = on_request
        if after == LEASE_DURATION:
            await asyncio.sleep(LEASE_DURATION - 3 * RETRY_PERIOD)
            assert first.elector.problem == ""
        await asyncio.sleep(2 * LEASE_DURATION)
        assert first.elector.problem.startswith("no replica can lead: the Lease n/l cannot be read, created or renewed")
        for word in words:
            assert word in first.elector.problem
        api.on_request = usual_request
        await asyncio.sleep(2 * ATTEMPT_TIMEOUT)
        assert first.elector.problem == ""
        assert first.elector.leads
        await first.kill()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize(
    ("on_request", "last_good", "text"),
    [
        # The attempts fail at 0, 2, …, 12, 13 and 15 seconds, or at 3, 8, 13 and 18 seconds.
        pytest.param(make_failing_request(errors.Unreachable("HTTP 500", status=500)), 14.9, "HTTP 500", id="fails"),
        pytest.param(_hang, 17.9, "no answer in time", id="hangs"),
    ],
)
def test_failure_from_the_start_is_a_problem_after_the_duration_of_a_lease(
    on_request: Callable[[], Any], last_good: float, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        api.on_request = on_request
        replica = Replica(api, "a", DriftingClock(clock, 1.0))
        assert replica.elector.problem == ""
        await asyncio.sleep(last_good)
        assert replica.elector.problem == ""
        await asyncio.sleep(0.2)
        assert replica.elector.problem == (
            f"no replica can lead: the Lease n/l cannot be read, created or renewed ({text});"
            " check that the API server answers, and the network connection to it"
        )
        await replica.kill()

    virtual_time.run_virtual(main)
    assert [record.getMessage() for record in caplog.records] == [f"cannot use the lease n/l: {text}"]


@pytest.mark.parametrize("lease_seconds", [5, LEASE_DURATION, 60, 3600])
def test_leader_whose_lease_cannot_be_renewed_has_no_problem_while_it_leads(lease_seconds: int) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        replica = Replica(api, "a", clock, lease_seconds=lease_seconds)
        await asyncio.sleep(0.1)
        api.on_request = make_failing_request(errors.Unreachable("HTTP 500", status=500))
        while replica.elector.leads:
            assert replica.elector.problem == ""
            await asyncio.sleep(0.5)
        await asyncio.sleep(lease_seconds)
        assert replica.elector.problem.startswith("no replica can lead")
        await replica.kill()

    virtual_time.run_virtual(main)


def test_follower_that_reads_the_lease_again_has_no_problem() -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        usual_request = api.on_request
        leader, follower = Replica(api, "a", clock), Replica(api, "b", clock)
        await asyncio.sleep(30.5)
        follower.elector.kube = cast("KubeClient", unreachable := FakeLeaseApi())
        unreachable.on_request = make_failing_request(errors.Unreachable("HTTP 500", status=500))
        await asyncio.sleep(2 * LEASE_DURATION)
        assert "HTTP 500" in follower.elector.problem
        follower.elector.kube, api.on_request = cast("KubeClient", api), usual_request
        await asyncio.sleep(RETRY_PERIOD)
        assert (follower.elector.problem, follower.elector.leads, leader.elector.leads) == ("", False, True)
        await leader.kill()
        await follower.kill()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize(
    ("delay", "attempts"),
    [
        pytest.param(0.0, [8, 10, 12, 13, 15], id="at the time of the takeover"),
        pytest.param(0.5, [8, 10, 12, 13, 15.5], id="after the time of the takeover"),
    ],
)
def test_failed_takeover_is_repeated_after_the_retry_period(delay: float, attempts: list[float]) -> None:
    async def main(clock: Clock) -> None:
        api, requested_at = FakeLeaseApi(), []
        api.spec = {"holderIdentity": "first"}

        async def fail_at_takeover() -> None:
            requested_at.append(clock())
            if clock() == TAKEOVER_DELAY:
                await asyncio.sleep(delay)
                raise errors.Unreachable("HTTP 500", status=500)

        api.on_request = fail_at_takeover
        follower = Replica(api, "b", clock)
        await asyncio.sleep(16)
        assert follower.elector.leads
        # The last attempt reads the Lease, and then takes it.
        assert requested_at[4:] == [*attempts, attempts[-1]]
        await follower.kill()

    virtual_time.run_virtual(main)


def test_follower_that_reads_the_lease_has_no_problem() -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first, second = Replica(api, "a", clock), Replica(api, "b", clock)
        await asyncio.sleep(60)
        assert (first.elector.leads, second.elector.leads) == (True, False)
        assert (first.elector.problem, second.elector.problem) == ("", "")
        await first.kill()
        await second.kill()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("way", ["ends by itself", "is cancelled", "crashes", "times out"])
def test_leader_that_ends_releases_the_lease(way: str) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first, second = Replica(api, "a", clock), Replica(api, "b", clock)
        await asyncio.sleep(30)
        if way == "is cancelled":
            first.task.cancel()
        else:
            first.done.set()
        await asyncio.sleep(RETRY_PERIOD + 0.1)
        assert second.elector.leads
        assert first.gauge == [True, False]
        with pytest.raises(errors.NotLeading):
            first.elector.check()
        second.elector.check()
        await second.kill()

    async def crash_main(clock: Clock) -> None:
        api = FakeLeaseApi()

        async def crash() -> None:
            await asyncio.sleep(5)
            raise error

        with pytest.raises(type(error), match="a bug"):
            await LeaderElector(cast("KubeClient", api), "n", "l", "a", print, clock).run(crash)
        assert api.holder == ""

    error = TimeoutError("a bug") if way == "times out" else RuntimeError("a bug")
    virtual_time.run_virtual(crash_main if way in ("crashes", "times out") else main)


def test_leader_that_ended_does_not_renew_the_lease() -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock)
        await asyncio.sleep(30.5)
        first.done.set()
        await first.task
        version = api.version
        await asyncio.sleep(60)
        assert (api.holder, api.version, first.elector.leads) == ("", version, False)

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("lease_seconds", [15, 60, 3600])
def test_hanging_release_ends_long_before_the_kubelet_kills_the_process(lease_seconds: int) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock, lease_seconds)
        await asyncio.sleep(30.5)
        api.on_request = _hang
        first.done.set()
        await first.task
        assert clock() == 30.5 + ATTEMPT_TIMEOUT

    virtual_time.run_virtual(main)


def test_hanging_release_ends_in_proportion_to_a_shorter_lease() -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock, 5)
        await asyncio.sleep(30.5)
        api.on_request = _hang
        first.done.set()
        await first.task
        assert clock() == 30.5 + ATTEMPT_TIMEOUT / 3

    virtual_time.run_virtual(main)


def test_replica_that_takes_over_a_released_lease_logs_only_that_it_leads(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first, second = Replica(api, "a", clock), Replica(api, "b", clock)
        await asyncio.sleep(30.5)
        first.done.set()
        await asyncio.sleep(RETRY_PERIOD)
        assert second.elector.leads
        await second.kill()

    virtual_time.run_virtual(main)
    assert [(record.msg, record.__dict__["fields"]) for record in caplog.records] == [
        ("leading", {"identity": "a"}),
        ("following", {"leader": "a"}),
        ("leading", {"identity": "b"}),
    ]


def test_replica_cancelled_while_it_acquires_the_lease_releases_it() -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock)
        call = api.call

        async def slow_answers(*args: Any, **options: Any) -> bytes:
            answer = await call(*args, **options)
            await asyncio.sleep(1)
            return answer

        first.elector.kube = cast("KubeClient", SimpleNamespace(call=slow_answers))
        await asyncio.sleep(1.5)
        assert (api.holder, first.term_count) == ("a", 0)  # the lease is granted, but the replica has no answer yet
        first.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first.task
        assert api.holder == ""

    virtual_time.run_virtual(main)


def test_leader_that_cannot_renew_stops_in_time_and_leads_again_later() -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock)
        await asyncio.sleep(30)

        api.on_request = lambda: asyncio.sleep(60)  # longer than any attempt waits
        await asyncio.sleep(RENEW_DEADLINE + 0.1)
        assert first.gauge == [True, False]
        with pytest.raises(errors.NotLeading):
            first.elector.check()
        api.on_request = lambda: asyncio.sleep(0)
        await asyncio.sleep(ATTEMPT_TIMEOUT + RETRY_PERIOD + 0.1)
        first.elector.check()
        assert (first.gauge, first.term_count) == ([True, False, True], 2)
        await first.kill()

    virtual_time.run_virtual(main)


def test_short_outage_or_foreign_edit_of_the_lease_changes_no_leader() -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first, second = Replica(api, "a", clock), Replica(api, "b", clock)
        await asyncio.sleep(30)
        for _ in range(20):
            api.version += 1  # for example, an edit of a label
            await asyncio.sleep(3)
        api.on_request = lambda: asyncio.sleep(60)  # longer than any attempt waits
        await asyncio.sleep(RENEW_DEADLINE - RETRY_PERIOD - 3.5)
        api.on_request = lambda: asyncio.sleep(0)
        await asyncio.sleep(60)
        assert (first.term_count, second.term_count) == (1, 0)
        await first.kill()
        await second.kill()

    virtual_time.run_virtual(main)


def test_change_of_the_holder_restarts_the_followers_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")

    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        api.spec = {"holderIdentity": "first", "leaseTransitions": 3}
        waiting = Replica(api, "b", clock)
        await asyncio.sleep(11.5)
        api.version += 1
        api.spec |= {"holderIdentity": "second"}
        await asyncio.sleep(1)  # the attempt at 12 s sees the change
        assert TAKEOVER_DELAY == 13
        await asyncio.sleep(12 + 13 - 12.5 - 0.1)
        assert (api.holder, waiting.elector.leads, waiting.gauge) == ("second", False, [])
        await asyncio.sleep(0.2)
        assert (api.holder, waiting.elector.leads, waiting.gauge) == ("b", True, [True])
        assert api.spec["leaseTransitions"] == 4
        await waiting.kill()

    virtual_time.run_virtual(main)
    following = [record.__dict__["fields"]["leader"] for record in caplog.records if record.msg == "following"]
    assert following == ["first", "second"]


def test_follower_that_ends_does_not_release_the_leaders_lease(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        leader, follower = Replica(api, "a", clock), Replica(api, "b", clock)
        await asyncio.sleep(30.5)  # between two renewals, so that a release would not conflict with one
        follower.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await follower.task
        assert (api.holder, leader.elector.leads, follower.gauge) == ("a", True, [])
        await leader.kill()

    virtual_time.run_virtual(main)
    # Renewals are not logged, and only the follower logs that it follows.
    assert [record.msg for record in caplog.records] == ["leading", "following"]


def test_leader_renews_every_2_s_and_stops_10_s_after_the_last_renewal() -> None:
    async def main(clock: Clock) -> None:
        api, requested_at = FakeLeaseApi(), []

        def answer(seconds: float) -> Callable[[], Any]:
            def on_request() -> Any:
                requested_at.append(clock())
                return asyncio.sleep(seconds)

            return on_request

        api.on_request = answer(0)
        first = Replica(api, "a", clock)
        await asyncio.sleep(10.5)
        assert requested_at == pytest.approx(
            [0, 0, 2, 4, 6, 8, 10]
        )  # the leader does not read the lease that it wrote itself
        requested_at.clear()
        api.on_request = answer(60)
        await asyncio.sleep(9.4)
        assert (first.elector.leads, first.gauge) == (True, [True])
        await asyncio.sleep(0.2)
        assert (first.elector.leads, first.gauge) == (False, [True, False])
        # An attempt times out after three seconds. After the end of the term, the next attempt starts at once.
        assert requested_at == pytest.approx([12, 17, 20])
        await first.kill()

    virtual_time.run_virtual(main)


def test_lease_has_holder_duration_transitions_and_times() -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        api.spec = {"holderIdentity": "", "leaseTransitions": 7}
        first = Replica(api, "a", clock)
        await asyncio.sleep(1)
        taken = dict(api.spec)
        assert taken["holderIdentity"] == "a"
        assert taken["leaseDurationSeconds"] == 15
        assert taken["leaseTransitions"] == 8
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", taken["renewTime"])
        assert taken["acquireTime"] == taken["renewTime"]
        await asyncio.sleep(10)
        assert api.spec == taken | {"renewTime": api.spec["renewTime"]}
        assert api.spec["renewTime"] > taken["renewTime"]
        await first.kill()

    virtual_time.run_virtual(main)


def test_times_of_a_lease_have_microseconds_even_if_they_are_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    monkeypatch.setattr(leader_election, "datetime", SimpleNamespace(now=noon.astimezone))

    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock)
        await asyncio.sleep(1)
        assert api.spec["renewTime"] == api.spec["acquireTime"] == "2030-01-01T12:00:00.000000Z"
        await first.kill()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize(
    ("before", "after"),
    [(2_147_483_645, 2_147_483_646), (2_147_483_646, 2_147_483_647), (2_147_483_647, 2_147_483_647)],
)
def test_lease_with_a_large_number_of_transitions_is_taken(before: int, after: int) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        api.spec = {"holderIdentity": "", "leaseTransitions": before}
        first = Replica(api, "a", clock)
        await asyncio.sleep(1)
        assert (api.holder, api.spec["leaseTransitions"]) == ("a", after)
        await first.kill()

    virtual_time.run_virtual(main)


def test_each_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "controller.kube.leader_election")

    def unreachable() -> None:
        raise errors.Unreachable("the Kubernetes API cannot be reached")

    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        first = Replica(api, "a", clock)
        await asyncio.sleep(30)
        for on_request in (unreachable, lambda: asyncio.sleep(60)):
            api.on_request = on_request
            await asyncio.sleep(20)
            api.on_request = lambda: asyncio.sleep(0)
            await asyncio.sleep(30)
        api.on_request = unreachable
        first.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first.task
        assert first.gauge == [True, False] * 3

    virtual_time.run_virtual(main)
    lost = "not leading any more: the lease could not be renewed in time, or another process has it"
    assert [record.getMessage() for record in caplog.records] == [
        "leading",
        "cannot use the lease n/l: the Kubernetes API cannot be reached",
        lost,
        "leading",
        "cannot use the lease n/l: no answer in time",
        lost,
        "leading",
        "cannot use the lease n/l: the Kubernetes API cannot be reached",
        "the lease was not released (Unreachable): it expires by itself",
    ]


async def test_process_without_an_election_always_leads() -> None:
    gauge: list[bool] = []
    leader = NoElection(gauge.append)
    assert (leader.leads, leader.problem) == (False, "")

    async def lead() -> None:
        leader.check()
        assert leader.leads
        gauge.append(False)

    await leader.run(lead)
    assert gauge == [True, False]


class DriftingClock:
    """The clock of one process, which runs a little faster or slower than the others."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock, self._rate = clock, rate

    def __call__(self) -> float:
        return 1000.0 + self._clock() * self._rate


class Outage(msgspec.Struct, frozen=True):
    """A fault of one replica's requests that lasts for some time."""

    begin: float
    seconds: float
    kind: str


class FaultyConnection:
    """The connection of one replica to the API server, with outages."""

    def __init__(self, api: FakeLeaseApi, clock: Clock, outages: list[Outage]) -> None:
        self._api, self._clock, self._outages = api, clock, outages

    async def call(self, *args: Any, **options: Any) -> bytes:
        now = self._clock()
        kind = next(
            (outage.kind for outage in self._outages if outage.begin <= now < outage.begin + outage.seconds), ""
        )
        if kind == "unreachable":
            raise errors.Unreachable("the Kubernetes API cannot be reached")
        if kind == "late":
            # The replica gives up before the answer, but the API server still handles the request.
            return await asyncio.shield(asyncio.ensure_future(self._call_later(*args, **options)))
        answer = await self._api.call(*args, **options)
        if kind == "lost answers":
            raise errors.Unreachable("the Kubernetes API did not answer in time")
        if kind == "slow":
            await asyncio.sleep(2.9)
        return answer

    async def _call_later(self, *args: Any, **options: Any) -> bytes:
        await asyncio.sleep(5)
        with contextlib.suppress(errors.Conflict):
            return await self._api.call(*args, **options)
        return b""


OUTAGES = st.lists(
    st.builds(
        Outage,
        begin=st.floats(0, 60),
        seconds=st.floats(0, 40),
        kind=st.sampled_from(["unreachable", "lost answers", "late", "slow"]),
    ),
    max_size=4,
)
REPLICA = st.tuples(st.floats(0.9, 1.1), OUTAGES)


@given(st.tuples(REPLICA, REPLICA, REPLICA))
@example(((1.0, []), (0.9, [Outage(20.0, 40.0, "unreachable")]), (1.1, [])))
@example(((0.9, [Outage(20.0, 40.0, "unreachable")]), (1.1, []), (1.1, [])))
@example(((0.9, [Outage(20.0, 1.0, "slow"), Outage(21.0, 40.0, "unreachable")]), (1.1, []), (1.1, [])))
def test_at_most_one_replica_leads_despite_clock_drift_and_outages(
    replicas: tuple[tuple[float, list[Outage]], ...],
) -> None:
    async def main(clock: Clock) -> None:
        api = FakeLeaseApi()
        running = [
            Replica(
                cast("FakeLeaseApi", FaultyConnection(api, clock, outages)), str(number), DriftingClock(clock, rate)
            )
            for number, (rate, outages) in enumerate(replicas)
        ]
        for _ in range(480):
            await asyncio.sleep(0.25)
            assert sum(replica.elector.leads for replica in running) <= 1
        await asyncio.sleep(60)
        assert sum(replica.elector.leads for replica in running) == 1
        for replica in running:
            await replica.kill()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize(("seconds", "leads"), [(9.4, True), (9.5, False), (60, False)])
def test_process_that_resumes_at_its_deadline_sends_nothing(seconds: float, leads: bool) -> None:
    """Simulate SIGSTOP and SIGCONT: time passes, but no timer of the process runs."""

    async def main(clock: Clock) -> None:
        api, slept = FakeLeaseApi(), [0.0]
        first = Replica(api, "a", lambda: clock() + slept[0])
        await asyncio.sleep(30.5)  # half a second after a renewal
        first.elector.check()
        slept[0] = seconds
        with contextlib.nullcontext() if leads else pytest.raises(errors.NotLeading) as caught:
            first.elector.check()
        if caught:
            assert caught.value.message == (
                "this process does not lead any more, so it sent nothing; the new leader continues"
            )
        await first.kill()

    virtual_time.run_virtual(main)


def test_followers_wait_longer_than_a_leader_holds_the_lease() -> None:
    assert RENEW_DEADLINE * 1.25 <= TAKEOVER_DELAY
    assert TAKEOVER_DELAY + RETRY_PERIOD <= LEASE_DURATION


async def test_fenced_connection_reads_but_does_not_write() -> None:
    async with connect_to_api_server() as (server, kube):
        server.add_responses({"metadata": {"name": "l"}}, error_response(404))

        def check() -> None:
            raise errors.NotLeading("no")

        with_fence = kube.with_fence(check)
        assert msgspec.json.decode(await with_fence.call("GET", "/x"), type=Lease).metadata.name == "l"
        for method in ("POST", "PATCH", "PUT", "DELETE"):
            with pytest.raises(errors.NotLeading):
                await with_fence.call(method, "/x", body={})
        with pytest.raises(errors.NotFound):
            await kube.call("POST", "/x", body={})
        assert [request.method for request in server.requests] == ["GET", "POST"]


async def test_missing_lease_is_created_by_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with connect_to_api_server() as (server, kube):
        found = {"metadata": {"name": "l", "namespace": "n", "uid": "u", "resourceVersion": "7"}}
        taken = found | {"spec": {"holderIdentity": "me"}}
        server.add_responses(error_response(404), found, found, taken, taken)
        elector = LeaderElector(kube, "n", "l", "me", print)

        async def lead() -> None:
            elector.check()

        await elector.run(lead)
        leases = "/apis/coordination.k8s.io/v1/namespaces/n/leases"
        assert [(request.method, request.path) for request in server.requests] == [
            ("GET", f"{leases}/l"),
            ("POST", leases),
            ("GET", f"{leases}/l"),
            ("PATCH", f"{leases}/l"),
            ("PATCH", f"{leases}/l"),
        ]
        assert msgspec.json.decode(server.requests[1].body) == {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "l", "namespace": "n"},
        }
    assert [(record.msg, record.__dict__["fields"]) for record in caplog.records] == [
        ("created the lease", {"lease": "n/l"}),
        ("leading", {"identity": "me"}),
    ]


async def test_lease_is_read_and_patched_by_name_with_a_precondition() -> None:
    async with connect_to_api_server() as (server, kube):
        found = {"metadata": {"name": "l", "namespace": "n", "uid": "u", "resourceVersion": "7"}}
        taken = found | {"spec": {"holderIdentity": "me"}}
        server.add_responses(found, taken, taken)
        elector = LeaderElector(kube, "n", "l", "me", print)

        async def lead() -> None:
            elector.check()

        await elector.run(lead)
        get, claim, release = server.requests
        assert {request.path for request in server.requests} == {"/apis/coordination.k8s.io/v1/namespaces/n/leases/l"}
        assert [get.method, claim.method, release.method] == ["GET", "PATCH", "PATCH"]
        body = msgspec.json.decode(claim.body)
        assert body["metadata"] == {"uid": "u", "resourceVersion": "7"}
        assert body["spec"]["holderIdentity"] == "me"
        assert msgspec.json.decode(release.body)["spec"] == {"holderIdentity": None}
