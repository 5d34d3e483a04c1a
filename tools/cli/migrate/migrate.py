"""The command line of tools/migrate, and its subcommands `csi` and `to-sse`.

migration.py, workloads.py, akvsyncs.py and sse_ownership.py decide, and manifests.py reads files. takeover.py and
adopt.py have the subcommands `from-sse` and `adopt`, operators/ has `external-secrets` and `akv2k8s`.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

import msgspec

from controller import errors
from controller.api.meta import ObjectMeta
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.domain.provider_class import CLIENT
from tools.cli import releases
from tools.cli.common import command, kube_names, printable
from tools.cli.common.command import BadInput, parse_path
from tools.cli.common.kube_client import Object, OperatorKubeClient, connect
from tools.cli.migrate import akvsyncs, migration, sse_ownership, workloads
from tools.cli.migrate.adopt import adopt_secrets
from tools.cli.migrate.common import list_syncs, name_of, parse_syncs, print_line, secret_metadata, secret_path
from tools.cli.migrate.manifests import is_converted, load_manifests, select_namespace
from tools.cli.migrate.migration import SUFFIX, Migration, MigrationOptions
from tools.cli.migrate.migration_report import format_report, syncs_of
from tools.cli.migrate.objects import (
    Manifest,
    MigrationNote,
    namespace_of,
    note_default,
    place_object,
    qualified_name,
)
from tools.cli.migrate.operators import command as operators_command
from tools.cli.migrate.results import to_documents, write_results
from tools.cli.migrate.takeover import from_sse, read_values
from tools.cli.releases import ControllerRelease, ReleaseChoice

_WORKLOADS = {
    "/apis/apps/v1": ("deployments", "statefulsets", "daemonsets", "replicasets"),
    "/apis/batch/v1": ("cronjobs", "jobs"),
    "/api/v1": ("pods", "replicationcontrollers"),
}
_EPILOG = """\
examples:
  tools/migrate csi --cluster --output moved/       convert the cluster's classes and mounts into files to review
  tools/migrate csi class.yaml app.yaml --akvsync   convert files; manifests go to stdout, the report to stderr
  tools/migrate external-secrets manifests/         convert ExternalSecrets in files; akv2k8s: AzureKeyVaultSecrets
  tools/migrate from-sse                            show what this controller would take over from SSE
  tools/migrate to-sse                              show which Secrets go back to SSE; with --apply, give them back
  tools/migrate adopt                               after a restore: show which Secrets get their SecretSync as owner

`csi` and `from-sse` only read, with your own rights. Of Secrets they read only the metadata, but `from-sse` also reads
the Secret in which helm stores SSE's release, for its settings. `to-sse --apply` changes only the manager in the
managedFields of Secrets; stop this controller first. `adopt --apply` changes only the owner of Secrets; it needs
neither the controller nor a vault.

exit codes: 0 done, 1 notes need your attention (the report has them), 2 bad input or the cluster cannot be reached
"""


async def read_cluster(caller: OperatorKubeClient, namespace: str) -> tuple[list[Manifest], str]:
    """Return the cluster's classes, SecretSyncs and workloads, and its issuer (empty if the caller may not read it)."""
    at = f"/namespaces/{namespace}" if namespace else ""
    places = [(f"/apis/{kind.api_version()}", (kind.plural,)) for kind in (SecretProviderClass, SecretSync)]
    found: list[Manifest] = []
    for api, plurals in (*places, *_WORKLOADS.items()):
        for plural in plurals:
            try:
                found += [_add_type(item, api, plural) for item in await caller.list_objects(f"{api}{at}/{plural}")]
            except errors.NotFound:
                continue  # the kind is not installed: SecretSync comes with stage 3 of the report
    return found, await caller.read_issuer()


def _add_type(item: Object, api: str, plural: str) -> Object:
    """Return an item of a list with its kind and apiVersion, which lists leave out."""
    kinds = {kind.lower(): kind for kind in (*workloads.TEMPLATES, SecretProviderClass.kind, SecretSync.kind)}
    kind = next(kind for name, kind in kinds.items() if plural in (f"{name}s", f"{name}es"))
    return {"apiVersion": api.removeprefix("/apis/").removeprefix("/api/"), "kind": kind, **item}


