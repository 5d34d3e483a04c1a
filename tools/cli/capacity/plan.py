"""tools/plan: plan a fleet, or count what the polls of a cluster cost its vaults."""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from controller import errors
from controller.config.settings import Settings
from tools.cli.capacity import fleet, poll_costs, sources
from tools.cli.capacity.fleet import RISK, WINDOW_SECONDS, Fleet, NoPlan
from tools.cli.common import command, printable

_EPILOG = """\
examples:
  tools/plan --clusters 500 --secrets 20
  tools/plan --from manifests/ --objects 300 --clusters 4000
  tools/plan --from cluster -o json
  tools/plan --clusters 5000 --secrets 50 --wait 3600 --accounts 4 -o json

how jitterSeconds is computed, and how SSE's table differs:
  All clusters can start at one moment, for example after an upgrade or after an outage of a region. jitterSeconds
  spreads their polls, so that the number of clusters in each second has a Poisson distribution. A vault serves 400
  calls per second, divided by the secrets per cluster. jitterSeconds is long enough that more clusters than that poll
  in one second only with the probability --risk. It also delays first syncs and syncs after an edit.
  The table in SSE's guide has the same computation, rounded to two digits, up or down. This tool rounds up to whole
  seconds, and returns 0 if one second is enough for the whole fleet. The vault itself counts over ten seconds. With
  --per 10 the tool counts like the vault, and needs far less jitter if a cluster has many secrets.

--from reads SecretProviderClasses, SecretSyncs and AKVSyncs. It prints what one poll costs each vault, and which
SecretSyncs cause it. With --clusters it also plans a fleet of clusters like this one, for the vault that is read most.
Manifests do not show which objects `select` chooses: in a folder, a selection counts only its list calls. Give the
number of objects in the vault with --objects.

exit codes: 0 there is a plan, 1 there is no plan, 2 bad input, or the cluster cannot be read
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code; see `--help`."""
    parser = command.ToolParser(
        prog="tools/plan",
        description="Plan a fleet of clusters that read the same Key Vault: jitterSeconds, load, vaults,"
        " identities and federated credentials. Or count the vault calls that the polls of a cluster make.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    number = _at_least_one
    parser.add_argument("--clusters", type=number, help="number of clusters")
    parser.add_argument("--secrets", type=number, help="number of secrets that each cluster reads")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="SOURCE",
        help="count the calls of real objects: a file, a folder of manifests, or `cluster` (see --kubeconfig)",
    )
    parser.add_argument(
        "--kubeconfig", type=command.parse_path, help="with --from cluster (default: $KUBECONFIG, ~/.kube/config)"
    )
    parser.add_argument(
        "--wait",
        type=number,
        default=0,
        metavar="SECONDS",
        help="the longest time until a new value arrives: interval and jitter together"
        " (default: no limit, so that one vault is used if possible)",
    )
    parser.add_argument(
        "--interval",
        type=number,
        default=0,
        metavar="SECONDS",
        help=f"rotationPollIntervalInSeconds (default: {Settings().rotation_poll_interval}, or less if --wait"
        " requires it)",
    )
    parser.add_argument(
        "--risk",
        type=_parse_percent,
        default=RISK,
        metavar="PERCENT",
        help=f"accepted probability that the vault throttles calls of one second (default: {RISK * 100:g})",
    )
    parser.add_argument(
        "--per",
        type=int,
        choices=(1, WINDOW_SECONDS),
        default=1,
        help="count the calls of each second, as SSE's guide does, or of ten, as the vault does (default: 1)",
    )
    parser.add_argument(
        "--accounts",
        type=number,
        default=1,
        help="ServiceAccounts per cluster that read the vault: at least one for each namespace (default: 1)",
    )
    parser.add_argument(
        "--objects",
        type=number,
        default=0,
        help="number of objects in the vault, which determines the pages of a list (default: as many as --secrets)",
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="(default: text)")
    given = vars(parser.parse_args(argv))
    output, source, kubeconfig = given.pop("output"), given.pop("source"), given.pop("kubeconfig")
    if source is None and not (given["clusters"] and given["secrets"]):
        parser.error("give --clusters and --secrets, or --from")
    if source == "":  # a script passes it for a variable that is not set
        parser.error("--from is empty: give a file, a folder or `cluster`")
    if source is not None and given["secrets"]:
        parser.error("--from counts the secrets itself: leave out --secrets")
    if kubeconfig and source != "cluster":
        parser.error("--kubeconfig needs --from cluster")
    try:
        costs = _calculate_costs(source, kubeconfig, given["objects"]) if source else None
        found = None
        if given["clusters"]:
            if costs:
                given["secrets"] = max(costs.reads_by_vault.values(), default=0)
                if not given["secrets"]:
                    raise NoPlan("no SecretSync that could be counted reads a vault; the notes of --from say why")
            wanted = Fleet(**given)
            found = fleet.plan_fleet(wanted)
    except (command.BadInput, errors.KubeError) as error:
        command.print_problem("tools/plan", error)
        return 2
    except NoPlan as answer:
        command.print_problem("tools/plan", answer)
        return 1
    if output == "json":
        print(printable.as_json(found if costs is None else {"polls": costs, "plan": found}))
    else:
        text = [
            *(poll_costs.format_costs(costs) if costs else ()),
            *(fleet.format_plan(wanted, found) if found else ()),
        ]
        print("\n".join(text))
    return 0


def _calculate_costs(source: str, kubeconfig: Path | None, vault_objects: int) -> poll_costs.PollCosts:
    if source == "cluster":
        objects = asyncio.run(sources.read_cluster(kubeconfig))
    else:
        objects = sources.read_manifests(Path(source))
    return poll_costs.poll_costs(objects, vault_objects)


def _at_least_one(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 10**9:
        raise argparse.ArgumentTypeError("expected a whole number from 1 to 1000000000")
    return int(text)


def _parse_percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1e-6 <= value <= 50:
        raise argparse.ArgumentTypeError("expected percent, from 0.000001 to 50")
    return value / 100


if __name__ == "__main__":
    command.run_and_exit("tools/plan", main)
