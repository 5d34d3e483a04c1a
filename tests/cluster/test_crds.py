"""Test the CRDs on a real API server: accepted and refused objects, and the Job that updates the CRDs."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import upstream_crds
from tests.support.cluster.crd_server import (
    AKV_SYNCS,
    CHARTS,
    CLASSES,
    HOME,
    NAMES,
    SYNCS,
    CrdServer,
    Manifest,
    data_pair,
    sync_manifest,
)
from tests.support.cluster.harness import SINCE_POLICIES, eventually
from tools.cli.common import helm
from tools.local_cluster import ControlPlane
from tools.pods.pod_process import PodProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrdServer]:
    folder = tmp_path_factory.mktemp("crds")
    with ControlPlane(folder / "plane") as plane:
        yield CrdServer(plane, folder)


@pytest.fixture
def chart_server(server: CrdServer) -> CrdServer:
    """Provide the server with the chart's CRDs."""
    served = {m["metadata"]["name"] for m in json.loads(server.plane.kubectl("get", "crd", "-o", "json"))["items"]}
    if served != set(NAMES) or any(
        server.get_crd(name)["spec"]["versions"] != crd["spec"]["versions"] for name, crd in CHARTS.items()
    ):
        server.serve_crds(*CHARTS.values())
    return server


# --- The chart's CRDs ----------------------------------------------------------------------------------------------


def test_crds_are_accepted_without_a_warning_and_established(chart_server: CrdServer) -> None:
    chart_server.remove_crds()
    done = chart_server.kubectl("apply", "--server-side", "-f", str(helm.CHART / "crds"))
    assert done.code == 0
    assert "Warning" not in done.out
    for name in NAMES:
        assert chart_server.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=30s").code == 0
        conditions = {item["type"]: item["status"] for item in chart_server.get_crd(name)["status"]["conditions"]}
        # A schema that is not structural has this condition.
        assert "NonStructuralSchema" not in conditions


@pytest.mark.parametrize(
    "manifest",
    [
        sync_manifest(),
        sync_manifest(data=data_pair("aCertificate/tls.crt", "tls.crt")),
        sync_manifest(data=data_pair(".hidden/12", "a/0")),
        sync_manifest(data=data_pair("a", "_netrc")),
        sync_manifest(secretObject={"labels": {"a" * 253 + "/" + "b" * 63: "v" * 63}}),
        sync_manifest(secretObject={"annotations": {"a" * 253 + "/" + "b" * 63: "v" * 100_000}}),
        sync_manifest(forceSynchronization="2030-01-31.1"),
        sync_manifest(data=[{"sourcePath": "a", "targetKey": f"k{number}"} for number in range(1000)]),
    ],
    ids=["minimal", "certificate", "paths of upstream's CRD", "key", "labels", "annotations", "force", "1,000 keys"],
)
def test_valid_objects_are_accepted(manifest: Manifest, chart_server: CrdServer) -> None:
    done = chart_server.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
    assert done.code == 0, done.out


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (
            sync_manifest(data=data_pair("my secret")),
            'sourcePath: Invalid value: "my secret": … an object\'s name or alias, then /0',
        ),
        (
            sync_manifest(data=data_pair("a", "k k")),
            'targetKey: Invalid value: "k k": … a key of a Secret holds letters',
        ),
        (sync_manifest(data=data_pair("a", "k" * 254)), "targetKey: Too long"),
        (sync_manifest(data=[]), "spec.secretObject.data in body should have at least 1 items"),
        (sync_manifest(data=[*data_pair("a"), *data_pair("b")]), "data[1]: Duplicate value"),
        (sync_manifest(data=[{"sourcePath": "a"}]), "data[0].targetKey: Required value"),
        (
            sync_manifest(serviceAccountName="Shop"),
            'serviceAccountName: Invalid value: "Shop": … an object\'s name: small letters',
        ),
        (sync_manifest(serviceAccountName=None), "serviceAccountName: Required value"),
        (sync_manifest(forceSynchronization="now!"), "letters and digits, with - . _ one at a time between them"),
        (sync_manifest(secretObject={"labels": {"secrets-store.sync.x-k8s.io": ""}}), "reserved for the controller"),
        (
            sync_manifest(secretObject={"annotations": {"secrets-store.sync.x-k8s.io/a": ""}}),
            "reserved for the controller",
        ),
        (sync_manifest(secretObject={"labels": {"a": "v" * 64}}), "labels.a: Too long"),
        (sync_manifest(secretObject={"labels": {"a" * 318: ""}}), "a key of labels has more than 317 characters"),
        (sync_manifest(secretObject={"type": ""}), "secretObject.type"),
    ],
)
def test_invalid_object_is_refused_with_a_message(manifest: Manifest, message: str, chart_server: CrdServer) -> None:
    done = chart_server.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(manifest))
    assert done.code == 1
    # At "…", the messages of Kubernetes releases differ.
    for part in message.split("… "):
        assert part in done.out


