"""`tools/migrate from-sse`: show what this controller would take over from SSE, and SSE's settings for this chart.

It reads with the caller's rights and changes nothing. Of Secrets it reads only the metadata, except for the Secret in
which helm stores SSE's release.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from controller import errors
from controller.api.meta import ObjectMeta, Secret
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from controller.config.settings import BUILT_IN_CLOUDS, DEFAULT_CLOUD
from controller.domain.managed_fields import SSE_MANAGER
from controller.keyvault.credentials import Identity
from controller.kube.resources import ResourceClient
from tools.cli import releases
from tools.cli.common import helm, kube_names, printable, templating
from tools.cli.common.command import BadInput, read_yaml
from tools.cli.common.kube_client import Object, OperatorKubeClient, connect, first_line
from tools.cli.doctor import checks, class_checks
from tools.cli.doctor.checks import CheckLevel, CheckResult, fail, ok, warn
from tools.cli.migrate import sse_ownership, sse_settings
from tools.cli.migrate.common import list_syncs, name_of, print_line, secret_metadata
from tools.cli.migrate.sse_settings import BadReleaseError, HelmRelease, SseSetting

_HELM_LABELS = "owner=helm"
_RELEASE_NAME, _RELEASE_NAMESPACE = "meta.helm.sh/release-name", "meta.helm.sh/release-namespace"
_OWN_CHART = "akv-secret-store"


def read_values(args: argparse.Namespace) -> Mapping[str, Any] | None:
    """Return SSE's settings in the file that the caller named, or None without one. Raise `BadInput`."""
    return _values_of_file(args.values) if args.values else None


async def from_sse(args: argparse.Namespace) -> int:
    """Run the subcommand, and return its exit code."""
    given: Mapping[str, Any] | None = args.given
    found: list[CheckResult] = []
    async with connect(args.kubeconfig) as caller:
        deployments = await _list_deployments(caller)
        for meta in (each["metadata"] for each in deployments if each.get("spec", {}).get("replicas", 1)):
            print_line(f"SSE runs as {meta['namespace']}/{meta['name']}: stop it before this controller starts")
            found.append(fail(checks.CLUSTER, "sse", "it runs", "stop it"))
        problems = await _print_sse_settings(caller, given, deployments)
        syncs = await list_syncs(caller, args.namespace)
        classes = await _list_classes(caller, args.namespace)
        for item in syncs:
            for check in await _examine_sync(caller, item, classes):
                print(check)
                found.append(check)
    return int(problems or checks.worst(found))


async def _examine_sync(caller: OperatorKubeClient, item: Object, classes: "ClassTable") -> list[CheckResult]:
    """Check one SecretSync: its class and mapping, with the checks of tools/doctor, and its Secret."""
    subject = f"{item['metadata'].get('namespace')}/{item['metadata'].get('name')}"
    try:
        sync = msgspec.convert(item, SecretSync)
    except msgspec.ValidationError as error:
        return [fail(subject, "mapping", f"the SecretSync does not have the form of its kind: {error}", "correct it")]
    return [*classes.check(sync), await _read_secret(caller, sync)]


async def _read_secret(caller: OperatorKubeClient, sync: SecretSync) -> CheckResult:
    subject = name_of(sync)
    try:
        held = await secret_metadata(caller, sync)
        why = sse_ownership.takeover_blocker(sync, msgspec.convert(held, ObjectMeta) if held else None)
    except errors.Refused as error:
        return CheckResult(subject, "secret", CheckLevel.FAIL, f"its Secret cannot be read: {error}")
    if why:
        return CheckResult(subject, "secret", CheckLevel.FAIL, why)
    return ok(subject, "secret", "taken over as it is; an equal Secret is not rewritten" if held else "none yet")


class ClassTable(msgspec.Struct, frozen=True):
    """The SecretProviderClasses by namespace and name, or the reason why they cannot be read."""

    found: Mapping[tuple[str, str], SecretProviderClass | str]
    unseen: str = ""

    def check(self, sync: SecretSync) -> list[CheckResult]:
        """Return the checks of tools/doctor for the class and the mapping of a SecretSync."""
        subject = name_of(sync)
        if self.unseen:
            return [warn(subject, "class", self.unseen, "ask for the right to read it")]
        source = self.found.get((sync.metadata.namespace, sync.spec.secret_provider_class_name))
        if isinstance(source, str):
            return [fail(subject, "class", source, "correct the SecretProviderClass")]
        try:
            understood = class_checks.understand(sync, source, BUILT_IN_CLOUDS, DEFAULT_CLOUD)
        except errors.ControllerError as error:
            return [class_checks.refused(subject, error)]
        vault = understood.source
        who = Identity(sync.metadata.namespace, sync.spec.service_account_name, vault.client_id, vault.tenant_id)
        return [*class_checks.checks_of(subject, understood), class_checks.roles(subject, who, vault)]


async def _list_classes(caller: OperatorKubeClient, namespace: str) -> ClassTable:
    at = f"/namespaces/{namespace}" if namespace else ""
    try:
        items = await caller.list_objects(f"/apis/{SecretProviderClass.api_version()}{at}/{SecretProviderClass.plural}")
    except errors.NotFound:
        return ClassTable({})
    except errors.Refused as error:
        return ClassTable({}, first_line(error))
    found: dict[tuple[str, str], SecretProviderClass | str] = {}
    for item in items:
        key = (str(item["metadata"].get("namespace")), str(item["metadata"].get("name")))
        try:
            found[key] = msgspec.convert(item, SecretProviderClass)
        except msgspec.ValidationError as error:
            found[key] = f"the SecretProviderClass does not have the form of its kind: {error}"
    return ClassTable(found)


