"""Explain why a Secret differs from the vault: one line for each check, with the step that repairs a failure.

examination.py collects the facts: installation.py those of the release, endpoints.py those outside of the cluster.
checks.py judges them. This module is the command line.
"""

import argparse
import asyncio
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from controller import errors
from controller.api.meta import DNS_SUBDOMAIN
from controller.api.secretsync import SecretSync
from tools.cli.common import command, printable
from tools.cli.common.command import BadInput
from tools.cli.common.kube_client import Object, OperatorKubeClient, connect
from tools.cli.doctor import checks, trusted_hosts
from tools.cli.doctor.checks import CLUSTER, CheckResult, fail, ok
from tools.cli.doctor.examination import FactCollector
from tools.cli.releases import ReleaseChoice

_KINDS = {"secretsync": "SecretSync", "secretsyncs": "SecretSync", "akvsync": "AKVSync", "akvsyncs": "AKVSync"}
_API = f"/apis/{SecretSync.group}/{SecretSync.version}"
_EPILOG = """\
examples:
  tools/doctor                                 the whole cluster
  tools/doctor --namespace shop                one namespace
  tools/doctor secretsync/db --namespace shop  one SecretSync
  tools/doctor akvsync/shop -n shop -o json    one AKVSync with what it generated

checks:
  cluster  the Deployment, its settings, the admission policies, the issuer's discovery document and keys as published,
           the clock against Entra's, and the ServiceAccounts for each identity (20 federated credentials)
  each     class and mapping, ServiceAccount, token, Entra's answer (with the necessary `az` line), DNS, route and TLS
           to the vault, its tenant, each object with the role it needs, the Secret's owner and contents, the status

It reads with the rights of your kubeconfig and writes nothing. A line `warn` names facts that you may not read. To sign
in as a workload, it needs `create` on serviceaccounts/token; to compare a Secret, `get` on secrets. It never prints a
value. It contacts Entra and the vault from this machine, with its proxies (HTTPS_PROXY) and its certificates. If the
controller uses another network, run the doctor there. The vault counts these calls like all others.

It finds a release by objects that only cluster administrators can create: a ClusterRoleBinding or an admission policy.
If several match, --release-namespace selects one. Name only a namespace that you trust with it.

It sends tokens only to the hosts of Azure's own clouds. A release's `clouds` are in a ConfigMap that editors of its
namespace can change, so it sends nothing to other hosts until --allow-host names them. The line `hosts` shows the
flags.

as a kubectl plugin (`kubectl akv doctor ...`):
  ln -s "$PWD/tools/doctor" ~/.local/bin/kubectl-akv-doctor

-o json prints {"checks": [{"subject", "name", "level", "text", "fix"}, ...]}; level is ok, warn or fail.

exit codes: 0 if nothing fails, 1 if a check fails, 2 for bad input or if the cluster cannot be reached
"""


class ExaminationScope(msgspec.Struct, frozen=True, kw_only=True):
    """The subject of the examination: an object, or every SecretSync, in one namespace or in all.

    `choice` selects the release. `hosts` are the hosts that the caller trusts besides Azure's own.
    """

    kind: str = ""
    name: str = ""
    namespace: str = ""
    choice: ReleaseChoice = ReleaseChoice()
    hosts: tuple[str, ...] = ()


async def examine(kubeconfig: Path | None, question: ExaminationScope) -> list[CheckResult]:
    """Return all checks of the cluster and of the named objects."""
    kind, name, namespace = question.kind, question.name, question.namespace
    async with connect(kubeconfig) as caller, FactCollector(caller, question.choice, question.hosts) as examination:
        try:
            syncs, found = await find_named(caller, kind, name, namespace)
        except errors.Unreachable as error:
            raise BadInput(error.message) from error
        return await examination.cluster() + await examination.everything(syncs) + found


async def find_named(
    caller: OperatorKubeClient, kind: str, name: str, namespace: str
) -> tuple[list[SecretSync], list[CheckResult]]:
    """Return the SecretSyncs to check, and the checks of the AKVSyncs that own them."""
    try:
        if kind == SecretSync.kind:
            return [await caller.get(SecretSync, namespace, name)], []
        if kind:
            owner = await caller.get_object(f"{_API}/namespaces/{namespace}/akvsyncs/{name}")
            owned = _owned_syncs(owner, await caller.list_kind(SecretSync, namespace))
            return owned, [_akvsync_check(owner, owned)]
        syncs = await caller.list_kind(SecretSync, namespace)
        return syncs, [
            _akvsync_check(owner, _owned_syncs(owner, syncs)) for owner in await _list_akvsyncs(caller, namespace)
        ]
    except errors.NotFound as error:
        if name and f'"{name}"' in error.message:
            raise BadInput(f"there is no {kind} {name} in namespace {namespace}") from error
        fix = "install the chart, or kubectl apply --filename chart/crds"
        return [], [fail(CLUSTER, "crds", f"the cluster does not serve {kind or SecretSync.kind}", fix)]
    except errors.Refused as error:
        raise BadInput(error.message) from error