def test_type_cannot_change_and_the_message_names_the_next_step(chart_server: CrdServer) -> None:
    assert chart_server.apply(sync_manifest("typed")).code == 0
    done = chart_server.apply(sync_manifest("typed", secretObject={"type": "kubernetes.io/tls"}))
    assert "delete the SecretSync and create it with the new type" in done.out
    found = json.loads(chart_server.plane.kubectl("get", "secretsync", "typed", "-o", "json"))
    assert found["spec"]["secretObject"]["type"] == "Opaque"
    assert found["spec"]["secretSyncControllerName"] == ""


def test_status_keeps_all_fields_and_the_columns_show_it(chart_server: CrdServer) -> None:
    assert chart_server.apply(sync_manifest("reported")).code == 0
    status = {
        "observedGeneration": 1,
        "lastSuccessfulSyncTime": "2030-01-31T00:00:00Z",
        "syncHash": "h",
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Fine",
                "message": "m" * 32768,
                "lastTransitionTime": "2030-01-31T00:00:00Z",
                "observedGeneration": 1,
            }
        ],
        "objects": [{"targetKey": "k", "object": "secret/a", "version": "1", "updated": "2030-01-31T00:00:00Z"}],
    }
    patch = json.dumps({"status": status})
    chart_server.plane.kubectl("patch", "secretsync", "reported", "--subresource=status", "--type=merge", "-p", patch)
    assert json.loads(chart_server.plane.kubectl("get", "secretsync", "reported", "-o", "json"))["status"] == status
    head, row = (line.split() for line in chart_server.plane.kubectl("get", "ssync", "reported").splitlines())
    assert head == ["NAME", "READY", "REASON", "LAST-SYNC", "AGE"]
    assert row[:3] == ["reported", "True", "Fine"]


def test_old_provider_class_is_served_with_a_warning_and_all_fields(chart_server: CrdServer) -> None:
    manifest = {
        "apiVersion": "secrets-store.csi.x-k8s.io/v1alpha1",
        "kind": "SecretProviderClass",
        "metadata": {"name": "old", "namespace": "default"},
        "spec": {
            "provider": "azure",
            "parameters": {"keyvaultName": "kv", "objects": "array:\n  - |\n    objectName: a\n"},
            "secretObjects": [{"secretName": "s", "type": "Opaque", "data": [{"key": "k", "objectName": "a"}]}],
        },
        "status": {"byPod": [{"id": "p", "namespace": "n"}]},
    }
    done = chart_server.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    assert "secrets-store.csi.x-k8s.io/v1alpha1 is deprecated. Use secrets-store.csi.x-k8s.io/v1 instead." in done.out
    found = json.loads(
        chart_server.plane.kubectl("get", "secretproviderclasses.v1.secrets-store.csi.x-k8s.io", "old", "-o", "json")
    )
    # Like the driver's CRD, this CRD has no status subresource, so an object keeps the status of its creation.
    assert (found["spec"], found["status"]) == (manifest["spec"], manifest["status"])


# --- The Job that updates the CRDs ---------------------------------------------------------------------------------


def test_absent_crds_are_reported_and_not_created(server: CrdServer) -> None:
    server.serve_crds()
    done = server.run_upgrade()
    assert done.code == 0
    assert done.out.count("the cluster does not have it") == 3
    assert "helm show crds" in done.out
    assert server.kubectl("get", "crd", SYNCS).code == 1