async def _list_deployments(caller: OperatorKubeClient) -> list[Object]:
    """Return SSE's Deployments.

    An editor can give a Deployment any name. SSE's Deployment has a ServiceAccount with rights in the whole cluster.
    Therefore the ClusterRoleBindings decide, if the caller may list them.
    """
    found = [
        each
        for each in await caller.list_objects("/apis/apps/v1/deployments")
        if SSE_MANAGER in each["metadata"]["name"]
    ]
    try:
        bindings = await caller.list_objects("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings") if found else []
    except errors.Refused:
        return found
    bound = {(each.get("namespace"), each["name"]) for item in bindings for each in item.get("subjects") or []}
    return [each for each in found if (each["metadata"]["namespace"], releases.runs_as(each)) in bound]


async def _print_sse_settings(
    caller: OperatorKubeClient, given: Mapping[str, Any] | None, deployments: Iterable[Object]
) -> bool:
    """Print SSE's settings as values of this chart. Return whether a person must act."""
    if given is not None:
        return await _print_settings("the given values", given, await caller.get_server_version())
    seen = False
    problems = False
    for namespace, name in await _release_names(caller, deployments):
        try:
            release = await _find_release(caller, namespace, name)
        except (errors.Refused, BadReleaseError) as error:
            print_line(
                f"release {namespace}/{name} of SSE could not be read: {error}; give its settings with --values FILE"
            )
            seen = problems = True
            continue
        if release and release.chart.metadata.name != _OWN_CHART:
            seen = True
            title = f"release {namespace}/{name} (chart {release.chart.metadata.name} {release.chart.metadata.version})"
            problems |= await _print_settings(title, release.config or {}, await caller.get_server_version())
    if not seen:
        print_line("no helm release of SSE was found; to convert its settings, give them with --values FILE")
    return problems


async def _release_names(caller: OperatorKubeClient, deployments: Iterable[Object]) -> list[tuple[str, str]]:
    """Return the namespace and name of the releases that can be SSE's.

    Annotations of the Deployments name their release. Without them, every release in SSE's namespace counts: on Arc, a
    release has the name of the extension, which the user chooses.
    """
    found = set()
    for each in deployments:
        notes = each["metadata"].get("annotations") or {}
        namespace, name = notes.get(_RELEASE_NAMESPACE), notes.get(_RELEASE_NAME)
        if kube_names.is_namespace(namespace) and kube_names.is_name(name):  # an editor can write any text there
            found.add((str(namespace), str(name)))
    if found:
        return sorted(found)
    try:
        secrets = await caller.list_metadata(_list_secrets(helm.RELEASE), _HELM_LABELS)
    except errors.Refused:
        return [(helm.RELEASE, helm.RELEASE)]
    names = {str(each.get("labels", {}).get("name")) for each in secrets}
    return sorted((helm.RELEASE, name) for name in names if kube_names.is_name(name))


def _list_secrets(namespace: str) -> str:
    return ResourceClient(Secret, "").url_path(namespace)


async def _find_release(caller: OperatorKubeClient, namespace: str, name: str) -> HelmRelease | None:
    """Return the deployed revision of a helm release, or else the newest one, or None if there is no revision."""
    labels = f"{_HELM_LABELS},name={name}"
    path = _list_secrets(namespace)
    found = [each["labels"] | {"secret": each["name"]} for each in await caller.list_metadata(path, labels)]
    revisions = [each for each in found if str(each.get("version")).isascii() and str(each.get("version")).isdigit()]
    if not revisions:
        return None
    newest = max(revisions, key=lambda each: (each.get("status") == "deployed", int(each["version"])))
    secret = await caller.get_object(f"{path}/{newest['secret']}")
    packed = (secret.get("data") or {}).get("release")
    if not isinstance(packed, str):
        raise BadReleaseError("its Secret has no field `release`")
    return sse_settings.read_release(packed)


async def _print_settings(title: str, values: Mapping[str, Any], version: str) -> bool:
    found = sse_settings.list_settings(values)
    print_line(f"settings of SSE, {title}: {len(found) or 'all at their defaults'}")
    for setting in found:
        print_line(str(setting))
    try:
        await asyncio.to_thread(_try_render, found, version)
    except helm.BadValues as error:
        for problem in error.problems:
            print_line(f"this chart refuses them: {problem}")
    except helm.HelmError as error:
        print_line(f"they could not be tried with this chart: {error}")
    else:
        print_line(f"the same here: {sse_settings.install_command(found, helm.RELEASE)}")
        return False
    return True


def _try_render(found: list[SseSetting], version: str) -> None:
    """Render the chart with these settings, for that Kubernetes version. Raise `helm.BadValues`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values.yaml"
        path.write_text(templating.to_ascii_yaml(sse_settings.chart_values(found)))
        helm.run(["template", helm.RELEASE, str(helm.CHART), "--values", str(path), "--kube-version", version])


def _values_of_file(path: Path) -> Mapping[str, Any]:
    documents = read_yaml(path)
    try:
        if len(documents) > 1:
            raise BadReleaseError("it has several documents; leave one")
        return sse_settings.values_of(documents[0])
    except BadReleaseError as error:
        raise BadInput(printable.line(f"{path}: {error}")) from error
