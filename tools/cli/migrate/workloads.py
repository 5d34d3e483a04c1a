"""Find the volumes of workloads that the CSI driver mounts, and patch them to mount Secrets instead. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tools.cli.migrate.objects import Manifest, MigrationNote, ObjectNotes, namespace_of, qualified_name

DRIVER = "secrets-store.csi.k8s.io"
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Job": ("spec", "template"),
    "Pod": (),
}
"""The path of the pod template in each kind of workload."""
# The API server refuses a change of their pod template: they must be created again.
_UNCHANGEABLE = ("Job", "Pod")
# Kinds that use a changed template only for pods that they create afterwards.
_KEEPING_PODS = ("ReplicaSet", "ReplicationController")


class CsiMount(msgspec.Struct, frozen=True):
    """A volume of a workload that mounts the files of a SecretProviderClass."""

    workload: Manifest
    volume: Manifest
    class_name: str

    @property
    def service_account(self) -> str:
        """The ServiceAccount of the workload's pods."""
        spec = pod_template(self.workload).get("spec", {})
        return str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "default")

    @property
    def class_key(self) -> tuple[str, str]:
        """The namespace and the name of the class."""
        return namespace_of(self.workload), self.class_name


class MountedFile(msgspec.Struct, frozen=True):
    """One file that the CSI driver mounts: its path below the volume, and its key in the Secret.

    A file of an object with several versions is `optional`: the vault may have fewer versions, and pods must start.
    """

    path: str
    key: str
    mode: int | None = None
    optional: bool = False


def can_be_patched(workload: Manifest) -> bool:
    """Return whether the API server accepts a change of the workload's pod template."""
    return workload["kind"] not in _UNCHANGEABLE


def pod_template(workload: Manifest) -> Manifest:
    """Return the pod template of a workload; an empty one if it has none."""
    found: Any = workload
    for step in TEMPLATES[workload["kind"]]:
        found = found.get(step) or {}
    return dict(found)


def find_mounts(workload: Manifest) -> Iterator[CsiMount]:
    """Yield the volumes of a workload that the CSI driver mounts."""
    if workload.get("kind") not in TEMPLATES or workload["metadata"].get("ownerReferences"):
        return  # the owner of the workload is converted instead
    for volume in (pod_template(workload).get("spec") or {}).get("volumes") or []:
        csi = volume.get("csi") or {}
        if csi.get("driver") == DRIVER:
            yield CsiMount(workload, volume, str((csi.get("volumeAttributes") or {}).get("secretProviderClass", "")))


def find_unconverted(objects: Sequence[Manifest]) -> list[MigrationNote]:
    """Return a note for each object that mounts a class if neither it nor its owner is converted."""
    known = {_key(each.get("kind"), each, each["metadata"]["name"]) for each in objects}
    found: dict[MigrationNote, None] = {}
    for each in objects:
        if not _names_driver(each.get("spec")):
            continue
        references = each["metadata"].get("ownerReferences")
        owners = [owner for owner in references if isinstance(owner, dict)] if isinstance(references, list) else []
        keys = [_key(owner.get("kind"), each, owner.get("name")) for owner in owners]
        if not known.isdisjoint(keys) or (not keys and each.get("kind") in TEMPLATES):
            continue
        kind, namespace, name = keys[0] if keys else _key(each.get("kind"), each, each["metadata"]["name"])
        text = "its pods mount a SecretProviderClass, and this tool does not convert it: mount the Secret there by hand"
        found[MigrationNote(f"{kind} {namespace}/{name}", text)] = None
    return list(found)


def _key(kind: Any, each: Manifest, name: Any) -> tuple[str, str, str]:
    return str(kind), namespace_of(each), str(name)


def _names_driver(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("driver") == DRIVER or any(map(_names_driver, value.values()))
    return isinstance(value, list) and any(map(_names_driver, value))


def build_patch(
    workload: Manifest,
    mounts: Sequence[CsiMount],
    secrets: Mapping[tuple[str, str], tuple[str, list[MountedFile]]],
    notes: list[MigrationNote],
) -> Manifest | None:
    """Return a strategic merge patch that mounts Secrets instead of classes, or None if there is nothing to patch.

    `secrets` has the Secret's name and the files of each class, by namespace and name. Add notes about the workload
    to `notes`.
    """
    say = ObjectNotes(qualified_name(workload), notes)
    volumes = []
    for mount in mounts:
        name, files = secrets.get(mount.class_key, ("", []))
        if not name:
            say(f"volume {mount.volume['name']} stays: SecretProviderClass {mount.class_name} is not converted")
            continue
        items = [
            {"key": file.key, "path": file.path} | ({"mode": file.mode} if file.mode is not None else {})
            for file in files
        ]
        # The patch finds the volume by its name; null removes its old source.
        secret = {"secretName": name, "items": items} | ({"optional": True} if any(f.optional for f in files) else {})
        volumes.append({"name": mount.volume["name"], "csi": None, "secret": secret})
        if publish := (mount.volume["csi"].get("nodePublishSecretRef") or {}).get("name"):
            say(f"Secret {publish} (a service principal) is no longer read: revoke it after the last step")
    if not volumes:
        return None
    if not can_be_patched(workload):
        say("its pod template cannot change: delete it and create it again with the volumes of its patch file")
    if workload["kind"] in _KEEPING_PODS:
        say("a patch does not replace its pods: delete them, and new pods mount the Secret")
    body: Manifest = {"spec": {"volumes": volumes}}
    for step in reversed(TEMPLATES[workload["kind"]]):
        body = {step: body}
    meta = {"name": workload["metadata"]["name"], "namespace": namespace_of(workload)}
    head = {"apiVersion": workload["apiVersion"], "kind": workload["kind"], "metadata": meta}
    return head | body