async def _list_akvsyncs(caller: OperatorKubeClient, namespace: str) -> list[Object]:
    """Return all AKVSyncs, or none if the cluster does not serve the kind, which SecretSyncs do not need."""
    try:
        return await caller.list_objects(f"{_API}/namespaces/{namespace}/akvsyncs" if namespace else f"{_API}/akvsyncs")
    except errors.NotFound:
        return []


def _owned_syncs(owner: Object, syncs: Sequence[SecretSync]) -> list[SecretSync]:
    uid = owner["metadata"]["uid"]
    return [sync for sync in syncs if any(reference.uid == uid for reference in sync.metadata.owner_references)]


def _akvsync_check(owner: Object, owned: Sequence[SecretSync]) -> CheckResult:
    """Return the check of an AKVSync itself."""
    subject = f"{owner['metadata']['namespace']}/{owner['metadata']['name']}"
    conditions = owner.get("status", {}).get("conditions", [])
    ready: Object = next((each for each in conditions if each.get("type") == "Ready"), {})
    text = f"{ready.get('reason', 'no status')}: {ready.get('message', 'the controller has not processed it')}"
    if ready.get("status") == "True":
        return ok(subject, "akvsync", f"{len(owned)} SecretSyncs; {text}")
    cause, _, step = text.partition("; ")
    return fail(subject, "akvsync", cause, step or "see the lines of its parts, and the controller's log")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see `--help`."""
    parser = command.ToolParser(
        prog="tools/doctor",
        description="Explain why a Secret differs from the vault. Print one line for each check:"
        " ok, warn or fail, the fact, and the next step.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("object", nargs="?", default="", metavar="KIND/NAME",
                        help="secretsync/NAME or akvsync/NAME (default: every SecretSync)")  # fmt: skip
    parser.add_argument("-n", "--namespace", default="", help="(default: all, or `default` for one object)")
    parser.add_argument("--kubeconfig", type=command.parse_path, metavar="FILE",
                        help="its current context is used (default: $KUBECONFIG, ~/.kube/config, the pod's)"
    )  # fmt: skip
    parser.add_argument("--release-namespace", default="", metavar="NAMESPACE",
                        help="the namespace of the release (default: the one that the cluster has)")  # fmt: skip
    parser.add_argument("--release", default="", metavar="NAME", help="its name, if a namespace has several")
    parser.add_argument("--allow-host", default=[], action="append", type=_parse_host, metavar="HOST[:PORT]",
                        help="also send tokens to this host of the release's clouds, such as login.example.com or"
                        " '*.vault.example.com'; may be repeated")  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="leave out lines with ok")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="(default: text)")
    args = parser.parse_args(argv)
    kind, slash, name = args.object.partition("/")
    if args.object and (kind.lower() not in _KINDS or not slash or not name):
        parser.error(f"{args.object}: expected secretsync/NAME or akvsync/NAME")
    for given in filter(None, (name, args.namespace, args.release_namespace, args.release)):
        if not re.fullmatch(DNS_SUBDOMAIN, given):
            parser.error(f"{given}: a name in Kubernetes has only lower-case letters, digits, - and .")
    kind = _KINDS.get(kind.lower(), "")
    # The doctor reports the libraries' errors in one line, with the next step.
    for library in ("azure", "msal", "asyncio", "aiohttp"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    question = ExaminationScope(
        kind=kind,
        name=name,
        namespace=args.namespace or ("default" if name else ""),
        choice=ReleaseChoice(args.release_namespace, args.release),
        hosts=tuple(args.allow_host),
    )
    try:
        found = asyncio.run(examine(args.kubeconfig, question))
    except (BadInput, errors.KubeError) as error:
        command.print_problem("tools/doctor", error)
        return 2
    shown = [check for check in found if not args.quiet or check.level is not checks.CheckLevel.OK]
    if args.output == "json":
        print(printable.as_json({"checks": shown}))
    else:
        for check in shown:
            print(check)
    return checks.worst(found)


def _parse_host(text: str) -> str:
    try:
        return trusted_hosts.parse(text)
    except trusted_hosts.HostError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    command.run_and_exit("tools/doctor", main)
