"""The election, in virtual time: never two leaders, a dead one replaced in time, a lease given back at once."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from controller import errors
from controller.api.lease import Lease
from controller.kube.client import KubeClient
from controller.kube.leader_election import ATTEMPT, HOLD, LEASE_SECONDS, PATIENCE, RETRY, LeaderElector, NoElection
from tests.support import virtual_time
from tests.support.scripted_api_server import connect_to_api_server, error_response

Clock = Callable[[], float]


class Api:
    """One Lease, kept as the API server keeps it."""

    def __init__(self) -> None:
        self.version = 1
        self.spec: dict[str, Any] = {}
        self.exists = True
        self.may_create = True
        self.trouble: Callable[[], Any] = lambda: asyncio.sleep(0)

    async def call(self, method: str, _path: str, *, body: Mapping[str, Any] | None = None, **_: Any) -> bytes:
        await self.trouble()
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
    """One process: what it would send, and when it led."""

    def __init__(
        self, api: Api, name: str, clock: Clock, lease_seconds: int = LEASE_SECONDS, renew_interval: float = RETRY
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
        self.led = 0
        self.task = asyncio.ensure_future(self.elector.run(self._lead))

    async def _lead(self) -> None:
        self.led += 1
        await self.done.wait()

    async def dies(self) -> None:
        """As by SIGKILL: nothing is given back."""
        self.elector.kube = cast("KubeClient", Api())
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@pytest.mark.parametrize("later", [0.0, 0.3, 0.9, 1.3, 1.9])
@pytest.mark.parametrize("moment", [0.01, 0.5, 1.0, 1.5, 1.99])
def test_one_leads_and_when_it_dies_the_other_takes_over_within_the_lease_time(moment: float, later: float) -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        first = Replica(api, "a", clock)
        await asyncio.sleep(later)
        second = Replica(api, "b", clock)
        await asyncio.sleep(100 + moment - later)
        assert (first.elector.leads, second.elector.leads, api.holder) == (True, False, "a")
        assert first.gauge == [True]
        assert api.spec["leaseDurationSeconds"] == LEASE_SECONDS
        await first.dies()
        await asyncio.sleep(LEASE_SECONDS)
        assert second.elector.leads
        assert (api.holder, api.spec["leaseTransitions"]) == ("b", 2)
        await second.dies()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("seconds", [5, 60, 600])
def test_another_lease_duration_changes_all_times_in_proportion(seconds: int) -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        first = Replica(api, "a", clock, seconds)
        second = Replica(api, "b", clock, seconds)
        await asyncio.sleep(10 * seconds)
        assert (api.holder, api.spec["leaseDurationSeconds"]) == ("a", seconds)
        await first.dies()
        await asyncio.sleep(0.6 * seconds)
        assert api.holder == "a"
        await asyncio.sleep(0.6 * seconds)  # the time of a request does not change with the duration
        assert api.holder == "b"
        await second.dies()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize(
    ("duration", "interval", "writes"), [(15, 2, 1800), (60, 15, 240), (60, 10, 360), (60, 1000, 180), (600, 150, 24)]
)
def test_leader_renews_once_in_the_interval_it_is_given(duration: int, interval: float, writes: int) -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        leader = Replica(api, "a", clock, duration, interval)
        await asyncio.sleep(1)
        before = api.version
        await asyncio.sleep(3600)
        assert (leader.led, leader.elector.leads) == (1, True)
        assert api.version - before == pytest.approx(writes, rel=0.02)  # an answer takes time, too
        await leader.dies()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("fails", [1, 2])
def test_rare_renewal_that_fails_is_tried_again_soon(fails: int) -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        leader = Replica(api, "a", clock, 60, 15)
        await asyncio.sleep(1)
        left = 0

        async def fail_some() -> None:
            nonlocal left
            left -= 1
            if left >= 0:
                raise errors.Unreachable("HTTP 500", status=500)

        api.trouble = fail_some
        for _ in range(20):
            left = fails
            await asyncio.sleep(60)
            assert left < 0
        assert (leader.led, leader.gauge) == (1, [True])
        await leader.dies()

    virtual_time.run_virtual(main)


def test_replica_that_may_not_lead_gives_the_lease_back_and_waits() -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        first = Replica(api, "a", clock)
        await asyncio.sleep(30)
        first.may_lead = False
        await asyncio.sleep(RETRY)
        assert (first.gauge, api.holder) == ([True, False], "")
        with pytest.raises(errors.NotLeading):
            first.elector.check()
        version = api.version
        await asyncio.sleep(600)
        assert (first.led, api.version) == (1, version)
        first.may_lead = True
        await asyncio.sleep(RETRY)
        assert (first.gauge, api.holder) == ([True, False, True], "a")
        await first.dies()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("others", [0, 1, 4])
def test_missing_lease_is_created_and_one_leads_at_once(others: int) -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        api.exists = False
        replicas = [Replica(api, name, clock) for name in "abcde"[: 1 + others]]
        await asyncio.sleep(0.1)
        assert [replica.elector.leads for replica in replicas] == [True] + [False] * others
        await asyncio.sleep(60)
        assert sum(replica.led for replica in replicas) == 1
        for replica in replicas:
            assert replica.elector.problem == ""
            await replica.dies()

    virtual_time.run_virtual(main)


def test_leader_whose_lease_is_deleted_stops_and_creates_it() -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        first = Replica(api, "a", clock)
        await asyncio.sleep(30.5)
        api.exists = False
        await asyncio.sleep(2 * RETRY)
        first.elector.check()
        assert (first.gauge, first.led, api.holder) == ([True, False, True], 2, "a")
        await first.dies()

    virtual_time.run_virtual(main)


def test_leader_whose_deleted_lease_another_created_stops_at_its_next_renewal() -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        first = Replica(api, "a", clock)
        await asyncio.sleep(30.5)
        api.spec, api.version = {"holderIdentity": "b"}, 99
        await asyncio.sleep(2 * RETRY)
        assert (first.elector.leads, api.holder) == (False, "b")
        await first.dies()

    virtual_time.run_virtual(main)


def test_lease_that_can_neither_be_read_nor_created_is_a_problem_until_it_is_there() -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        api.exists = api.may_create = False
        first = Replica(api, "a", clock)
        await asyncio.sleep(10)
        assert first.elector.problem == (
            "no replica can lead: the Lease n/l cannot be read, created or renewed (no right to create leases in n);"
            " restore the Role l of the chart, or create the Lease with kubectl"
        )
        api.exists = True
        await asyncio.sleep(RETRY)
        assert first.elector.problem == ""
        assert first.elector.leads
        await first.dies()

    virtual_time.run_virtual(main)


async def _hang() -> None:
    await asyncio.sleep(1000)


def raising(error: errors.KubeError) -> Callable[[], Any]:
    async def fail() -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("trouble", "after", "words"),
    [
        (raising(errors.Refused("no right", status=403)), RETRY, ["(no right)", "restore the Role l"]),
        (raising(errors.PolicyRefused("policy 'x' refused", status=422)), RETRY, ["policy 'x'", "restore the Role l"]),
        (raising(errors.NotFound("no namespace n", status=404)), RETRY, ["no namespace n", "restore the Role l"]),
        (raising(errors.Unreachable("HTTP 500", status=500)), LEASE_SECONDS, ["HTTP 500", "API server answers"]),
        (raising(errors.AnswerTooLarge("too much")), LEASE_SECONDS, ["too much", "API server answers"]),
        (raising(errors.ResourceExpired("gone", status=410)), LEASE_SECONDS, ["gone", "API server answers"]),
        (_hang, LEASE_SECONDS, ["no answer in time", "API server answers"]),
    ],
    ids=["role", "policy", "namespace", "5xx", "large", "gone", "hangs"],
)
def test_every_lasting_failure_of_the_lease_is_a_problem_until_it_passes(
    trouble: Callable[[], Any], after: float, words: list[str]
) -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        working = api.trouble
        first = Replica(api, "a", clock)
        await asyncio.sleep(10)
        assert first.elector.problem == ""
        api.trouble = trouble
        if after == LEASE_SECONDS:
            await asyncio.sleep(LEASE_SECONDS - 3 * RETRY)
            assert first.elector.problem == ""
        await asyncio.sleep(2 * LEASE_SECONDS)
        assert first.elector.problem.startswith("no replica can lead: the Lease n/l cannot be read, created or renewed")
        for word in words:
            assert word in first.elector.problem
        api.trouble = working
        await asyncio.sleep(2 * ATTEMPT)
        assert first.elector.problem == ""
        assert first.elector.leads
        await first.dies()

    virtual_time.run_virtual(main)


def test_follower_that_reads_the_lease_of_another_has_no_problem() -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        first, second = Replica(api, "a", clock), Replica(api, "b", clock)
        await asyncio.sleep(60)
        assert (first.elector.leads, second.elector.leads) == (True, False)
        assert (first.elector.problem, second.elector.problem) == ("", "")
        await first.dies()
        await second.dies()

    virtual_time.run_virtual(main)


@pytest.mark.parametrize("way", ["it ends by itself", "it is cancelled", "it crashes"])
def test_a_leader_that_ends_gives_the_lease_back(way: str) -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        first, second = Replica(api, "a", clock), Replica(api, "b", clock)
        await asyncio.sleep(30)
        if way == "it is cancelled":
            first.task.cancel()
        else:
            first.done.set()
        await asyncio.sleep(RETRY + 0.1)
        assert second.elector.leads
        assert first.gauge == [True, False]
        with pytest.raises(errors.NotLeading):
            first.elector.check()
        second.elector.check()
        await second.dies()

    async def crashing(clock: Clock) -> None:
        api = Api()

        async def crash() -> None:
            await asyncio.sleep(5)
            raise RuntimeError("a bug")

        with pytest.raises(RuntimeError, match="a bug"):
            await LeaderElector(cast("KubeClient", api), "n", "l", "a", print, clock).run(crash)
        assert api.holder == ""

    virtual_time.run_virtual(crashing if way == "it crashes" else main)


def test_one_who_is_stopped_in_the_moment_of_taking_it_gives_it_back() -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        first = Replica(api, "a", clock)
        way = api.call

        async def slow_answers(*args: Any, **options: Any) -> bytes:
            answer = await way(*args, **options)
            await asyncio.sleep(1)
            return answer

        first.elector.kube = cast("KubeClient", SimpleNamespace(call=slow_answers))
        await asyncio.sleep(1.5)
        assert (api.holder, first.led) == ("a", 0)  # it was granted, and the answer is on its way
        first.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first.task
        assert api.holder == ""

    virtual_time.run_virtual(main)


def test_a_leader_that_cannot_renew_stops_in_time_and_leads_again_afterwards() -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        first = Replica(api, "a", clock)
        await asyncio.sleep(30)

        api.trouble = lambda: asyncio.sleep(60)  # longer than any attempt waits
        await asyncio.sleep(HOLD + 0.1)
        assert first.gauge == [True, False]
        with pytest.raises(errors.NotLeading):
            first.elector.check()
        api.trouble = lambda: asyncio.sleep(0)
        await asyncio.sleep(ATTEMPT + RETRY + 0.1)
        first.elector.check()
        assert (first.gauge, first.led) == ([True, False, True], 2)
        await first.dies()

    virtual_time.run_virtual(main)


def test_a_short_outage_and_a_stranger_that_touches_the_lease_change_nothing() -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        first, second = Replica(api, "a", clock), Replica(api, "b", clock)
        await asyncio.sleep(30)
        for _ in range(20):
            api.version += 1  # a label, say
            await asyncio.sleep(3)
        api.trouble = lambda: asyncio.sleep(60)  # longer than any attempt waits
        await asyncio.sleep(HOLD - RETRY - 3.5)
        api.trouble = lambda: asyncio.sleep(0)
        await asyncio.sleep(60)
        assert (first.led, second.led) == (1, 0)
        await first.dies()
        await second.dies()

    virtual_time.run_virtual(main)


def test_a_holder_that_changes_while_another_waits_has_the_whole_time_from_then_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")

    async def main(clock: Clock) -> None:
        api = Api()
        api.spec = {"holderIdentity": "first", "leaseTransitions": 3}
        waiting = Replica(api, "b", clock)
        await asyncio.sleep(11.5)
        api.version += 1
        api.spec |= {"holderIdentity": "second"}
        await asyncio.sleep(1)  # the attempt at 12 s sees the change
        assert PATIENCE == 13
        await asyncio.sleep(12 + 13 - 12.5 - 0.1)
        assert (api.holder, waiting.elector.leads, waiting.gauge) == ("second", False, [])
        await asyncio.sleep(0.2)
        assert (api.holder, waiting.elector.leads, waiting.gauge) == ("b", True, [True])
        assert api.spec["leaseTransitions"] == 4
        await waiting.dies()

    virtual_time.run_virtual(main)
    following = [record.__dict__["fields"]["leader"] for record in caplog.records if record.msg == "following"]
    assert following == ["first", "second"]


def test_a_follower_that_ends_leaves_the_lease_of_the_other(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    async def main(clock: Clock) -> None:
        api = Api()
        leader, follower = Replica(api, "a", clock), Replica(api, "b", clock)
        await asyncio.sleep(30)
        follower.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await follower.task
        assert (api.holder, leader.elector.leads, follower.gauge) == ("a", True, [])
        await leader.dies()

    virtual_time.run_virtual(main)
    # Its renewals are no news, and the follower is the only one that follows.
    assert [record.msg for record in caplog.records] == ["leading", "following"]


def test_a_lease_is_renewed_every_two_seconds_and_led_for_ten_after_the_last_renewal() -> None:
    async def main(clock: Clock) -> None:
        api, asked = Api(), []

        def answer(seconds: float) -> Callable[[], Any]:
            def trouble() -> Any:
                asked.append(clock())
                return asyncio.sleep(seconds)

            return trouble

        api.trouble = answer(0)
        first = Replica(api, "a", clock)
        await asyncio.sleep(10.5)
        assert asked == pytest.approx([0, 0, 2, 4, 6, 8, 10])  # what it wrote itself need not be read again
        asked.clear()
        api.trouble = answer(60)
        await asyncio.sleep(9.4)
        assert (first.elector.leads, first.gauge) == (True, [True])
        await asyncio.sleep(0.2)
        assert (first.elector.leads, first.gauge) == (False, [True, False])
        # An attempt is given up after three seconds; and once the term has ended, the next one begins at once.
        assert asked == pytest.approx([12, 17, 20])
        await first.dies()

    virtual_time.run_virtual(main)


def test_what_the_lease_says() -> None:
    async def main(clock: Clock) -> None:
        api = Api()
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
        await first.dies()

    virtual_time.run_virtual(main)


def test_each_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "controller.kube.leader_election")

    def unreachable() -> None:
        raise errors.Unreachable("the Kubernetes API cannot be reached")

    async def main(clock: Clock) -> None:
        api = Api()
        first = Replica(api, "a", clock)
        await asyncio.sleep(30)
        for trouble in (unreachable, lambda: asyncio.sleep(60)):
            api.trouble = trouble
            await asyncio.sleep(20)
            api.trouble = lambda: asyncio.sleep(0)
            await asyncio.sleep(30)
        api.trouble = unreachable
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


async def test_a_process_without_a_lease_leads_always() -> None:
    gauge: list[bool] = []
    leader = NoElection(gauge.append)
    assert not leader.leads

    async def lead() -> None:
        leader.check()
        assert leader.leads
        gauge.append(False)

    await leader.run(lead)
    assert gauge == [True, False]


class Drifting:
    """A process's own clock: it goes a little faster or slower than time does."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock, self._rate = clock, rate

    def __call__(self) -> float:
        return 1000.0 + self._clock() * self._rate


