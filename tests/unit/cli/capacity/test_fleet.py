"""Test tools/plan: the table of SSE's guide, the distribution of calls, and the number of vaults."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tools.cli.capacity import fleet, plan
from tools.cli.capacity.fleet import Fleet, NoPlan

CLUSTERS = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
# For each number of secrets per cluster: the jitterSeconds for each number in CLUSTERS.
SSE_TABLE = {
    5: (0, 0, 1, 2, 4, 10, 20, 39, 98, 200),
    10: (0, 1, 2, 5, 10, 24, 49, 97, 240, 490),
    20: (1, 3, 7, 14, 27, 68, 140, 270, 680, 1_400),
    50: (8, 15, 38, 76, 150, 380, 760, 1_500, 3_800, 7_600),
}
ENTRIES = [
    (secrets, clusters, entry)
    for secrets, row in SSE_TABLE.items()
    for clusters, entry in zip(CLUSTERS, row, strict=True)
]


@pytest.mark.parametrize(("secrets", "clusters", "entry"), ENTRIES)
def test_table_of_sse_is_reproduced(secrets: int, clusters: int, entry: int) -> None:
    assert fleet.sse_table_entry(clusters, secrets) == entry


@pytest.mark.parametrize(("secrets", "clusters", "entry"), ENTRIES)
def test_suggestion_differs_from_the_table_only_by_rounding(secrets: int, clusters: int, entry: int) -> None:
    found = fleet.plan_fleet(Fleet(clusters=clusters, secrets=secrets, interval=10_000)).jitter_seconds
    if clusters * secrets <= 400:
        assert found == 0  # one vault answers all of these calls within one second
    else:
        assert abs(found - entry) <= max(1, 0.05 * entry)


def sum_upper_tail(mean: float, threshold: int) -> float:
    """Return the probability that a Poisson number is at least the threshold, as the sum over the upper tail."""
    terms = (math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in range(threshold, threshold + 500))
    return math.fsum(terms)


@pytest.mark.parametrize("threshold", [4, 8, 20, 40, 80, 400])
@pytest.mark.parametrize("risk", [0.01, 0.0001, 0.000001])
def test_approximation_never_understates_the_risk(threshold: int, risk: float) -> None:
    mean = fleet.max_arrivals(threshold, risk)
    if mean:
        assert sum_upper_tail(mean, threshold) <= risk


@pytest.mark.parametrize(("secrets", "clusters"), [(5, 500), (20, 500), (50, 1_000)])
def test_peak_stays_below_the_limit_of_the_vault(secrets: int, clusters: int) -> None:
    found = fleet.plan_fleet(Fleet(clusters=clusters, secrets=secrets))
    assert found.vaults == 1
    assert found.lists.peak_in_ten_seconds < found.gets.peak_in_ten_seconds <= fleet.VAULT_CALLS
    assert found.gets.mean_per_second == pytest.approx(clusters * secrets / (3600 + found.jitter_seconds / 2), abs=0.01)


@given(
    requested=st.builds(
        Fleet,
        clusters=st.integers(1, 10**6) | st.integers(1, 200),
        secrets=st.integers(1, 6_000) | st.integers(1, 100),
        wait=st.just(0) | st.integers(1, 30) | st.integers(1, 10**5),
        interval=st.just(0) | st.integers(1, 30) | st.integers(1, 10**5),
        risk=st.sampled_from([1e-8, fleet.RISK, 0.01, 0.5]),
        per=st.sampled_from([1, 10]),
    )
)
@example(requested=Fleet(clusters=10, secrets=5_000, wait=2, risk=0.5))
@example(requested=Fleet(clusters=10, secrets=5_000, risk=0.5))
@example(requested=Fleet(clusters=100, secrets=40, interval=1, per=10))
@example(requested=Fleet(clusters=100, secrets=4, interval=1))
@example(requested=Fleet(clusters=495, secrets=286, wait=7214, risk=1e-8, per=10))
def test_no_plan_exceeds_the_limit_of_a_vault(requested: Fleet) -> None:
    try:
        found = fleet.plan_fleet(requested)
    except NoPlan:
        return
    for load in (found.gets, found.lists):
        assert 10 * load.mean_per_second <= fleet.VAULT_CALLS + 0.1  # the mean is rounded
        assert load.peak_in_ten_seconds <= fleet.VAULT_CALLS
    assert found.clusters_per_vault * found.vaults >= requested.clusters
    assert found.longest_wait_seconds <= (requested.wait or math.inf)
    assert found.jitter_seconds <= found.rotation_poll_interval_in_seconds


def test_frequent_polls_need_more_vaults() -> None:
    found = fleet.plan_fleet(Fleet(clusters=100, secrets=40, interval=1, per=10))
    assert found.vaults == 10
    assert found.gets.peak_in_ten_seconds == fleet.VAULT_CALLS
    with pytest.raises(NoPlan, match="poll less often"):
        fleet.plan_fleet(Fleet(clusters=2, secrets=401, interval=1, per=10))


def test_short_wait_needs_more_vaults() -> None:
    long_wait = fleet.plan_fleet(Fleet(clusters=5_000, secrets=50, wait=9_000))
    short_wait = fleet.plan_fleet(Fleet(clusters=5_000, secrets=50, wait=600))
    assert (long_wait.vaults, long_wait.subscriptions) == (1, 1)
    assert long_wait.longest_wait_seconds <= 9_000
    assert short_wait.vaults > 5
    assert short_wait.subscriptions == math.ceil(short_wait.vaults / 5)
    assert short_wait.longest_wait_seconds <= 600
    assert short_wait.jitter_seconds <= short_wait.rotation_poll_interval_in_seconds
    assert short_wait.clusters_per_vault * short_wait.vaults >= 5_000
    # One vault fewer is not enough.
    fewer = math.ceil(5_000 / (short_wait.vaults - 1))
    assert fleet.min_spread_seconds(fewer, 50) > 300


def test_given_interval_is_kept() -> None:
    found = fleet.plan_fleet(Fleet(clusters=1_000, secrets=50, interval=300, wait=500))
    assert found.rotation_poll_interval_in_seconds == 300
    assert found.jitter_seconds <= 200
    assert found.vaults == 4


def test_jitter_never_exceeds_the_interval() -> None:
    """Check that the polls of one round end before the next round begins."""
    found = fleet.plan_fleet(Fleet(clusters=1_000, secrets=50, interval=300, wait=3_000))
    assert found.jitter_seconds <= 300
    assert found.vaults == 3


def test_ten_second_window_allows_more_than_one_second() -> None:
    per_second = fleet.plan_fleet(Fleet(clusters=1_000, secrets=50))
    per_ten_seconds = fleet.plan_fleet(Fleet(clusters=1_000, secrets=50, per=10))
    assert per_ten_seconds.jitter_seconds * 3 < per_second.jitter_seconds
    assert fleet.plan_fleet(Fleet(clusters=100, secrets=500, per=10)).vaults == 1


def test_credentials_are_counted_per_cluster_and_account() -> None:
    found = fleet.plan_fleet(Fleet(clusters=7, secrets=5, accounts=3))
    assert (found.federated_credentials, found.identities) == (21, 2)


def test_poll_uses_gets_if_they_are_fewer_than_pages() -> None:
    assert fleet.plan_fleet(Fleet(clusters=9, secrets=50)).lists.calls_per_cluster == 2
    assert fleet.plan_fleet(Fleet(clusters=9, secrets=50, objects=400)).lists.calls_per_cluster == 16
    assert fleet.plan_fleet(Fleet(clusters=9, secrets=3, objects=400)).lists.calls_per_cluster == 3


@pytest.mark.parametrize(
    ("requested", "words"),
    [
        (Fleet(clusters=10, secrets=300), "--per 10"),
        (Fleet(clusters=10, secrets=3_000, per=10), "split the secrets"),
        (Fleet(clusters=10, secrets=5, interval=600, wait=600), "shorter interval"),
    ],
)
def test_impossible_fleet_error_names_the_change(requested: Fleet, words: str) -> None:
    with pytest.raises(NoPlan, match=words):
        fleet.plan_fleet(requested)


def test_command_prints_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--clusters", "1000", "--secrets", "20", "-o", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["jitterSeconds"] == 136
    assert printed["identities"] == 50
    assert plan.main(["--clusters", "1000", "--secrets", "20"]) == 0
    text = capsys.readouterr().out
    assert "jitterSeconds                  136\n" in text
    assert "lists save                     95% of" in text
    assert plan.main(["--clusters", "10", "--secrets", "300"]) == 1
    assert "--per 10" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--clusters", "0"], ["--clusters", "x"], ["--risk", "90"], []])
def test_invalid_input_ends_with_exit_code_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        plan.main(["--secrets", "5", *arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err
