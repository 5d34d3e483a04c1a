"""`tools/migrate external-secrets` and `tools/migrate akv2k8s`: read the objects, and write the results."""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence

import msgspec

from controller import errors
from controller.api.akvsync import AKVSync
from controller.api.secretproviderclass import SecretProviderClass
from controller.domain.provider_class import TENANT
from tools.cli.common import printable
from tools.cli.common.command import BadInput, ToolParser, parse_path
from tools.cli.common.kube_client import OperatorKubeClient, connect
from tools.cli.migrate.manifests import select_namespace
from tools.cli.migrate.objects import Manifest, MigrationNote
from tools.cli.migrate.operators.akv2k8s import conversion as akv2k8s
from tools.cli.migrate.operators.akv2k8s import kinds as akv2k8s_kinds
from tools.cli.migrate.operators.external_secrets import conversion as external_secrets
from tools.cli.migrate.operators.external_secrets import kinds as external_secrets_kinds
from tools.cli.migrate.operators.foreign_manifests import ForeignObjects, load
from tools.cli.migrate.operators.report import AKV2K8S, EXTERNAL_SECRETS, OperatorTexts, build_report
from tools.cli.migrate.operators.result import ConversionOptions, ConversionResult
from tools.cli.migrate.results import to_documents, write_results

_EPILOG = """\
A Secret becomes an AKVSync with the name of the object that generates the Secret today. It becomes a
SecretProviderClass and a SecretSync if it needs a feature that AKVSync lacks: a pinned version, another cloud, a
certificate without its key, a part of a certificate in a Secret that is not of type kubernetes.io/tls, or a type that
AKVSync does not list.
A Secret is taken over only if all of its keys carry over with the same values. If some keys have no counterpart, the
others go to a second Secret, NAME-akv, and the old Secret stays. For each such key, the report has the reason and the
best alternative.

This command only reads, with your own rights, and it reads no Secret. The report has the commands for the identities,
and the commands that take over a Secret in place, so that its pods are not affected.

exit codes: 0 all is carried over, 1 notes need your attention (the report has them), 2 bad input or the cluster
cannot be reached
"""


class _KindLocation(msgspec.Struct, frozen=True):
    """The API of a kind. The first version that the cluster serves is read."""

    kind: str
    plural: str
    group: str
    versions: tuple[str, ...]
    namespaced: bool = True


class _OperatorTool(msgspec.Struct, frozen=True):
    """The kinds of another operator, and the function that converts them."""

    operator: OperatorTexts
    checked_kinds: Callable[[], tuple[str, ...]]
    convert: Callable[[Iterable[Manifest], ConversionOptions], ConversionResult]
    places: Sequence[_KindLocation]


def _eso_kind(kind: str, plural: str, versions: tuple[str, ...] = external_secrets_kinds.VERSIONS) -> _KindLocation:
    return _KindLocation(
        kind, plural, external_secrets_kinds.GROUP, versions, namespaced=not kind.startswith("Cluster")
    )


def _workload_kind(kind: str, group: str) -> _KindLocation:
    return _KindLocation(kind, f"{kind.lower()}s", group, ("v1",))