class Outage(msgspec.Struct, frozen=True):
    """What one replica's requests meet for some time."""

    begin: float
    seconds: float
    kind: str


class Way:
    """One replica's own way to the API."""

    def __init__(self, api: Api, clock: Clock, outages: list[Outage]) -> None:
        self._api, self._clock, self._outages = api, clock, outages

    async def call(self, *args: Any, **options: Any) -> bytes:
        now = self._clock()
        kind = next((o.kind for o in self._outages if o.begin <= now < o.begin + o.seconds), "")
        if kind == "no way":
            raise errors.Unreachable("the Kubernetes API cannot be reached")
        if kind == "late":
            # Whoever asked has given up by then; what was asked for is done all the same.
            return await asyncio.shield(asyncio.ensure_future(self._later(*args, **options)))
        answer = await self._api.call(*args, **options)
        if kind == "answers are lost":
            raise errors.Unreachable("the Kubernetes API did not answer in time")
        if kind == "slow":
            await asyncio.sleep(2.9)
        return answer

    async def _later(self, *args: Any, **options: Any) -> bytes:
        await asyncio.sleep(5)
        with contextlib.suppress(errors.Conflict):
            return await self._api.call(*args, **options)
        return b""


OUTAGES = st.lists(
    st.builds(
        Outage,
        begin=st.floats(0, 60),
        seconds=st.floats(0, 40),
        kind=st.sampled_from(["no way", "answers are lost", "late", "slow"]),
    ),
    max_size=4,
)
REPLICA = st.tuples(st.floats(0.9, 1.1), OUTAGES)


