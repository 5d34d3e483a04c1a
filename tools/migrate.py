"""From the CSI driver's mounts to SecretSyncs or AKVSyncs; from SSE to this controller, and back to SSE.

tools/migration.py, akvsyncs.py and handover.py decide, manifests.py reads files; here is what else is read and written.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from controller import errors
from controller.api.meta import ObjectMeta, Secret
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.kube import Handle
from controller.objects import CLIENT
from tools import akvsyncs, command, handover, kube_names, migration, printable, releases, text
from tools.caller import Caller, Object, connect
from tools.command import BadInput
from tools.manifests import load
from tools.migration import Manifest, Migration, Note, Options
from tools.migration_report import MANIFESTS, patch_file, report, syncs_of
from tools.releases import Choice, Release

_WORKLOADS = {
    "/apis/apps/v1": ("deployments", "statefulsets", "daemonsets", "replicasets"),
    "/apis/batch/v1": ("cronjobs", "jobs"),
    "/api/v1": ("pods", "replicationcontrollers"),
}
_EPILOG = """\
examples:
  tools/migrate csi --cluster --output moved/       what the cluster has, as files to review and apply
  tools/migrate csi class.yaml app.yaml --akvsync   the same from files, to stdout; the report to stderr
  tools/migrate from-sse                            what this controller would find where SSE runs now
  tools/migrate to-sse                              what would be handed back, and with --apply: hands it back

`csi` and `from-sse` only read, with your own rights, and of Secrets the metadata alone. `to-sse --apply` changes which
controller the managedFields of Secrets name, and nothing else; it wants this controller stopped first.

exit codes: 0 done, 1 something needs a person (the report says what), 2 bad input or no way to the cluster
"""


async def gather(caller: Caller, namespace: str) -> tuple[list[Manifest], str]:
    """The cluster's classes, SecretSyncs and workloads, and its issuer (empty where it may not be seen)."""
    at = f"/namespaces/{namespace}" if namespace else ""
    places = [(f"/apis/{kind.api_version()}", (kind.plural,)) for kind in (SecretProviderClass, SecretSync)]
    found: list[Manifest] = []
    for api, plurals in (*places, *_WORKLOADS.items()):
        for plural in plurals:
            try:
                found += [_typed(item, api, plural) for item in await caller.objects(f"{api}{at}/{plural}")]
            except errors.NotFound:
                continue  # a kind that is not installed: SecretSync comes with stage 3
    try:
        issuer = str((await caller.object("/.well-known/openid-configuration"))["issuer"])
    except errors.KubeError:
        issuer = ""
    return found, issuer


def _typed(item: Object, api: str, plural: str) -> Object:
    """Items of a list come without kind and apiVersion."""
    kinds = {kind.lower(): kind for kind in (*migration.TEMPLATES, SecretProviderClass.kind, SecretSync.kind)}
    kind = next(kind for name, kind in kinds.items() if plural in (f"{name}s", f"{name}es"))
    return {"apiVersion": api.removeprefix("/apis/").removeprefix("/api/"), "kind": kind, **item}


def as_akvsyncs(found: Migration) -> Migration:
    """The same with an AKVSync in place of each class and its SecretSyncs, where it can say as much."""
    manifests: list[Manifest] = []
    notes = list(found.notes)
    for source in (each for each in found.manifests if each["kind"] == SecretProviderClass.kind):
        syncs = syncs_of(found, source)
        try:
            manifests += [akvsyncs.akvsync(source, syncs)]
        except akvsyncs.Inexpressible as word:
            notes.append(Note(migration.place(source), f"no AKVSync can say {word}: it stays a class and SecretSyncs"))
            manifests += [source, *syncs]
    return msgspec.structs.replace(found, manifests=manifests, notes=notes)


