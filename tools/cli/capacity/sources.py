"""Read the objects for `tools/plan --from` from a cluster or from a folder of manifests."""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from controller import errors
from controller.api.akvsync import AKVSync
from controller.api.meta import Resource, ServiceAccount
from controller.api.secretproviderclass import SecretProviderClass
from controller.api.secretsync import SecretSync
from tools.cli.capacity.poll_costs import ClusterObjects
from tools.cli.common import kube_client
from tools.cli.common.command import BadInput, read_yaml
from tools.cli.common.kube_client import OperatorKubeClient
from tools.cli.common.manifest_files import MAX_FILES, list_manifest_files, without_nulls

FORBIDDEN = 403
R = TypeVar("R", bound=Resource)


def read_manifests(path: Path) -> ClusterObjects:
    """Read a file, or all *.yaml, *.yml and *.json files below a folder. Raise `BadInput`."""
    if not path.exists():
        raise BadInput(f"{path}: there is no such file or folder; give one, or `cluster`")
    files = [path]
    if path.is_dir():
        files = [file for file in list_manifest_files(path) if file.is_file()]
        if not files:
            raise BadInput(f"{path}: has no *.yaml, *.yml or *.json files")
        if len(files) > MAX_FILES:
            raise BadInput(f"{path}: has more than {MAX_FILES} manifests; give a folder with fewer")
    found = ClusterObjects()
    for file in files:
        for document in read_yaml(file):
            items = document.get("items") if isinstance(document, dict) else None
            for item in items if isinstance(items, list) else [document]:
                _add_object(found, item, file)
    return found


def _add_object(found: ClusterObjects, item: Any, file: Path) -> None:
    if not isinstance(item, dict):
        return
    kinds: dict[type[Resource], list[Any]] = {
        SecretProviderClass: found.classes,
        SecretSync: found.syncs,
        AKVSync: found.akv_syncs,
        ServiceAccount: found.accounts,
    }
    for kind, into in kinds.items():
        group = str(item.get("apiVersion", "")).rpartition("/")[0]
        if (item.get("kind"), group) == (kind.kind, kind.group):
            try:
                into.append(msgspec.convert(without_nulls(item), kind))
            except msgspec.ValidationError as error:
                raise BadInput(f"{file}: a {kind.kind} does not have the form of its kind: {error}") from error


async def read_cluster(kubeconfig: Path | None) -> ClusterObjects:
    """Read the objects of a cluster with the caller's rights. Raise `KubeError`."""
    async with kube_client.connect(kubeconfig) as caller:
        return await read_objects(caller)


async def read_objects(caller: OperatorKubeClient) -> ClusterObjects:
    """Read the objects that the caller may list. Raise `KubeError`."""
    return ClusterObjects(
        classes=await _list_if_installed(caller, SecretProviderClass),
        syncs=await _list_if_installed(caller, SecretSync),
        akv_syncs=await _list_if_installed(caller, AKVSync),
        accounts=await _list_if_installed(caller, ServiceAccount),
    )


async def _list_if_installed(caller: OperatorKubeClient, kind: type[R]) -> list[R]:
    """Return all objects of that kind; none where its CRD is not installed."""
    try:
        return await caller.list_kind(kind)
    except errors.NotFound:
        return []
    except errors.Refused as error:
        if error.status != FORBIDDEN:
            raise
        raise errors.Refused(
            f"you may not list {kind.plural} in all namespaces; ask an administrator for the right, or export the"
            f" objects (kubectl get {kind.plural} --all-namespaces --output yaml) and give the file to --from"
        ) from error