@given(st.tuples(REPLICA, REPLICA, REPLICA))
@example(((1.0, []), (0.9, [Outage(20.0, 40.0, "no way")]), (1.1, [])))
@example(((0.9, [Outage(20.0, 40.0, "no way")]), (1.1, []), (1.1, [])))
@example(((0.9, [Outage(20.0, 1.0, "slow"), Outage(21.0, 40.0, "no way")]), (1.1, []), (1.1, [])))
def test_never_two_lead_whatever_clocks_and_network_do(replicas: tuple[tuple[float, list[Outage]], ...]) -> None:
    async def main(clock: Clock) -> None:
        api = Api()
        running = [
            Replica(cast("Api", Way(api, clock, outages)), str(number), Drifting(clock, rate))
            for number, (rate, outages) in enumerate(replicas)
        ]
        for _ in range(480):
            await asyncio.sleep(0.25)
            assert sum(replica.elector.leads for replica in running) <= 1
        await asyncio.sleep(60)
        assert sum(replica.elector.leads for replica in running) == 1
        for replica in running:
            await replica.dies()

    virtual_time.run_virtual(main)


def test_a_sleeper_wakes_past_its_deadline_and_sends_nothing() -> None:
    """SIGSTOP and SIGCONT: no timer of its own has run in between, only time has passed."""

    async def main(clock: Clock) -> None:
        api, slept = Api(), [0.0]
        first = Replica(api, "a", lambda: clock() + slept[0])
        await asyncio.sleep(30)
        first.elector.check()
        slept[0] = HOLD
        with pytest.raises(errors.NotLeading):
            first.elector.check()
        await first.dies()

    virtual_time.run_virtual(main)