def combine_into_akvsyncs(found: Migration) -> Migration:
    """Return the migration with an AKVSync instead of each class and its SecretSyncs.

    A class that an AKVSync cannot express stays, and gets a note.
    """
    manifests: list[Manifest] = []
    notes = list(found.notes)
    classes = [each for each in found.manifests if each["kind"] == SecretProviderClass.kind]
    taken = {(namespace_of(each), each["metadata"]["name"]) for each in classes}
    for source in classes:
        syncs = syncs_of(found, source)
        try:
            combined = akvsyncs.build_akvsync(source, syncs)
            # An AKVSync makes a class of its own name. The class that it replaces is not created.
            where, name = namespace_of(source), combined["metadata"]["name"]
            while name != source["metadata"]["name"] and (where, name) in taken:
                name += SUFFIX
            taken.add((where, name))
            combined["metadata"]["name"] = name
            manifests.append(combined)
        except akvsyncs.InexpressibleSync as reason:
            text = f"an AKVSync cannot express {reason}: it stays a class with SecretSyncs"
            notes.append(MigrationNote(qualified_name(source), text))
            manifests += [source, *syncs]
    return msgspec.structs.replace(found, manifests=manifests, notes=notes)


def _read_files(args: argparse.Namespace) -> list[Manifest]:
    """Return the objects in the files of `tools/migrate csi`."""
    if args.cluster == bool(args.files):
        raise BadInput("give files, or --cluster")
    objects = [place_object(each, args.namespace) for each in load_manifests(args.files)]
    return select_namespace(objects, args.namespace)


async def migrate_csi(args: argparse.Namespace) -> int:
    """Run `tools/migrate csi`, and return its exit code."""
    objects, issuer = args.given, ""
    if args.cluster:
        async with connect(args.kubeconfig) as caller:
            objects, issuer = await read_cluster(caller, args.namespace)
    found = migration.migrate_objects(
        objects, MigrationOptions(client_id=args.client_id, service_account=args.service_account)
    )
    if not args.cluster:
        found.notes.extend(note_default(each for each in objects if is_converted(each["kind"])))
    if args.akvsync:
        found = combine_into_akvsyncs(found)
    issuer = args.issuer or issuer
    if args.output:
        page = format_report(found, issuer)
        await asyncio.to_thread(write_results, args.output, found.manifests, found.patches, page)
        print_line(
            f"{len(found.manifests)} manifests, {len(found.patches)} patches:"
            f" {args.output}/REPORT.md has the next steps"
        )
    else:
        print(to_documents([*found.manifests, *found.patches]), end="")
        print(format_report(found, issuer), file=sys.stderr)
    return 1 if found.notes else 0


async def to_sse(args: argparse.Namespace) -> int:
    """Run `tools/migrate to-sse`, and return its exit code."""
    code = 0
    async with connect(args.kubeconfig) as caller:
        for release in await _find_running(caller, ReleaseChoice(args.release_namespace)):
            stop = printable.command(
                *("kubectl", "--namespace", release.namespace, "scale", "deployment", release.name, "--replicas=0")
            )
            if args.apply:
                doubt = "" if release.verified else "; if it is another program, give --release-namespace"
                raise BadInput(f"this controller is running and would write again; stop it first: {stop}{doubt}")
            print_line(f"before --apply, stop this controller: {stop}")
        for sync in parse_syncs(await list_syncs(caller, args.namespace)):
            try:
                code = max(code, await _hand_back(caller, sync, apply=args.apply))
            except errors.Refused as error:
                print_line(f"{name_of(sync)}: is left as it is: {error}")
                code = 1
    return code


async def _find_running(caller: OperatorKubeClient, choice: ReleaseChoice) -> list[ControllerRelease]:
    """Return the releases that have a running pod.

    If no object of an administrator names a release, every Deployment with this product's label counts as one.
    """
    try:
        found = await releases.find_releases(caller, choice)
    except releases.NotSeen:
        found = []
    if not found and not choice.namespace:
        found = await releases.list_labelled(caller)
    return [each for each in found if each.deployment.get("status", {}).get("availableReplicas")]


async def _hand_back(caller: OperatorKubeClient, sync: SecretSync, *, apply: bool) -> int:
    """Give one Secret back to SSE, or only print it, and return the exit code. Raise `errors.Refused`."""
    held = await secret_metadata(caller, sync)
    if held is None:
        print_line(f"{name_of(sync)}: has no Secret; SSE makes it")
        return 0
    # A Secret with the SecretSync's name can belong to another program.
    if not sse_ownership.is_owned(sync, msgspec.convert(held, ObjectMeta)):
        print_line(f"{name_of(sync)}: its Secret does not belong to this SecretSync; it is left as it is")
        return 1
    entries = sse_ownership.hand_back_fields(held.get("managedFields", []))
    if entries and apply:
        await caller.set_managed_fields(secret_path(sync), held, entries)
    print_line(f"{name_of(sync)}: " + (_DONE[apply] if entries else "SSE can write it already"))
    if foreign := sse_ownership.other_managers(held.get("managedFields", [])):
        print_line(
            f"{name_of(sync)}: {', '.join(foreign)} also set a part of the data; SSE's next write conflicts with it"
        )
        return 1
    return 0


