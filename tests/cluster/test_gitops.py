"""Test the verdicts of GitOps tools on a status, with kstatus (Flux, helm 4, kpt) and Argo CD's health check."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from controller.akvsync import status as akvsync_status
from controller.api.akvsync import AKVSyncStatus, PartStatus
from controller.api.conditions import Reason
from controller.api.meta import NO_STATUS, ObjectMeta
from controller.api.secretsync import SecretSync, SecretSyncStatus
from controller.domain.status import next_status
from controller.errors import InputError, Retry
from controller.runtime import bounded_yaml
from tests.support.cluster.harness import InstalledRelease, eventually
from tests.support.cluster.namespace import Namespace
from tests.support.outcomes import make_outcome
from tools.cli.common import helm
from tools.cli.render import render
from tools.local_cluster.programs import assets

CURRENT = ("Current", "Healthy")
IN_PROGRESS = ("InProgress", "Progressing")
FAILING = ("InProgress", "Degraded")
STALLED = ("Failed", "Degraded")
GENERATION = 3
META = ObjectMeta(name="s", namespace="n", uid="u", generation=GENERATION)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
HEALTH_CHECKS = helm.CHART / "gitops" / "argocd-health-checks.yaml"

SYNC_VERDICTS: dict[tuple[Reason, bool], tuple[str, str]] = {
    (Reason.UP_TO_DATE, False): CURRENT,
    (Reason.WRITTEN, False): CURRENT,
    (Reason.PARTIAL, False): FAILING,
    (Reason.PROVIDER_ERROR, False): FAILING,
    (Reason.LABEL_ERROR, False): FAILING,
    (Reason.INPUT_INVALID, False): FAILING,  # for an immutable Secret, its deletion also helps
    (Reason.INPUT_INVALID, True): STALLED,
    (Reason.SPC_ERROR, False): FAILING,  # the class is missing
    (Reason.SPC_ERROR, True): STALLED,
    (Reason.POLICY_REFUSED, False): FAILING,
    (Reason.SYNC_FAILED, False): FAILING,
    (Reason.SYNC_FAILED, True): STALLED,
    (Reason.INTERNAL_ERROR, False): FAILING,
}
"""The verdicts of kstatus and Argo CD, by the reason of Ready and by whether only an edit can help."""
AKV_VERDICTS: dict[tuple[Reason, bool], tuple[str, str]] = {
    **SYNC_VERDICTS,
    (Reason.IN_PROGRESS, False): IN_PROGRESS,
    (Reason.NAME_TAKEN, False): FAILING,
    (Reason.TYPE_CHANGE_WAITS, False): FAILING,
    (Reason.SKIPPED, False): FAILING,
}


def list_verdicts(objects: list[dict[str, Any]], folder: Path) -> list[tuple[str, str]]:
    """Return the verdicts of kstatus and of Argo CD's health checks on each object."""
    kstatus = assets.tool("kstatus")
    lua_health = assets.tool("argocd-sync").with_name("lua-health")
    checks = yaml.safe_load(HEALTH_CHECKS.read_text())["data"]
    health = []
    for found in objects:
        check = folder / f"{found['kind']}.lua"
        check.write_text(checks[f"resource.customizations.health.secret-sync.x-k8s.io_{found['kind']}"])
        health += _run_check([found], lua_health, check)
    return list(zip(_run_check(objects, kstatus), health, strict=True))


def _run_check(objects: list[dict[str, Any]], *command: Path) -> list[str]:
    done = subprocess.run(command, input=json.dumps(objects), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [verdict["status"] for verdict in json.loads(done.stdout)]


def _make_object(kind: str, status: Any) -> dict[str, Any]:
    version = SecretSync.api_version()
    metadata = {"name": "s", "namespace": "n", "generation": GENERATION}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "status": msgspec.to_builtins(status)}


def _make_sync_status(reason: Reason, stalled: bool) -> SecretSyncStatus:
    outcome = make_outcome(reason, "why", retry=Retry.ON_EDIT if stalled else Retry.BACKOFF)
    return next_status(META, SecretSyncStatus(), None, outcome, NOW)


def _make_akv_status(reason: Reason, stalled: bool) -> AKVSyncStatus:
    ready = AKV_VERDICTS[reason, stalled] == CURRENT
    part = PartStatus(name="s", ready=ready, reason=str(reason), message="why")
    return akvsync_status.next_status(META, AKVSyncStatus(), [part], None, NOW, stalled=stalled)


def test_every_reason_of_ready_has_a_verdict() -> None:
    not_of_ready = {Reason.NO_UPDATE, Reason.KEPT}  # reasons of SecretUpdated and of a part of an AKVSync
    assert {reason for reason, _ in AKV_VERDICTS} == set(Reason) - not_of_ready
    of_akv_syncs = {Reason.IN_PROGRESS, Reason.NAME_TAKEN, Reason.TYPE_CHANGE_WAITS, Reason.SKIPPED}
    assert {reason for reason, _ in SYNC_VERDICTS} == set(Reason) - not_of_ready - of_akv_syncs


