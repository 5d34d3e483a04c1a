"""Why a Secret is not what the vault holds: one line for each thing that must be right, with the step that mends it.

tools/examination.py asks (of the release through tools/installation.py, of the world through tools/outside.py),
tools/checks.py judges; here is the command line.
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
from tools import checks, command, printable, trusted_hosts
from tools.caller import Caller, Object, connect
from tools.checks import CLUSTER, Check, fail, ok
from tools.command import BadInput
from tools.examination import Examination
from tools.releases import Choice

_KINDS = {"secretsync": "SecretSync", "secretsyncs": "SecretSync", "akvsync": "AKVSync", "akvsyncs": "AKVSync"}
_API = f"/apis/{SecretSync.group}/{SecretSync.version}"
_EPILOG = """\
examples:
  tools/doctor                                 the whole cluster
  tools/doctor --namespace shop                one namespace
  tools/doctor secretsync/db --namespace shop  one SecretSync
  tools/doctor akvsync/shop -n shop -o json    one AKVSync with what it generated

what it looks at:
  cluster  the Deployment, its settings, the admission policies, the issuer's discovery document and keys as the world
           sees them, the clock against Entra's, and the ServiceAccounts for each identity (20 federated credentials)
  each     class and mapping, ServiceAccount, token, Entra's answer (with the `az` line that is needed), DNS, route and
           TLS to the vault, its tenant, each object with the role it takes, the Secret's owner and contents, the status

It reads with the rights of your kubeconfig and writes nothing. A line `warn` says what you may not see: to sign in as
a workload it needs `create` on serviceaccounts/token, and to compare, `get` on secrets. It never prints a value. Entra
and the vault are asked from this machine, with its proxies (HTTPS_PROXY) and its certificates: where the controller's
network differs, run it there. The vault counts these calls like any others.

A release is found by what only cluster administrators can create: a ClusterRoleBinding or an admission policy. Where
several fit, --release-namespace says which. The caller of --release-namespace vouches for that namespace.

Tokens go to the hosts of Azure's own clouds alone. A release's `clouds` are in a ConfigMap that editors of its
namespace can change, so nothing is sent to other hosts until --allow-host names them, as the line `hosts` shows them.

as a kubectl plugin (`kubectl akv doctor ...`):
  ln -s "$PWD/tools/doctor" ~/.local/bin/kubectl-akv-doctor

-o json prints {"checks": [{"subject", "name", "level", "text", "fix"}, ...]}; level is ok, warn or fail.

exit codes: 0 nothing fails, 1 something does, 2 bad input or no way to the cluster
"""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is examined: an object, without a name every SecretSync, without a namespace everywhere.

    `choice` says which release serves it, `hosts` which hosts the caller trusts besides Azure's own.
    """

    kind: str = ""
    name: str = ""
    namespace: str = ""
    choice: Choice = Choice()
    hosts: tuple[str, ...] = ()


async def examine(kubeconfig: Path | None, question: Question) -> list[Check]:
    """Return all checks of the cluster and of what was named."""
    kind, name, namespace = question.kind, question.name, question.namespace
    async with connect(kubeconfig) as caller, Examination(caller, question.choice, question.hosts) as examination:
        try:
            syncs, found = await _named(caller, kind, name, namespace)
        except errors.Unreachable as error:
            raise BadInput(error.message) from error
        return await examination.cluster() + await examination.everything(syncs) + found


async def _named(caller: Caller, kind: str, name: str, namespace: str) -> tuple[list[SecretSync], list[Check]]:
    """The SecretSyncs to look at, and what is to be said of the AKVSyncs that own them."""
    try:
        if kind == SecretSync.kind:
            return [await caller.get(SecretSync, namespace, name)], []
        if kind:
            owner = await caller.object(f"{_API}/namespaces/{namespace}/akvsyncs/{name}")
            owned = _owned(owner, await caller.every(SecretSync, namespace))
            return owned, [_akvsync(owner, owned)]
        syncs = await caller.every(SecretSync, namespace)
        return syncs, [_akvsync(owner, _owned(owner, syncs)) for owner in await _akvsyncs(caller, namespace)]
    except errors.NotFound as error:
        if name and f'"{name}"' in error.message:
            raise BadInput(f"there is no {kind} {name} in namespace {namespace}") from error
        fix = "install the chart, or kubectl apply --filename chart/crds"
        return [], [fail(CLUSTER, "crds", f"the cluster does not serve {kind or SecretSync.kind}", fix)]
    except errors.Refused as error:
        raise BadInput(error.message) from error


