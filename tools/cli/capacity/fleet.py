"""Plan a fleet of clusters that read the same vaults: jitter, load, vaults, identities and credentials. Pure.

The computation is SSE's. If the whole fleet starts at one moment, `jitterSeconds` spreads the polls evenly over that
time. Then the number of clusters that poll in one second has a Poisson distribution. A vault serves 400 calls per
second, divided by the secrets per cluster.
Wilson and Hilferty's approximation of the Poisson distribution, rounded to two digits, gives each digit of SSE's table
(`sse_table_entry`). The approximation never gives a shorter time than the exact distribution.
Source: SSE's guide, "jitterSeconds"; Azure Key Vault service limits; Wilson and Hilferty 1931, "The distribution of
chi-square".
"""

import math
from collections.abc import Iterator
from statistics import NormalDist

import msgspec

from controller.config.settings import Settings

VAULT_CALLS = 4_000
WINDOW_SECONDS = 10
"""A vault serves `VAULT_CALLS` calls in this time."""
VAULTS_PER_SUBSCRIPTION = 5
"""The limit of a subscription is five times the limit of one vault."""
CREDENTIALS_PER_IDENTITY = 20
"""Federated credentials that one managed identity can have."""
LIST_PAGE = 25
"""Objects in one page of a vault's list."""
RISK = 0.0001
"""The default probability that a second is throttled."""


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet to plan for. Times are in seconds."""

    clusters: int
    secrets: int
    """Secrets that each cluster reads."""
    wait: int = 0
    """The longest time until a new value arrives; 0 for any."""
    interval: int = 0
    """`rotationPollIntervalInSeconds`; 0 to let the plan choose it."""
    risk: float = RISK
    """The accepted probability that a vault throttles calls."""
    per: int = 1
    """The seconds over which calls are counted: 1 as in SSE's guide, or 10 as the vault does."""
    accounts: int = 1
    """ServiceAccounts of each cluster that read the vault."""
    objects: int = 0
    """Objects in the vault; 0 for as many as `secrets`."""