def test_followers_wait_long_enough() -> None:
    assert HOLD * 1.25 <= PATIENCE
    assert PATIENCE + RETRY <= LEASE_SECONDS


async def test_a_fenced_connection_reads_and_does_not_write() -> None:
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
        assert [asked.method for asked in server.requests] == ["GET", "POST"]


async def test_the_lease_is_read_and_patched_by_its_name_with_a_precondition() -> None:
    async with connect_to_api_server() as (server, kube):
        found = {"metadata": {"name": "l", "namespace": "n", "uid": "u", "resourceVersion": "7"}}
        taken = found | {"spec": {"holderIdentity": "me"}}
        server.add_responses(found, taken, taken)
        elector = LeaderElector(kube, "n", "l", "me", print)

        async def lead() -> None:
            elector.check()

        await elector.run(lead)
        get, take, give = server.requests
        assert {asked.path for asked in server.requests} == {"/apis/coordination.k8s.io/v1/namespaces/n/leases/l"}
        assert [get.method, take.method, give.method] == ["GET", "PATCH", "PATCH"]
        body = msgspec.json.decode(take.body)
        assert body["metadata"] == {"uid": "u", "resourceVersion": "7"}
        assert body["spec"]["holderIdentity"] == "me"
        assert msgspec.json.decode(give.body)["spec"] == {"holderIdentity": None}
