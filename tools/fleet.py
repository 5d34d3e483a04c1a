"""A fleet of clusters on shared vaults: how far apart must they look, what does that cost, and what is needed for it.

The computation is SSE's: a fleet that starts at one moment spreads evenly over `jitterSeconds`, so each second brings a
Poisson number of clusters, and of these the vault takes its 400 calls per second divided by the secrets per cluster.
SSE's table follows, digit for digit, from Wilson and Hilferty's approximation of the Poisson distribution, rounded to
two digits (`table_entry`). It stays on the safe side of the distribution itself.
Source: SSE's guide, "jitterSeconds"; Azure Key Vault service limits; Wilson and Hilferty 1931, "The distribution of
chi-square".
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import msgspec

from controller.settings import Settings
from tools import command, printable

VAULT_CALLS = 4_000
WINDOW_SECONDS = 10
# A subscription takes five times what one vault takes.
VAULTS_PER_SUBSCRIPTION = 5
CREDENTIALS_PER_IDENTITY = 20
LIST_PAGE = 25
RISK = 0.0001
_EPILOG = """\
examples:
  tools/plan --clusters 500 --secrets 20
  tools/plan --clusters 5000 --secrets 50 --wait 3600 --accounts 4 -o json

how it computes, and where SSE's table differs:
  The fleet may start at one moment: an upgrade, a region that is back. Spread over jitterSeconds, each second brings a
  Poisson number of clusters; with the risk given they are no more than the vault takes: 400 calls/s divided by the
  secrets per cluster. SSE's guide has a table of the same computation, rounded to two digits, up or down. Here it is
  rounded up to whole seconds, and is 0 where the whole fleet fits into one second anyway. The vault itself counts over
  ten seconds: --per 10 judges by that and needs far less jitter where a cluster has many secrets.

exit codes: 0 a plan, 1 there is none, 2 bad input
"""


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. Times are in seconds; `interval` and `wait` are 0 where they were left open."""

    clusters: int
    secrets: int
    wait: int = 0
    interval: int = 0
    risk: float = RISK
    per: int = 1
    accounts: int = 1
    objects: int = 0