_DONE = {True: "handed back", False: "would be handed back (--apply)"}


def _build_parser() -> argparse.ArgumentParser:
    parser = command.ToolParser(
        prog="tools/migrate",
        description="Move a cluster from the CSI driver, External Secrets, akv2k8s or SSE, or back to SSE.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("csi", help="convert classes and mounts of the CSI driver into manifests and patches")
    one.add_argument(
        "files", nargs="*", type=parse_path, metavar="FILE", help="YAML with classes and workloads; - is stdin"
    )
    one.add_argument("--cluster", action="store_true", help="read the cluster instead of files")
    one.add_argument("--akvsync", action="store_true", help="generate AKVSyncs, where they can express the same")
    one.add_argument(
        "--client-id",
        default="",
        type=_client_id,
        help="the managed identity, for classes that name none or sign in in another way",
    )
    one.add_argument(
        "--service-account",
        default="",
        type=_object_name,
        help="the ServiceAccount that reads the vault (default: that of the pods that mount the class)",
    )
    one.add_argument(
        "--issuer", default="", help="the cluster's issuer, for the az commands (default: the cluster's own)"
    )
    one.add_argument("--output", type=parse_path, metavar="DIR", help="write files there (default: stdout)")
    two = commands.add_parser("from-sse", help="show what this controller would take over from SSE; changes nothing")
    two.add_argument("--values", type=parse_path, metavar="FILE",
                     help="SSE's settings, as `helm get values -o yaml` or `az k8s-extension show` print them; - is"
                     " stdin (default: those of SSE's helm release)")  # fmt: skip
    three = commands.add_parser("to-sse", help="give every Secret back to SSE, so that its next apply succeeds")
    three.add_argument("--release-namespace", default="", metavar="NAMESPACE", type=_parse_namespace,
                       help="the namespace of this controller's release (default: every release)")  # fmt: skip
    three.add_argument("--apply", action="store_true", help="change the Secrets (default: print the changes)")
    four = commands.add_parser("adopt", help="make SecretSyncs the owners of their restored Secrets again")
    four.add_argument("--apply", action="store_true", help="change the Secrets (default: print the changes)")
    one.set_defaults(read=_read_files)
    two.set_defaults(read=read_values)
    for each, run in ((one, migrate_csi), (two, from_sse), (three, to_sse), (four, adopt_secrets)):
        summary = operators_command.NAMESPACE_HELP if each is one else "(default: all)"
        each.add_argument("-n", "--namespace", default="", type=_parse_namespace, help=summary)
        each.add_argument("--kubeconfig", type=parse_path, metavar="FILE", help="(default: as tools/doctor)")
        each.set_defaults(run=run)
    operators_command.add_parsers(commands, object_name=_object_name, namespace=_parse_namespace, client_id=_client_id)
    return parser


def _object_name(given: str) -> str:
    return _check_fit(given, kube_names.is_name(given), "a name in Kubernetes has only small letters, digits, - and .")


def _parse_namespace(given: str) -> str:
    return _check_fit(given, kube_names.is_namespace(given), "a namespace has only small letters, digits and -")


def _client_id(given: str) -> str:
    return _check_fit(given, bool(CLIENT.fullmatch(given)), "a client id has only letters, digits and -")


def _check_fit(given: str, fits: bool, expected: str) -> str:
    if given and not fits:
        raise argparse.ArgumentTypeError(f"{printable.line(given)}: {expected}")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code; see `--help`."""
    args = _build_parser().parse_args(argv)
    try:
        # The files are read before the event loop runs: in its threads, Ctrl-C would not end a read from a terminal.
        args.given = args.read(args) if "read" in args else None
        code: int = asyncio.run(args.run(args))
    except (BadInput, errors.KubeError) as error:
        command.print_problem("tools/migrate", error)
        return 2
    return code


if __name__ == "__main__":
    command.run_and_exit("tools/migrate", main)