def test_crds_of_the_chart_need_no_update(chart_server: CrdServer) -> None:
    before = [chart_server.get_crd(name)["metadata"]["resourceVersion"] for name in NAMES]
    done = chart_server.run_upgrade()
    assert (done.code, done.out.count("nothing to do")) == (0, 3)
    assert [chart_server.get_crd(name)["metadata"]["resourceVersion"] for name in NAMES] == before


def test_crds_of_an_older_release_are_updated(server: CrdServer) -> None:
    old = copy.deepcopy(CHARTS)
    root = old[SYNCS]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    del root["status"]["properties"]["objects"]
    pattern = root["spec"]["properties"]["secretObject"]["properties"]["data"]["items"]["properties"]["sourcePath"]
    pattern.update(
        pattern="^[a-z]+$", **{"x-kubernetes-validations": [{"rule": "self.matches('^[a-z]+$')", "message": "old"}]}
    )
    del old[CLASSES]["spec"]["versions"][1]
    del old[AKV_SYNCS]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"][
        "parts"
    ]
    server.serve_crds(*old.values())
    assert server.apply(sync_manifest("kept", data=data_pair("abc"))).code == 0
    done = server.run_upgrade()
    assert (done.code, done.out.count(": updated")) == (0, 3)
    eventually(
        lambda: server.apply(sync_manifest("kept", data=data_pair("aCertificate/tls.crt"))).code, lambda code: code == 0
    )
    assert [version["name"] for version in server.get_crd(CLASSES)["spec"]["versions"]] == ["v1", "v1alpha1"]
    assert server.run_upgrade().out.count("nothing to do") == 3


def test_foreign_secretsync_crd_is_widened_and_provider_class_unchanged(server: CrdServer) -> None:
    server.serve_crds(*upstream_crds.build_upstream_crds())
    assert server.apply(sync_manifest("theirs", theirOwn="x")).code == 0
    assert server.apply(sync_manifest("refused", data=data_pair("aCertificate/tls.crt"))).code == 1
    before = server.get_crd(CLASSES)
    done = server.run_upgrade()
    assert done.code == 0
    assert f"{SYNCS}: updated" in done.out
    assert f"{CLASSES}: nothing to do; another product installed it" in done.out
    assert server.get_crd(CLASSES) == before
    # The CRD accepts this chart's forms, and it keeps the fields of stored objects and of the controller's status.
    eventually(
        lambda: server.apply(sync_manifest("refused", data=data_pair("aCertificate/tls.crt"))).code,
        lambda code: code == 0,
    )
    found = json.loads(server.plane.kubectl("get", "secretsync", "theirs", "-o", "json"))
    assert found["spec"]["theirOwn"] == "x"
    patch = json.dumps({"status": {"objects": [{"targetKey": "k", "object": "secret/a"}], "observedGeneration": 1}})
    server.plane.kubectl("patch", "secretsync", "theirs", "--subresource=status", "--type=merge", "-p", patch)
    assert json.loads(server.plane.kubectl("get", "secretsync", "theirs", "-o", "json"))["status"]["objects"]
    assert "theirs" in server.apply(sync_manifest("long", secretObject={"labels": {"a" * 100: ""}})).out
    assert server.run_upgrade().out.count("nothing to do") == 2


def test_crd_that_cannot_be_widened_is_not_changed(server: CrdServer) -> None:
    odd = upstream_crds.build_upstream_crds()[0]
    spec = odd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    spec["forceSynchronization"] = {"type": "integer"}
    server.serve_crds(odd)
    before = server.get_crd(SYNCS)
    done = server.run_upgrade()
    # A CRD of another product only causes a warning. A CRD of this chart causes an error, which stops the upgrade.
    assert done.code == 0
    assert "WARNING" in done.out
    assert "v1alpha1.spec.forceSynchronization: type is 'integer'" in done.out
    assert server.get_crd(SYNCS) == before
    odd["metadata"]["labels"] = CHARTS[SYNCS]["metadata"]["labels"]
    server.serve_crds(odd)
    done = server.run_upgrade()
    assert done.code == 1
    assert "ERROR" in done.out


def test_rendered_job_updates_the_crds(chart_server: CrdServer, tmp_path: Path) -> None:
    with PodProcess.of_job(chart_server.plane, HOME, chart_server.job, tmp_path) as job:
        assert job.wait() == 0, job.tail()
        assert job.tail().count("nothing to do") == 3