def write(found: Migration, issuer: str, folder: Path) -> None:
    """The files of a migration, into a folder that is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"--output {folder} exists and is not an empty folder")
    (folder / "patches").mkdir(parents=True)
    (folder / MANIFESTS).write_text(_documents(found.manifests))
    for patch in found.patches:
        (folder / patch_file(patch)).write_text(text.foreign_yaml(patch))
    (folder / "REPORT.md").write_text(report(found, issuer))


def _documents(manifests: Iterable[Manifest]) -> str:
    return "---\n".join(map(text.foreign_yaml, manifests))


async def csi(args: argparse.Namespace) -> int:
    """`tools/migrate csi`."""
    if args.cluster == bool(args.files):
        raise BadInput("name files, or --cluster")
    if args.cluster:
        async with connect(args.kubeconfig) as caller:
            objects, issuer = await gather(caller, args.namespace)
    else:
        objects, issuer = await asyncio.to_thread(load, args.files), ""
    found = migration.migrate(objects, Options(client_id=args.client_id, service_account=args.service_account))
    if args.akvsync:
        found = as_akvsyncs(found)
    issuer = args.issuer or issuer
    if args.output:
        await asyncio.to_thread(write, found, issuer, args.output)
        say(f"{len(found.manifests)} manifests, {len(found.patches)} patches: {args.output}/REPORT.md tells the rest")
    else:
        print(_documents([*found.manifests, *found.patches]), end="")
        print(report(found, issuer), file=sys.stderr)
    return 1 if found.notes else 0


async def _syncs(caller: Caller, namespace: str) -> list[SecretSync]:
    try:
        found = await caller.every(SecretSync, namespace)
    except errors.NotFound as error:
        raise BadInput("the cluster does not serve SecretSync, so that there is nothing of SSE's or ours") from error
    if not found:
        print("there is no SecretSync", file=sys.stderr)
    return found


async def from_sse(args: argparse.Namespace) -> int:
    """`tools/migrate from-sse`."""
    code = 0
    async with connect(args.kubeconfig) as caller:
        for meta in await _running_sse(caller):
            say(f"SSE runs as {meta['namespace']}/{meta['name']}: stop it before this controller starts")
            code = 1
        for sync in await _syncs(caller, args.namespace):
            try:
                held = await _metadata(caller, sync)
                why = handover.obstacle(sync, msgspec.convert(held, ObjectMeta) if held else None)
            except errors.Refused as error:
                held, why = None, f"its Secret cannot be read: {error}"
            well = "taken over as it is; an equal Secret is not rewritten" if held else "has no Secret yet"
            say(f"{_name(sync)}: {why or well}")
            code = 1 if why else code
    return code


async def _running_sse(caller: Caller) -> list[Object]:
    """Return the metadata of SSE's Deployments that run.

    An editor can give a Deployment any name. SSE's has an account with rights in the whole cluster, so the
    ClusterRoleBindings decide where the caller may list them.
    """
    found = [
        each
        for each in await caller.objects("/apis/apps/v1/deployments")
        if handover.SSE_MANAGER in each["metadata"]["name"] and each.get("spec", {}).get("replicas", 1)
    ]
    try:
        bindings = await caller.objects("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings") if found else []
    except errors.Refused:
        return [each["metadata"] for each in found]
    bound = {(each.get("namespace"), each["name"]) for item in bindings for each in item.get("subjects") or []}
    return [each["metadata"] for each in found if (each["metadata"]["namespace"], releases.runs_as(each)) in bound]


async def to_sse(args: argparse.Namespace) -> int:
    """`tools/migrate to-sse`."""
    code = 0
    async with connect(args.kubeconfig) as caller:
        for release in await _running(caller, Choice(args.release_namespace)):
            stop = printable.command(
                *("kubectl", "--namespace", release.namespace, "scale", "deployment", release.name, "--replicas=0")
            )
            if args.apply:
                doubt = "" if release.verified else "; if it is another program, name the release: --release-namespace"
                raise BadInput(f"this controller still runs and would write again; first: {stop}{doubt}")
            say(f"before --apply, stop this controller: {stop}")
        for sync in await _syncs(caller, args.namespace):
            try:
                code = max(code, await _hand_back(caller, sync, apply=args.apply))
            except errors.Refused as error:
                say(f"{_name(sync)}: is left as it is: {error}")
                code = 1
    return code


async def _running(caller: Caller, choice: Choice) -> list[Release]:
    """Return the releases that have a running pod.

    Where administrators' objects name no release, every Deployment with our label may be one.
    """
    try:
        found = await releases.search(caller, choice)
    except releases.NotSeen:
        found = []
    if not found and not choice.namespace:
        found = await releases.labelled(caller)
    return [each for each in found if each.deployment.get("status", {}).get("availableReplicas")]


async def _hand_back(caller: Caller, sync: SecretSync, *, apply: bool) -> int:
    """Hand one Secret back, or say what would be done; the exit code. Raises `errors.Refused`."""
    held = await _metadata(caller, sync)
    if held is None:
        say(f"{_name(sync)}: has no Secret; SSE makes it")
        return 0
    # Only the SecretSync's own Secret: a Secret of its name may belong to another program.
    if not handover.is_owned(sync, msgspec.convert(held, ObjectMeta)):
        say(f"{_name(sync)}: its Secret does not belong to this SecretSync; it is left as it is")
        return 1
    entries = handover.handed_back(held.get("managedFields", []))
    if entries and apply:
        await caller.set_managed_fields(_path(sync), held, entries)
    say(f"{_name(sync)}: " + (_DONE[apply] if entries else "is SSE's to write already"))
    if foreign := handover.others(held.get("managedFields", [])):
        say(f"{_name(sync)}: {', '.join(foreign)} set a part of the data too, and SSE conflicts with that")
        return 1
    return 0


def say(text: str) -> None:
    """Print one printable line."""
    print(printable.line(text))


_DONE = {True: "handed back", False: "would be handed back (--apply)"}


def _name(sync: SecretSync) -> str:
    return f"{sync.metadata.namespace}/{sync.metadata.name}"


def _path(sync: SecretSync) -> str:
    return Handle(Secret, "").path(sync.metadata.namespace, sync.metadata.name)


async def _metadata(caller: Caller, sync: SecretSync) -> Object | None:
    try:
        return await caller.metadata(_path(sync))
    except errors.NotFound:
        return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/migrate",
        description="Moves a cluster from the Secrets Store CSI driver, from SSE, or back to SSE.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("csi", help="classes and mounts of the CSI driver, as manifests, patches and a report")
    one.add_argument("files", nargs="*", type=Path, metavar="FILE", help="YAML with classes and workloads; - is stdin")
    one.add_argument("--cluster", action="store_true", help="read them from the cluster instead")
    one.add_argument("--akvsync", action="store_true", help="make AKVSyncs, where they can say as much")
    one.add_argument(
        "--client-id",
        default="",
        type=_client_id,
        help="the managed identity, for classes that name none or another way",
    )
    one.add_argument(
        "--service-account",
        default="",
        type=_object_name,
        help="who reads the vault (default: as who mounts the class)",
    )
    one.add_argument("--issuer", default="", help="the cluster's issuer, for the az lines (default: the cluster's own)")
    one.add_argument("--output", type=Path, metavar="DIR", help="write files there (default: stdout)")
    two = commands.add_parser("from-sse", help="what this controller would find of SSE's; changes nothing")
    three = commands.add_parser("to-sse", help="hands every Secret back to SSE, so that its next apply succeeds")
    three.add_argument("--release-namespace", default="", metavar="NAMESPACE", type=_namespace,
                       help="where this controller's release is (default: the ones that the cluster has)")  # fmt: skip
    three.add_argument("--apply", action="store_true", help="do it (default: tell what would be done)")
    for each, run in ((one, csi), (two, from_sse), (three, to_sse)):
        each.add_argument("-n", "--namespace", default="", type=_namespace, help="(default: all)")
        each.add_argument("--kubeconfig", type=Path, metavar="FILE", help="(default: as tools/doctor)")
        each.set_defaults(run=run)
    return parser


def _object_name(given: str) -> str:
    return _fitting(given, kube_names.is_name(given), "a name in Kubernetes has small letters, digits, - and . alone")


def _namespace(given: str) -> str:
    return _fitting(given, kube_names.is_namespace(given), "a namespace has small letters, digits and - alone")


def _client_id(given: str) -> str:
    return _fitting(given, bool(CLIENT.fullmatch(given)), "a client id has letters, digits and - alone")


def _fitting(given: str, fits: bool, expected: str) -> str:
    if given and not fits:
        raise argparse.ArgumentTypeError(f"{printable.line(given)}: {expected}")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; see `--help`."""
    args = _parser().parse_args(argv)
    try:
        code: int = asyncio.run(args.run(args))
    except (BadInput, errors.KubeError) as error:
        command.complain("tools/migrate", error)
        return 2
    return code


if __name__ == "__main__":
    command.end("tools/migrate", main)