async def _akvsyncs(caller: Caller, namespace: str) -> list[Object]:
    """All of them; none where the cluster does not know the kind: a SecretSync does without."""
    try:
        return await caller.objects(f"{_API}/namespaces/{namespace}/akvsyncs" if namespace else f"{_API}/akvsyncs")
    except errors.NotFound:
        return []


def _owned(owner: Object, syncs: Sequence[SecretSync]) -> list[SecretSync]:
    uid = owner["metadata"]["uid"]
    return [sync for sync in syncs if any(reference.uid == uid for reference in sync.metadata.owner_references)]


def _akvsync(owner: Object, owned: Sequence[SecretSync]) -> Check:
    """An AKVSync's own line."""
    subject = f"{owner['metadata']['namespace']}/{owner['metadata']['name']}"
    conditions = owner.get("status", {}).get("conditions", [])
    ready: Object = next((each for each in conditions if each.get("type") == "Ready"), {})
    text = f"{ready.get('reason', 'no status')}: {ready.get('message', 'the controller has not looked at it')}"
    if ready.get("status") == "True":
        return ok(subject, "akvsync", f"{len(owned)} SecretSyncs; {text}")
    cause, _, step = text.partition("; ")
    return fail(subject, "akvsync", cause, step or "see the lines of its parts, and the controller's log")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="tools/doctor",
        description="Finds out why a Secret is not what the vault holds. One line for each thing that must be right:"
        " ok, warn or fail, what was found, and what to do.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("object", nargs="?", default="", metavar="KIND/NAME",
                        help="secretsync/NAME or akvsync/NAME (default: every SecretSync)")  # fmt: skip
    parser.add_argument("-n", "--namespace", default="", help="(default: all, or `default` for one object)")
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE",
                        help="its current context is asked (default: $KUBECONFIG, ~/.kube/config, the pod's)"
    )  # fmt: skip
    parser.add_argument("--release-namespace", default="", metavar="NAMESPACE",
                        help="the namespace of the release (default: the one that the cluster has)")  # fmt: skip
    parser.add_argument("--release", default="", metavar="NAME", help="its name, where a namespace has several")
    parser.add_argument("--allow-host", default=[], action="append", type=_host, metavar="HOST[:PORT]",
                        help="also send tokens to this host of the release's clouds, such as login.example.com or"
                        " '*.vault.example.com'; may be repeated")  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="leave out what is ok")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="(default: text)")
    args = parser.parse_args(argv)
    kind, slash, name = args.object.partition("/")
    if args.object and (kind.lower() not in _KINDS or not slash or not name):
        parser.error(f"{args.object}: expected secretsync/NAME or akvsync/NAME")
    for given in filter(None, (name, args.namespace, args.release_namespace, args.release)):
        if not re.fullmatch(DNS_SUBDOMAIN, given):
            parser.error(f"{given}: a name in Kubernetes has small letters, digits, - and . alone")
    kind = _KINDS.get(kind.lower(), "")
    # What the libraries would tell is told in one line, with the next step.
    for library in ("azure", "msal", "asyncio", "aiohttp"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    question = Question(
        kind=kind,
        name=name,
        namespace=args.namespace or ("default" if name else ""),
        choice=Choice(args.release_namespace, args.release),
        hosts=tuple(args.allow_host),
    )
    try:
        found = asyncio.run(examine(args.kubeconfig, question))
    except (BadInput, errors.KubeError) as error:
        command.complain("tools/doctor", error)
        return 2
    shown = [check for check in found if not args.quiet or check.level is not checks.Level.OK]
    if args.output == "json":
        print(printable.as_json({"checks": shown}))
    else:
        for check in shown:
            print(check)
    return checks.worst(found)


def _host(text: str) -> str:
    try:
        return trusted_hosts.parse(text)
    except trusted_hosts.HostError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    command.end("tools/doctor", main)