def test_job_can_write_only_crds_of_the_chart(chart_server: CrdServer) -> None:
    def is_allowed(*request: str) -> bool:
        done = chart_server.kubectl(
            "auth", "can-i", *request, f"--as=system:serviceaccount:{HOME}:{chart_server.account}"
        )
        assert ("yes" in done.out.split()) is (done.code == 0), done.out
        return done.code == 0

    assert is_allowed("get", f"crd/{SYNCS}")
    assert is_allowed("patch", f"crd/{CLASSES}")
    assert is_allowed("patch", f"crd/{AKV_SYNCS}")
    for request in (
        ["list", "crd"],
        ["create", "crd"],
        ["delete", f"crd/{SYNCS}"],
        ["get", "crd/other.example.com"],
        ["get", "secrets"],
    ):
        assert not is_allowed(*request), request


# --- A stolen token of the Job -------------------------------------------------------------------------------------


def _without_version(crd: Manifest) -> Manifest:
    return {"spec": {"versions": [version for version in crd["spec"]["versions"] if version["name"] != "v1alpha1"]}}


def _every_version(**change: Any) -> Callable[[Manifest], Manifest]:
    return lambda crd: {"spec": {"versions": [{**version, **change} for version in crd["spec"]["versions"]]}}


def _without_fields(crd: Manifest) -> Manifest:
    empty = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return _every_version(schema=empty)(crd)


def _other_status(crd: Manifest) -> Manifest:
    """Remove the status subresource from all versions, or add it if a version lacks it."""
    has_status = all("status" in version.get("subresources", {}) for version in crd["spec"]["versions"])
    return _every_version(subresources=None if has_status else {"status": {}})(crd)


WEBHOOK = {
    "strategy": "Webhook",
    "webhook": {"clientConfig": {"url": "https://thief.example/convert"}, "conversionReviewVersions": ["v1"]},
}


@pytest.mark.since(*SINCE_POLICIES)
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _: {"spec": {"conversion": WEBHOOK}}, "the Job sets no conversion webhook"),
        (lambda _: {"metadata": {"finalizers": ["x.example/y"]}}, "the Job does not change the labels"),
        (lambda _: {"metadata": {"labels": {"x": "y"}}}, "the Job does not change the labels"),
        (
            lambda _: {"metadata": {"annotations": {"helm.sh/resource-policy": "delete"}}},
            "the Job does not change the labels",
        ),
        (_without_fields, "the Job removes no version"),
        (_other_status, "the Job removes no version"),
        (_every_version(served=False), "the Job removes no version"),
    ],
    ids=["webhook", "finalizers", "labels", "annotations", "fields", "status", "not served"],
)
@pytest.mark.parametrize("name", [SYNCS, CLASSES])
def test_stolen_token_of_the_job_can_only_widen_a_crd(
    name: str, change: Callable[[Manifest], Manifest], why: str, chart_server: CrdServer
) -> None:
    before = chart_server.get_crd(name)
    answer = chart_server.as_job("patch", "crd", name, "--type=merge", "--patch", json.dumps(change(before)))
    assert answer.code != 0
    assert why in answer.out, answer.out
    assert chart_server.get_crd(name)["spec"] == before["spec"]


@pytest.mark.since(*SINCE_POLICIES)
def test_stolen_token_of_the_job_cannot_remove_a_version(chart_server: CrdServer) -> None:
    answer = chart_server.as_job(
        "patch", "crd", CLASSES, "--type=merge", "--patch", json.dumps(_without_version(chart_server.get_crd(CLASSES)))
    )
    assert "the Job removes no version" in answer.out, answer.out


@pytest.mark.since(*SINCE_POLICIES)
def test_stolen_token_of_the_job_cannot_delete_or_create_a_crd(chart_server: CrdServer) -> None:
    assert chart_server.as_job("delete", "crd", SYNCS).code != 0
    other = copy.deepcopy(CHARTS[SYNCS])
    other["metadata"]["name"] = "others.secret-sync.x-k8s.io"
    assert "forbidden" in chart_server.as_job("create", "-f", "-", stdin=json.dumps(other)).out.lower()
