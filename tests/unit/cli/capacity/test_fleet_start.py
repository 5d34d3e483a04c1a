"""Test 2,000 clusters on one vault: the jitter that `tools/plan` suggests avoids throttling, half of it does not."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from controller.config.settings import Settings
from controller.domain.status import ready_condition
from tests.support.builders import make_sync
from tests.support.fleet_simulation import FleetSimulation
from tests.support.virtual_time import VirtualLoop
from tools.cli.capacity import fleet
from tools.keyvault_emulator.faults import VAULT_LIMIT, RateLimiter

pytestmark = pytest.mark.long

CLUSTERS = 2_000
INTERVAL = 3_600


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    gc.disable()  # a simulation keeps hundreds of thousands of objects, and to scan them takes a third of its time
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    gc.enable()


def make_plan(secrets: int, per: int, risk: float = fleet.RISK) -> fleet.FleetPlan:
    return fleet.plan_fleet(fleet.Fleet(clusters=CLUSTERS, secrets=secrets, interval=INTERVAL, per=per, risk=risk))


def suggest_jitter(secrets: int, per: int, risk: float = fleet.RISK) -> int:
    return make_plan(secrets, per, risk).jitter_seconds


def make_settings(jitter: int) -> Settings:
    # Drift checks call no vault.
    return Settings(jitter=jitter, rotation_poll_interval=INTERVAL, drift_interval=86_400)


@pytest.mark.parametrize(
    ("secrets", "per", "lists", "syncs", "start", "poll"),
    [
        pytest.param(20, 1, True, 1, (1_800, 2_200), (200, 300), id="as in SSE's guide"),
        pytest.param(10, 10, False, 2, (2_900, VAULT_LIMIT), (2_900, VAULT_LIMIT), id="as the vault counts, with gets"),
    ],
)
def test_fleet_that_starts_together_is_never_throttled(
    loop: VirtualLoop,
    secrets: int,
    per: int,
    lists: bool,
    syncs: int,
    start: tuple[int, int],
    poll: tuple[int, int],
) -> None:
    """`start` and `poll` are the lowest and the highest permitted number of calls in ten seconds.

    The vault's limit is 4,000. A plan by SSE's guide leaves half of it unused; a plan by the vault's own count uses
    nearly all of it.
    """
    # An identity without the right to list tries one list a day.
    plan = make_plan(secrets if lists else secrets + 1, per)
    jitter = plan.jitter_seconds
    simulation = FleetSimulation(
        loop, make_settings(jitter), clusters=CLUSTERS, secrets=secrets, syncs=syncs, lists=lists
    )
    vault = simulation.vault
    simulation.start()
    simulation.advance(jitter)
    assert len(vault.accepted_at) == CLUSTERS * secrets
    assert start[0] <= vault.max_calls_in_window() <= min(start[1], plan.gets.peak_in_ten_seconds)
    simulation.advance(INTERVAL + jitter)
    calls = 1 if lists else secrets + 1
    assert len(vault.accepted_at) >= CLUSTERS * (secrets + calls)
    assert poll[0] <= vault.max_calls_in_window(since=jitter + 1) <= poll[1]
    assert not vault.throttled_at


def test_half_of_the_suggested_jitter_leads_to_throttling(loop: VirtualLoop) -> None:
    simulation = FleetSimulation(loop, make_settings(suggest_jitter(5, per=10) // 2), clusters=CLUSTERS, secrets=5)
    simulation.start()
    simulation.advance(INTERVAL / 2)
    assert simulation.vault.throttled_at
    # Afterwards each cluster limits its rate, and each gets all of its secrets.
    assert len(simulation.vault.accepted_at) == CLUSTERS * 5


def test_restart_of_the_fleet_makes_no_vault_calls(loop: VirtualLoop) -> None:
    jitter = suggest_jitter(2, per=1)
    simulation = FleetSimulation(loop, make_settings(jitter), clusters=CLUSTERS, secrets=2)
    vault = simulation.vault
    simulation.start()
    simulation.advance(INTERVAL / 2)
    before = len(vault.accepted_at)
    assert before == CLUSTERS * 2
    simulation.stop()
    simulation.start()
    simulation.advance(INTERVAL / 2 - 1)
    assert len(vault.accepted_at) == before
    # A restart does not change when a poll is due. Each cluster lists once, and some also make the daily read.
    simulation.advance(1 + 2 * jitter)
    polled = len(vault.accepted_at)
    assert before + CLUSTERS <= polled <= before + 1.2 * CLUSTERS

    simulation.stop()
    simulation.advance(10 * INTERVAL)
    simulation.start()
    back = loop.time()
    simulation.advance(INTERVAL)
    assert polled + CLUSTERS <= len(vault.accepted_at) <= polled + 1.2 * CLUSTERS
    # The polls that are overdue after the pause are spread over an interval.
    assert vault.max_calls_in_window(since=back) <= 30
    assert not vault.throttled_at


def test_stated_risk_of_a_plan_equals_the_simulated_one(loop: VirtualLoop) -> None:
    """Count the seconds of a start in which the clusters make as many calls as the vault accepts, or more."""
    risk, secrets = 0.1, 20
    jitter = suggest_jitter(secrets, per=1, risk=risk)
    fit = VAULT_LIMIT // 10 // secrets
    full, starts = 0, 4
    for seed in range(starts):
        simulation = FleetSimulation(loop, make_settings(jitter), clusters=CLUSTERS, secrets=1, seed=seed)
        began = loop.time()
        simulation.start()
        simulation.advance(jitter)
        seconds = Counter(int(moment - began) for moment in simulation.vault.accepted_at)
        full += sum(count >= fit for count in seconds.values())
    assert 0.7 * risk < full / (starts * jitter) < 1.2 * risk


def test_throttled_vault_serves_initial_syncs_first_without_early_calls(loop: VirtualLoop) -> None:
    """Let the vault accept 25 calls in ten seconds, with ten values to refresh and fifty new ones."""
    simulation = FleetSimulation(loop, make_settings(0), clusters=1, secrets=10, syncs=10)
    vault = simulation.vault
    simulation.start()
    simulation.advance(INTERVAL - 1)
    old, new, keys = [*vault.names], [f"n{number}" for number in range(40)], [f"k{number}" for number in range(10)]
    vault.names += [*new, *keys]
    vault.changed |= set(old)
    vault.limiter = RateLimiter(25, retry_after=10)
    began, before = loop.time(), len(vault.accepted_at)
    store = simulation.clusters[0].reconciler.syncs
    for name in new:
        store.set(make_sync([name], name=name, uid=name))
    store.set(make_sync(keys, name="many", uid="many"))
    simulation.advance(90)

    got = {name: moment - began for moment, name in vault.reads if moment >= began}
    assert got.keys() == {*old, *new, *keys}
    assert max(got[name] for name in [*new, *keys]) < min(got[name] for name in old)
    for refused in vault.throttled_at:
        assert not [moment for moment in vault.accepted_at if refused < moment < refused + 10]
    # Each value was read once, and the list has three pages. The time is that of the limit plus one wait.
    calls = len(got) + 3
    assert len(vault.accepted_at) - before == calls
    assert max(got.values()) < 10 + (calls - 25) / 2.5 + 10
    assert all(
        ready.status == "True" for item in simulation.clusters[0].kept if (ready := ready_condition(item.status))
    )