_OURS = (
    _KindLocation(
        SecretProviderClass.kind, SecretProviderClass.plural, SecretProviderClass.group, (SecretProviderClass.version,)
    ),
    _KindLocation(AKVSync.kind, AKVSync.plural, AKVSync.group, (AKVSync.version,)),
)
_TOOLS = {
    "external-secrets": _OperatorTool(
        EXTERNAL_SECRETS,
        external_secrets.checked_kinds,
        external_secrets.convert_objects,
        (
            _eso_kind("ExternalSecret", "externalsecrets"),
            _eso_kind("ClusterExternalSecret", "clusterexternalsecrets"),
            _eso_kind("SecretStore", "secretstores"),
            _eso_kind("ClusterSecretStore", "clustersecretstores"),
            _eso_kind("PushSecret", "pushsecrets", ("v1alpha1",)),
            _eso_kind("ClusterPushSecret", "clusterpushsecrets", ("v1alpha1",)),
            _KindLocation("ServiceAccount", "serviceaccounts", "", ("v1",)),
            _KindLocation("Namespace", "namespaces", "", ("v1",), namespaced=False),
            *_OURS,
        ),
    ),
    "akv2k8s": _OperatorTool(
        AKV2K8S,
        akv2k8s.checked_kinds,
        akv2k8s.convert_objects,
        (
            _KindLocation("AzureKeyVaultSecret", "azurekeyvaultsecrets", "spv.no", akv2k8s_kinds.VERSIONS),
            *(_workload_kind(kind, "apps") for kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")),
            *(_workload_kind(kind, "batch") for kind in ("CronJob", "Job")),
            *(_workload_kind(kind, "") for kind in ("Pod", "ReplicationController")),
            *_OURS,
        ),
    ),
}
NAMESPACE_HELP = "only this one; objects of files that name none are in it (default: all)"
_HELP = {
    "external-secrets": "ExternalSecrets and stores of provider azurekv, as manifests and a report",
    "akv2k8s": "AzureKeyVaultSecrets and injected environments, as manifests, patches and a report",
}


def add_parsers(commands: "argparse._SubParsersAction[ToolParser]", **types: Callable[[str], str]) -> None:
    """Add both subcommands. `types` are the checks of arguments: object_name, namespace and client_id."""
    for name, summary in _HELP.items():
        parser = commands.add_parser(
            name, help=summary, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        parser.add_argument(
            "files", nargs="*", type=parse_path, metavar="FILE", help="a YAML file, a folder, or - for stdin"
        )
        parser.add_argument("-f", "--filename", action="append", default=[], type=parse_path, help="same as FILE")
        parser.add_argument("--cluster", action="store_true", help="read the cluster instead of files")
        parser.add_argument("-n", "--namespace", default="", type=types["namespace"], help=NAMESPACE_HELP)
        parser.add_argument("--kubeconfig", type=parse_path, metavar="FILE", help="(default: as tools/doctor)")
        parser.add_argument("--vault", default="", help="the Key Vault's name (default: that of the manifests)")
        parser.add_argument(
            "--client-id",
            default="",
            type=types["client_id"],
            help="the managed identity that reads the vault (default: that of the manifests)",
        )
        parser.add_argument(
            "--tenant-id", default="", type=_parse_tenant, help="its tenant (default: that of the manifests)"
        )
        parser.add_argument(
            "--service-account",
            default="",
            type=types["object_name"],
            help="the ServiceAccount that reads the vault, in each namespace (default: that of the manifests, or"
            " `default`)",
        )
        parser.add_argument(
            "--beside", action="store_true", help="create new Secrets, NAME-akv, beside those that exist"
        )
        parser.add_argument(
            "--classes", action="store_true", help="generate SecretProviderClasses and SecretSyncs, not AKVSyncs"
        )
        parser.add_argument("--issuer", default="", help="the cluster's issuer, for the az commands (default: its own)")
        parser.add_argument("--output", type=parse_path, metavar="DIR", help="write files there (default: stdout)")
        parser.set_defaults(read=_read_files, run=run)


def _parse_tenant(given: str) -> str:
    if given and not TENANT.fullmatch(given):
        raise argparse.ArgumentTypeError(
            f"{printable.line(given)}: a tenant's id or domain has letters, digits, . and -"
        )
    return given


def _read_files(args: argparse.Namespace) -> ForeignObjects | None:
    """Return the objects in the files and folders, or None if the cluster is to be read."""
    paths = [*args.files, *args.filename]
    if args.cluster == bool(paths):
        raise BadInput("give files or folders, or --cluster")
    if args.cluster:
        return None
    found = load(paths, _TOOLS[args.command].checked_kinds(), args.namespace)
    # A ClusterExternalSecret makes objects in namespaces that no file names.
    if not any(each["kind"].startswith("Cluster") for each in found.objects):
        select_namespace(found.objects, args.namespace)
    return found


async def run(args: argparse.Namespace) -> int:
    """Run one of the subcommands, and return the exit code."""
    tool = _TOOLS[args.command]
    found: ForeignObjects = args.given
    issuer = args.issuer
    if args.cluster:
        async with connect(args.kubeconfig) as caller:
            found = await _gather_objects(caller, tool, args.namespace)
            issuer = issuer or await caller.read_issuer()
    elif args.namespace:
        kept = [each for each in found.objects if _is_in(each, args.namespace)]
        found = msgspec.structs.replace(found, objects=kept)
    options = ConversionOptions(
        vault=args.vault,
        client_id=args.client_id,
        tenant_id=args.tenant_id,
        service_account=args.service_account,
        classes=args.classes,
        beside=args.beside,
    )
    result = tool.convert(found.objects, options)
    for note in found.notes:
        result.note(note.about, note.text)
    page = build_report(result, tool.operator, issuer)
    if args.output:
        await asyncio.to_thread(write_results, args.output, result.manifests, result.patches, page)
        counts = f"{len(result.manifests)} manifests, {len(result.patches)} patches, {len(result.notes)} notes"
        print(printable.line(f"{counts}: read {args.output}/REPORT.md"))
    else:
        print(to_documents([*result.manifests, *result.patches]), end="")
        print(page, file=sys.stderr)
    return 1 if result.notes else 0


def _is_in(manifest: Manifest, namespace: str) -> bool:
    """Return whether an object is in that namespace or has no namespace."""
    return (manifest["metadata"].get("namespace") or namespace) == namespace


async def _gather_objects(caller: OperatorKubeClient, tool: _OperatorTool, namespace: str) -> ForeignObjects:
    """Return the objects of the cluster. Add a note for a kind that the caller may not list.

    The first kind is the operator's own: raise `errors.Refused` if it may not be listed, `BadInput` if it is missing.
    """
    found = ForeignObjects([], [])
    for number, place in enumerate(tool.places):
        at = f"/namespaces/{namespace}" if namespace and place.namespaced else ""
        for version in place.versions:
            api = f"/apis/{place.group}/{version}" if place.group else f"/api/{version}"
            try:
                items = await caller.list_objects(f"{api}{at}/{place.plural}")
            except errors.NotFound:
                continue
            except errors.Refused as error:
                if number == 0:
                    raise
                found.notes.append(MigrationNote(place.plural, f"cannot be listed: {error}"))
                break
            head = {"apiVersion": f"{place.group}/{version}".lstrip("/"), "kind": place.kind}
            found.objects.extend({**head, **item} for item in items)
            break
        else:
            if number == 0:
                raise BadInput(f"the cluster does not serve {place.kind} of {place.group}")
    return found
