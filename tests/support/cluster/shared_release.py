"""A control plane, an emulator and a release that the test modules of one process use one after another.

Starting them takes more CPU time than most modules need. Earlier modules must not affect a module. So `lend` first
removes the namespaces of the last module. Then it compares the servers and every object with those of the new
installation. If anything differs, it stops everything and installs again.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.cluster.harness import InstalledRelease, audit_lines, chart_crds, eventually, install_first_release
from tests.support.cluster.leaks import objects
from tools.keyvault_emulator import Emulator, EmulatorError
from tools.local_cluster import ClusterError, ControlPlane

# Servers write Leases and Events all the time. ComponentStatuses have the health of the servers.
_LEFT_OUT = ("leases", "events", "componentstatuses")
# The status of these kinds shows whether a test acted as the kubelet.
_WITH_STATUS = ("pods", "deployments", "replicasets")
_VOLATILE = ("resourceVersion", "managedFields", "generation")
_CRD = '"resource":"customresourcedefinitions"'
_SUCCEEDED = '"code":2'
_READS = ('"verb":"get"', '"verb":"list"', '"verb":"watch"')
_GONE_SECONDS = 60.0
_NAMESPACES = "/api/v1/namespaces"
Objects = Mapping[str, Any]


class DiffersError(Exception):
    """The control plane differs from a new one. The message has the difference."""


class _Baseline(NamedTuple):
    """The servers and objects of a new installation."""

    pids: Mapping[str, int]
    namespaces: frozenset[str]
    objects: Objects


class SharedRelease:
    """The release of one process. `new_folder` creates a folder whose name begins with its argument.

    `replaced` lists why a control plane was replaced.
    """

    def __init__(self, new_folder: Callable[[str], Path]) -> None:
        self.replaced: list[str] = []
        self._new_folder = new_folder
        self._running = contextlib.ExitStack()
        self._installed: InstalledRelease | None = None

    def lend(self) -> InstalledRelease:
        """Return the release in the state of a new installation."""
        begin = 0
        if self._installed:
            begin = self._installed.plane.audit_log.stat().st_size
            try:
                self.restore(self._installed)
            except (DiffersError, AssertionError, ClusterError, EmulatorError, OSError) as error:
                self._replace(str(error))
        if not self._installed:
            self._installed = self._start()
            begin = self._installed.plane.audit_log.stat().st_size
        plane = self._installed.plane
        InstalledRelease.audited[plane.audit_log] = begin
        return InstalledRelease(plane, self._installed.emulator, self._installed.release, self._new_folder("release"))

    def discard(self) -> None:
        """Install again for the next module, because a test failed and can have left objects."""
        if self._installed:
            self._replace("a test failed")

    def close(self) -> None:
        """Stop everything."""
        self._installed = None
        self._running.close()

    def _replace(self, why: str) -> None:
        self.replaced.append(why)
        self.close()

    def _start(self) -> InstalledRelease:
        plane = self._running.enter_context(ControlPlane(self._new_folder("plane"), crds=chart_crds()))
        emulator = self._running.enter_context(Emulator(self._new_folder("emulator")))
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        installed = install_first_release(plane, emulator, self._new_folder("release"))
        found = eventually(partial(_settled, installed), bool)
        self._baseline = _Baseline(dict(plane.pids), frozenset(_namespaces(plane)), found)
        return installed

    def restore(self, installed: InstalledRelease) -> None:
        """Remove the objects that modules may leave. Raise `DiffersError` if anything else changed."""
        plane, emulator, baseline = installed.plane, installed.emulator, self._baseline
        if plane.pids != baseline.pids:
            raise DiffersError("a server was restarted")
        plane.check()
        if _has_changed_crds(installed):
            raise DiffersError("a CustomResourceDefinition was changed")
        emulator.clear()
        emulator.trust_issuer(plane.issuer, plane.ca_file)
        _delete(plane, f"/apis/coordination.k8s.io/v1/namespaces/{installed.release}/leases")
        _delete(plane, f"/apis/events.k8s.io/v1/namespaces/{installed.release}/events")
        for name in _namespaces(plane) - baseline.namespaces:
            _delete(plane, f"{_NAMESPACES}/{name}")
        eventually(lambda: _namespaces(plane) - baseline.namespaces, lambda left: not left, patience=_GONE_SECONDS)
        found = _objects(plane)
        if different := [
            name for name in {**baseline.objects, **found} if found.get(name) != baseline.objects.get(name)
        ]:
            raise DiffersError(f"not as installed: {', '.join(different)}")


def _settled(installed: InstalledRelease) -> Objects:
    """Return all objects, or {} while kube-controller-manager still creates the Deployment's objects."""
    plane = installed.plane
    if not plane.read_object(f"{_NAMESPACES}/{installed.release}/pods")["items"]:
        return {}
    found = _objects(plane)
    return found if found == _objects(plane) else {}


def _objects(plane: ControlPlane) -> Objects:
    """Return the fields of each object that a module can change, by the list's path, namespace, name and UID."""
    return dict(_stable(plane))


def _stable(plane: ControlPlane) -> Iterator[tuple[str, Any]]:
    for path, text in objects(plane, left_out=_LEFT_OUT):
        for item in json.loads(text)["items"]:
            meta = {key: value for key, value in item.pop("metadata").items() if key not in _VOLATILE}
            if path.rpartition("/")[2] not in _WITH_STATUS:
                item.pop("status", None)
            yield f"{path} {meta.get('namespace', '')}/{meta['name']} {meta.get('uid')}", (meta, item)


def _namespaces(plane: ControlPlane) -> set[str]:
    return {item["metadata"]["name"] for item in plane.read_object(_NAMESPACES)["items"]}


def _delete(plane: ControlPlane, path: str) -> None:
    status, text = plane.request("DELETE", path)
    assert status in (200, 202, 404, 409), text  # 409: the deletion of a namespace has begun already


def _has_changed_crds(installed: InstalledRelease) -> bool:
    """Return whether a CRD was written. If so, the garbage collector watches former kinds for a while.

    Failed writes do not count, because `helm install` tries to create CRDs that exist.
    """
    lines = (line for line in audit_lines(installed.plane) if _CRD in line and _SUCCEEDED in line)
    return any(not any(read in line for read in _READS) for line in lines)