class Load(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What one way of looking costs a vault. With no more than the risk, some ten seconds bring more than the peak."""

    calls_per_cluster: int
    mean_per_second: float
    peak_in_ten_seconds: int


class Plan(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is needed. `gets` is every secret read, as at a fleet-wide start; `lists` is a poll that finds no change."""

    jitter_seconds: int
    rotation_poll_interval_in_seconds: int
    longest_wait_seconds: int
    vaults: int
    subscriptions: int
    clusters_per_vault: int
    gets: Load
    lists: Load
    federated_credentials: int
    identities: int


class NoPlan(Exception):  # noqa: N818 -- an answer, not an error
    """Nothing that was asked for can be had; the message says what to change."""


def most_arrivals(threshold: float, risk: float) -> float:
    """The mean of a Poisson number that reaches `threshold` with no more than this risk (Wilson and Hilferty)."""
    root = 1 - 1 / (9 * threshold) - NormalDist().inv_cdf(1 - risk) / (3 * math.sqrt(threshold))
    return threshold * root**3 if root > 0 else 0.0


def spread(clusters: float, secrets: int, *, risk: float = RISK, per: int = 1) -> float:
    """Over how many seconds so many clusters must be spread; `NoPlan` where no spread is enough."""
    arrivals = most_arrivals(VAULT_CALLS * per // (WINDOW_SECONDS * secrets) or 1, risk)
    if not arrivals:
        how = "judge by the vault's own ten seconds (--per 10), or " if per < WINDOW_SECONDS else ""
        raise NoPlan(
            f"{secrets} secrets per cluster are too many for one vault: clusters that meet by chance pass its limit;"
            f" {how}split the secrets over several vaults"
        )
    return clusters / arrivals * per


def table_entry(clusters: int, secrets: int) -> int:
    """SSE's own suggestion, as its table prints it: two digits."""
    seconds = spread(clusters, secrets)
    step = int(10 ** max(0, len(str(round(seconds))) - 2))
    return round(seconds / step) * step


def plan(fleet: Fleet) -> Plan:
    """The plan with the fewest vaults; `NoPlan` says what to change where there is none."""
    if fleet.interval and fleet.wait and fleet.interval >= fleet.wait:
        raise NoPlan(
            f"an interval of {fleet.interval} s leaves nothing of a wait of {fleet.wait} s; give a shorter interval"
        )
    room = _room(fleet)
    # One vault for all is the least; how many clusters one can serve says how many more it takes.
    vaults, jitter = 1, _jitter(fleet, fleet.clusters)
    if jitter > room:
        served = math.floor(room / spread(1, fleet.secrets, risk=fleet.risk, per=fleet.per))
        served = max(served, VAULT_CALLS * fleet.per // (WINDOW_SECONDS * fleet.secrets))
        vaults = math.ceil(fleet.clusters / served)
        jitter = _jitter(fleet, math.ceil(fleet.clusters / vaults))
    interval = fleet.interval or min(Settings().rotation_poll_interval, (fleet.wait or math.inf) - jitter)
    each = math.ceil(fleet.clusters / vaults)
    lists = min(fleet.secrets, math.ceil((fleet.objects or fleet.secrets) / LIST_PAGE))
    credentials = fleet.clusters * fleet.accounts
    return Plan(
        jitter_seconds=jitter,
        rotation_poll_interval_in_seconds=int(interval),
        longest_wait_seconds=int(interval) + jitter,
        vaults=vaults,
        subscriptions=math.ceil(vaults / VAULTS_PER_SUBSCRIPTION),
        clusters_per_vault=each,
        gets=_load(fleet, each, fleet.secrets, jitter, interval),
        lists=_load(fleet, each, lists, jitter, interval),
        federated_credentials=credentials,
        identities=math.ceil(credentials / CREDENTIALS_PER_IDENTITY),
    )


def _room(fleet: Fleet) -> float:
    """The most jitter that is allowed. It may not pass the interval either: two rounds would meet."""
    if fleet.interval:
        return min(fleet.interval, fleet.wait - fleet.interval) if fleet.wait else fleet.interval
    return fleet.wait // 2 if fleet.wait else Settings().rotation_poll_interval


def _jitter(fleet: Fleet, clusters: int) -> int:
    if clusters * fleet.secrets <= VAULT_CALLS * fleet.per // WINDOW_SECONDS:
        return 0
    return math.ceil(spread(clusters, fleet.secrets, risk=fleet.risk, per=fleet.per))


def _load(fleet: Fleet, clusters: int, calls: int, jitter: int, interval: float) -> Load:
    busiest = _quantile(clusters / jitter * WINDOW_SECONDS, fleet.risk) if jitter else clusters
    return Load(
        calls_per_cluster=calls,
        mean_per_second=round(clusters * calls / (interval + jitter / 2), 2),
        peak_in_ten_seconds=min(busiest, clusters) * calls,
    )


def _quantile(mean: float, risk: float) -> int:
    """The least number that a Poisson number of this mean passes with no more than this risk."""
    total = 0.0
    for number in range(2**31):
        total += math.exp(number * math.log(mean) - mean - math.lgamma(number + 1))
        if 1 - total <= risk:
            break
    return number


def lines(fleet: Fleet, found: Plan) -> Iterator[str]:
    """The plan for a reader."""
    per_vault = f", {found.clusters_per_vault} clusters on each" if found.vaults > 1 else ""
    subscriptions = f" (in {found.subscriptions} subscriptions)" if found.subscriptions > 1 else ""
    credentials = f"{found.federated_credentials} federated credentials"
    yield f"jitterSeconds                  {found.jitter_seconds}"
    yield f"rotationPollIntervalInSeconds  {found.rotation_poll_interval_in_seconds}"
    yield f"longest wait for a new value   {found.longest_wait_seconds} s"
    yield f"vaults                         {found.vaults}{per_vault}{subscriptions}"
    yield f"identities                     {found.identities} for {credentials}, {CREDENTIALS_PER_IDENTITY} each"
    yield f"load of a vault, calls         a second; at the most in ten, of {VAULT_CALLS}; per cluster"
    for name, load in (("every secret read", found.gets), ("nothing changed", found.lists)):
        yield f"  {name:<28} {load.mean_per_second:g}; {load.peak_in_ten_seconds}; {load.calls_per_cluster}"
    saved = 1 - found.lists.calls_per_cluster / found.gets.calls_per_cluster
    yield f"lists save                     {saved:.0%} of a poll's calls where nothing changed"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="tools/plan",
        description="Plans a fleet of clusters that read the same Key Vault: jitterSeconds, what the vault has to bear,"
        " how many vaults, identities and federated credentials it takes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    number = _at_least_one
    parser.add_argument("--clusters", type=number, required=True, help="how many clusters")
    parser.add_argument("--secrets", type=number, required=True, help="how many secrets each of them reads")
    parser.add_argument(
        "--wait",
        type=number,
        default=0,
        metavar="SECONDS",
        help="the longest that a new value may take to arrive: interval and jitter together"
        " (default: whatever it comes to, with one vault if that can be)",
    )
    parser.add_argument(
        "--interval",
        type=number,
        default=0,
        metavar="SECONDS",
        help=f"rotationPollIntervalInSeconds (default: {Settings().rotation_poll_interval}, or what"
        " --wait leaves of it)",
    )
    parser.add_argument(
        "--risk",
        type=_percent,
        default=RISK,
        metavar="PERCENT",
        help=f"how likely a second may be throttled (default: {RISK * 100:g})",
    )
    parser.add_argument(
        "--per",
        type=int,
        choices=(1, WINDOW_SECONDS),
        default=1,
        help="judge each second, as SSE's guide does, or ten, as the vault does (default: 1)",
    )
    parser.add_argument(
        "--accounts",
        type=number,
        default=1,
        help="ServiceAccounts that read the vault, per cluster: one for each namespace, at least (default: 1)",
    )
    parser.add_argument(
        "--objects",
        type=number,
        default=0,
        help="objects in the vault, which a list pages through (default: as many as --secrets)",
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="(default: text)")
    given = vars(parser.parse_args(argv))
    output = given.pop("output")
    fleet = Fleet(**given)
    try:
        found = plan(fleet)
    except NoPlan as answer:
        command.complain("tools/plan", answer)
        return 1
    if output == "json":
        print(printable.as_json(found))
    else:
        print("\n".join(lines(fleet, found)))
    return 0


def _at_least_one(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 10**9:
        raise argparse.ArgumentTypeError("expected a whole number from 1 to 1000000000")
    return int(text)


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1e-6 <= value <= 50:
        raise argparse.ArgumentTypeError("expected percent, from 0.000001 to 50")
    return value / 100


if __name__ == "__main__":
    command.end("tools/plan", main)