def test_each_status_of_the_controller_has_its_verdict(tmp_path: Path) -> None:
    table = [
        *((_make_object("SecretSync", _make_sync_status(*key)), verdict) for key, verdict in SYNC_VERDICTS.items()),
        *((_make_object("AKVSync", _make_akv_status(*key)), verdict) for key, verdict in AKV_VERDICTS.items()),
    ]
    problem = akvsync_status.next_status(META, AKVSyncStatus(), [], InputError("why"), NOW)
    table.append((_make_object("AKVSync", problem), STALLED))
    for kind in ("SecretSync", "AKVSync"):
        # An object is in progress with the CRD's default status, and after an edit until the controller has read it.
        table.append((_make_object(kind, {"observedGeneration": NO_STATUS}), IN_PROGRESS))
        earlier = _make_sync_status(Reason.UP_TO_DATE, stalled=False)
        table.append(
            (_make_object(kind, msgspec.structs.replace(earlier, observed_generation=GENERATION - 1)), IN_PROGRESS)
        )
    found = list_verdicts([item for item, _ in table], tmp_path)
    assert found == [verdict for _, verdict in table]


def test_kstatus_judges_a_status_without_an_observed_generation(tmp_path: Path) -> None:
    """An object of another product's CRD can have such a status. Only kstatus treats an empty status as current."""
    condition = {"type": "Ready", "status": "True", "reason": "x", "message": "y"}
    objects = [_make_object("SecretSync", {}), _make_object("SecretSync", {"conditions": [condition]})]
    assert list_verdicts(objects, tmp_path) == [("Current", "Progressing"), CURRENT]


STATUS_OF_SSE = {"conditions": [], "lastSuccessfulSyncTime": "2026-01-01T00:00:00Z", "syncHash": "0"}


@pytest.mark.parametrize("status", [None, {}, STATUS_OF_SSE], ids=["without", "empty", "of SSE"])
def test_object_that_is_not_reconciled_yet_is_in_progress(
    status: Any, installed: InstalledRelease, tmp_path: Path
) -> None:
    """The object is created without a status, with an empty one, or with the status of another installation."""
    space = Namespace(installed)
    body = space.sync("s", {"k": "a"}) | ({} if status is None else {"status": status})
    body["metadata"]["namespace"] = space.name
    # No controller has this name, so no controller writes the status, as after a crash of the controller.
    body["spec"]["secretSyncControllerName"] = "none"
    space.apply(body)
    found = space.get("secretsync", "s")
    assert found["status"] == {"observedGeneration": NO_STATUS}
    assert list_verdicts([found], tmp_path) == [IN_PROGRESS]


def test_stalled_is_true_while_only_an_edit_can_help(space: Namespace, tmp_path: Path) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "missing"}))
    space.wait_reason("s", Reason.INPUT_INVALID)
    found = space.get("secretsync", "s")
    assert _find_condition(found, "Stalled") == _find_condition(found, "Ready") | {"type": "Stalled", "status": "True"}
    assert list_verdicts([found], tmp_path) == [STALLED]
    space.apply(space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "1"})
    space.wait_reason("s", Reason.WRITTEN, Reason.UP_TO_DATE)
    found = space.get("secretsync", "s")
    assert not _find_condition(found, "Stalled")
    assert list_verdicts([found], tmp_path) == [CURRENT]


def test_missing_class_does_not_stall_objects_applied_with_it(space: Namespace, tmp_path: Path) -> None:
    space.set_secret("a", "1")
    space.apply(space.sync("s", {"k": "a"}))
    space.wait_reason("s", Reason.SPC_ERROR)
    assert list_verdicts([space.get("secretsync", "s")], tmp_path) == [FAILING]
    space.apply(space.provider_class("a"))
    space.wait_secret("s", {"k": "1"})


def test_akvsync_has_the_verdict_of_its_secretsync(space: Namespace, tmp_path: Path) -> None:
    """A new value in the vault can help, so neither object is stalled."""
    space.set_secret("plain", "1")
    space.apply(space.akv_sync({"secretInAKV": "plain", "kubernetesSecretType": "kubernetes.io/tls"}))
    failing = eventually(
        lambda: space.get("akvsync", "made"),
        lambda akv: _find_condition(akv, "Ready").get("reason") == Reason.PROVIDER_ERROR,
    )
    child = space.get("secretsync", space.list_names("secretsync")[0])
    assert list_verdicts([failing, child], tmp_path) == [FAILING, FAILING]


def _find_condition(found: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return the condition of that type, or an empty one if the object lacks it."""
    conditions: list[dict[str, Any]] = found.get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == kind), {})


def test_kustomize_patches_the_output_of_tools_render(tmp_path: Path) -> None:
    """kubectl's kustomize sets a label on every object and another number of replicas, and keeps every object."""
    manifests = render.render(render.RenderOptions())
    render.write(manifests, tmp_path, force=False)
    (tmp_path / "kustomization.yaml").write_text(
        json.dumps(
            {
                "resources": sorted(path.name for path in tmp_path.glob("*.yaml")),
                "labels": [{"pairs": {"team": "x"}}],
                "patches": [
                    {
                        "target": {"kind": "Deployment"},
                        "patch": '[{"op": "replace", "path": "/spec/replicas", "value": 2}]',
                    }
                ],
            }
        )
    )
    kubectl = assets.kubernetes().path("kubectl")
    done = subprocess.run([kubectl, "kustomize", tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = [found for found in yaml.load_all(done.stdout, Loader=bounded_yaml.LOADER) if found]
    assert len(built) == len(manifests)
    assert all(found["metadata"]["labels"]["team"] == "x" for found in built)
    [deployment] = [found for found in built if found["kind"] == "Deployment"]
    assert deployment["spec"]["replicas"] == 2