class VaultLoad(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The calls of one kind of poll to a vault. The risk is the probability that ten seconds exceed the peak."""

    calls_per_cluster: int
    mean_per_second: float
    peak_in_ten_seconds: int


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The plan. `gets`: all clusters read every secret, as after a start; `lists`: a poll that finds no change."""

    jitter_seconds: int
    rotation_poll_interval_in_seconds: int
    longest_wait_seconds: int
    vaults: int
    subscriptions: int
    clusters_per_vault: int
    gets: VaultLoad
    lists: VaultLoad
    federated_credentials: int
    identities: int


class NoPlan(Exception):  # noqa: N818 -- an answer, not an error
    """No plan meets the request. The message says what to change."""


def max_arrivals(threshold: float, risk: float) -> float:
    """Return the highest mean of a Poisson distribution that reaches `threshold` with at most this probability.

    Use Wilson and Hilferty's approximation. Return 0 if there is no such mean.
    """
    root = 1 - 1 / (9 * threshold) - NormalDist().inv_cdf(1 - risk) / (3 * math.sqrt(threshold))
    return threshold * root**3 if root > 0 else 0.0


def min_spread_seconds(clusters: float, secrets: int, *, risk: float = RISK, per: int = 1, polls: int = 1) -> float:
    """Return the seconds over which to spread this number of clusters. Raise `NoPlan` if no time is long enough.

    `polls` is how often each cluster polls in `per` seconds.
    """
    at_once = _clusters_at_once(secrets, per, polls)
    arrivals = max_arrivals(at_once, risk) if at_once else 0
    if not arrivals:
        how = "count over ten seconds as the vault does (--per 10), or " if per < WINDOW_SECONDS else ""
        how += "poll less often (--interval, --wait), or " if polls > 1 else ""
        raise NoPlan(
            f"{secrets} secrets per cluster are too many for one vault: a few clusters in one second exceed its limit;"
            f" {how}split the secrets over several vaults"
        )
    return clusters / arrivals * per


def _clusters_at_once(secrets: int, per: int, polls: int) -> int:
    """Return the number of clusters that a vault serves if all of them begin in the same `per` seconds."""
    return VAULT_CALLS * per // (WINDOW_SECONDS * secrets * polls)


def sse_table_entry(clusters: int, secrets: int) -> int:
    """Return the `jitterSeconds` that SSE's table suggests, rounded to two digits."""
    seconds = min_spread_seconds(clusters, secrets)
    step = int(10 ** max(0, len(str(round(seconds))) - 2))
    return round(seconds / step) * step


def plan_fleet(fleet: Fleet) -> FleetPlan:
    """Return the plan with the fewest vaults. Raise `NoPlan` if no plan meets the request."""
    if fleet.interval and fleet.wait and fleet.interval >= fleet.wait:
        raise NoPlan(
            f"an interval of {fleet.interval} s leaves no time for jitter within a wait of {fleet.wait} s;"
            " give a shorter interval"
        )
    max_jitter = _max_jitter(fleet)
    polls = math.ceil(fleet.per / (fleet.interval or _choose_interval(fleet, max_jitter)))
    # Try one vault first. If it is not enough, the clusters that one vault can serve determine the number of vaults.
    vaults, jitter = 1, _choose_jitter(fleet, fleet.clusters, polls)
    if jitter > max_jitter:
        one = min_spread_seconds(1, fleet.secrets, risk=fleet.risk, per=fleet.per, polls=polls)
        served = max(math.floor(max_jitter / one), _clusters_at_once(fleet.secrets, fleet.per, polls))
        vaults = math.ceil(fleet.clusters / served)
        jitter = _choose_jitter(fleet, math.ceil(fleet.clusters / vaults), polls)
    interval = fleet.interval or _choose_interval(fleet, jitter)
    each = math.ceil(fleet.clusters / vaults)
    lists = min(fleet.secrets, math.ceil((fleet.objects or fleet.secrets) / LIST_PAGE))
    credentials = fleet.clusters * fleet.accounts
    return FleetPlan(
        jitter_seconds=jitter,
        rotation_poll_interval_in_seconds=int(interval),
        longest_wait_seconds=int(interval) + jitter,
        vaults=vaults,
        subscriptions=math.ceil(vaults / VAULTS_PER_SUBSCRIPTION),
        clusters_per_vault=each,
        gets=_vault_load(fleet, each, fleet.secrets, jitter, interval),
        lists=_vault_load(fleet, each, lists, jitter, interval),
        federated_credentials=credentials,
        identities=math.ceil(credentials / CREDENTIALS_PER_IDENTITY),
    )


def _max_jitter(fleet: Fleet) -> float:
    """Return the most seconds of jitter. More than the interval would let two polls of the fleet overlap."""
    if fleet.interval:
        return min(fleet.interval, fleet.wait - fleet.interval) if fleet.wait else fleet.interval
    return fleet.wait // 2 if fleet.wait else Settings().rotation_poll_interval


def _choose_interval(fleet: Fleet, jitter: float) -> float:
    """Return the interval of the chart, or the jitter if that is longer, within the wait."""
    return min(max(Settings().rotation_poll_interval, jitter), (fleet.wait or math.inf) - jitter)


def _choose_jitter(fleet: Fleet, clusters: int, polls: int) -> int:
    if clusters <= _clusters_at_once(fleet.secrets, fleet.per, polls):
        return 0
    return math.ceil(min_spread_seconds(clusters, fleet.secrets, risk=fleet.risk, per=fleet.per, polls=polls))


def _vault_load(fleet: Fleet, clusters: int, calls: int, jitter: int, interval: float) -> VaultLoad:
    most = clusters * math.ceil(WINDOW_SECONDS / interval)  # polls, if each cluster polls as often as it can
    busiest = min(most, _poisson_quantile(clusters / jitter * WINDOW_SECONDS, fleet.risk)) if jitter else most
    return VaultLoad(
        calls_per_cluster=calls,
        mean_per_second=round(clusters * calls / (interval + jitter / 2), 2),
        peak_in_ten_seconds=busiest * calls,
    )


def _poisson_quantile(mean: float, risk: float) -> int:
    """Return the least number that a Poisson distribution with this mean exceeds with at most this probability."""
    total = 0.0
    for number in range(2**31):
        total += math.exp(number * math.log(mean) - mean - math.lgamma(number + 1))
        if 1 - total <= risk:
            break
    return number


def format_plan(fleet: Fleet, found: FleetPlan) -> Iterator[str]:
    """Return the plan as lines of text."""
    per_vault = f", {found.clusters_per_vault} clusters on each" if found.vaults > 1 else ""
    subscriptions = f" (in {found.subscriptions} subscriptions)" if found.subscriptions > 1 else ""
    credentials = f"{found.federated_credentials} federated credentials"
    yield f"jitterSeconds                  {found.jitter_seconds}"
    yield f"rotationPollIntervalInSeconds  {found.rotation_poll_interval_in_seconds}"
    yield f"longest wait for a new value   {found.longest_wait_seconds} s"
    yield f"vaults                         {found.vaults}{per_vault}{subscriptions}"
    yield f"identities                     {found.identities} for {credentials}, {CREDENTIALS_PER_IDENTITY} each"
    yield f"load of a vault, calls         per second; peak in ten seconds, of {VAULT_CALLS}; per cluster"
    for name, load in (("every secret read", found.gets), ("nothing changed", found.lists)):
        yield f"  {name:<28} {load.mean_per_second:g}; {load.peak_in_ten_seconds}; {load.calls_per_cluster}"
    saved = 1 - found.lists.calls_per_cluster / found.gets.calls_per_cluster
    yield f"lists save                     {saved:.0%} of a poll's calls where nothing changed"
