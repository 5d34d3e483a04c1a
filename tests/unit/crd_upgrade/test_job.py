"""Test the refusals, requests, messages and exit codes of the upgrade Job.

tests/cluster/test_crds.py runs it with real CRDs.
"""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller import errors
from controller.crd_upgrade import job
from controller.runtime import bounded_yaml
from tests.support.scripted_api_server import connect_to_api_server, error_response, run_api_server, write_kubeconfig
from tools.codegen import crds

CRDS_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def make_chained_aliases(name: str) -> str:
    """Return thirty anchors. Each has two aliases of the previous one."""
    lines = [f"{name}0: &{name}0 [x, x]"]
    lines += [f"{name}{n}: &{name}{n} [*{name}{n - 1}, *{name}{n - 1}]" for n in range(1, 30)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "contains no"),
        ("metadata: [", "is not a CustomResourceDefinition"),
        ("just text", "is not a CustomResourceDefinition"),
        ("metadata: {name: [a]}", "is not one of secretsyncs"),
        ("metadata: {name: {a: b}}", "is not one of secretsyncs"),
        # PyYAML recurses into flow and block style, as a value and as a key.
        ("metadata: " + "[" * 9_900 + "]" * 9_900, "is not a CustomResourceDefinition: it is nested too deeply"),
        ("{a: " * 9_900 + "b" + "}" * 9_900, "is not a CustomResourceDefinition: it is nested too deeply"),
        ("- " * 1_500 + "a", "is not a CustomResourceDefinition: it is nested too deeply"),
        ("? " * 1_500 + "a", "is not a CustomResourceDefinition: it is nested too deeply"),
        # Too many expanded aliases, several documents, and too many bytes.
        (make_chained_aliases("a"), "values, with its aliases expanded"),
        ("metadata: {name: secretsyncs.secret-sync.x-k8s.io}\n---\na: 1", "is not a CustomResourceDefinition"),
        ("#" * (bounded_yaml.MAX_BYTES + 1), "it has more than 16 MiB"),
        ("metadata: {name: somethings.example.com}", "somethings.example.com is not one of secretsyncs"),
    ],
)
def test_bad_input_is_refused_before_any_request(
    content: str | None, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if content is not None:
        (tmp_path / "a.yaml").write_text(content)
    assert job.run(tmp_path, {}) == 2
    assert message in caplog.text


def test_missing_folder_is_bad_input(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert job.run(tmp_path / "none", {}) == 2
    assert "is not a folder" in caplog.text


def test_missing_kubeconfig_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.yaml").write_text("metadata: {name: secretsyncs.secret-sync.x-k8s.io}")
    assert job.run(tmp_path, {"KUBECONFIG": str(tmp_path / "none")}) == 1
    assert "KUBECONFIG names" in caplog.text


MISSING = (
    "the cluster does not have it, and this Job only changes existing CRDs. `helm install` creates it; otherwise run:"
    " helm show crds <chart> | kubectl create --filename -"
)
SYNC, CLASS, AKV_SYNC = crds.build_all()
"""The CRDs of this release. A served CRD also has a resourceVersion."""


def make_served_crd(crd: job.Manifest, version: str = "7", *, own: bool = True, **spec: Any) -> job.Manifest:
    """Return the CRD as the API server returns it. `spec` replaces fields of its spec."""
    meta: dict[str, Any] = {"name": crd["metadata"]["name"], "resourceVersion": version}
    if own:
        meta["labels"] = dict([job.PART_OF])
    return crd | {"metadata": meta, "spec": crd["spec"] | spec}


def make_older_names(crd: job.Manifest) -> dict[str, Any]:
    """Return the names in the CRD of an older release, which has no short names."""
    names: dict[str, Any] = crd["spec"]["names"] | {"shortNames": []}
    assert names != crd["spec"]["names"]
    return names


@pytest.mark.parametrize(
    ("crd", "found", "message"),
    [
        pytest.param(SYNC, make_served_crd(SYNC), "nothing to do", id="up to date"),
        pytest.param(
            SYNC,
            make_served_crd(SYNC, own=False),
            "nothing to do; another product installed it",
            id="foreign, up to date",
        ),
        pytest.param(
            CLASS,
            make_served_crd(CLASS, own=False, scope="Cluster"),
            "nothing to do; another product installed it",
            id="the class of the CSI driver, with any difference",
        ),
        pytest.param(SYNC, error_response(404), MISSING, id="missing"),
    ],
)
async def test_crd_that_needs_no_change_is_only_read(
    crd: job.Manifest, found: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with connect_to_api_server() as (server, kube):
        server.add_responses(found)
        assert await job.upgrade_crd(kube, crd)
        [request] = server.requests
    assert (request.method, request.path) == ("GET", f"{CRDS_PATH}/{crd['metadata']['name']}")
    assert caplog.messages == [f"{crd['metadata']['name']}: {message}"]


@pytest.mark.parametrize("own", [True, False])
async def test_older_crd_is_widened_with_the_version_that_was_read(own: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with connect_to_api_server() as (server, kube):
        server.add_responses(make_served_crd(SYNC, "41", own=own, names=make_older_names(SYNC)), make_served_crd(SYNC))
        assert await job.upgrade_crd(kube, SYNC)
        _, patch = server.requests
    assert (patch.method, patch.headers["Content-Type"]) == ("PATCH", "application/merge-patch+json")
    body = msgspec.json.decode(patch.body)
    assert body == {"metadata": {"resourceVersion": "41"}, "spec": SYNC["spec"]}
    assert caplog.messages == [f"{SYNC['metadata']['name']}: updated"]


async def test_crd_that_changed_meanwhile_is_read_and_merged_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first, second = (make_served_crd(SYNC, version, names=make_older_names(SYNC)) for version in ("1", "2"))
    async with connect_to_api_server() as (server, kube):
        server.add_responses(first, error_response(409), second, make_served_crd(SYNC))
        assert await job.upgrade_crd(kube, SYNC)
        versions = [msgspec.json.decode(each.body)["metadata"] for each in server.requests if each.method == "PATCH"]
    assert versions == [{"resourceVersion": "1"}, {"resourceVersion": "2"}]
    assert ["checking again" in line for line in caplog.messages] == [True, False]


async def test_crd_that_changes_each_time_is_given_up_after_three_attempts() -> None:
    older = make_served_crd(SYNC, names=make_older_names(SYNC))
    async with connect_to_api_server() as (server, kube):
        for _ in range(4):
            server.add_responses(older, error_response(409))
        with pytest.raises(errors.Conflict):
            await job.upgrade_crd(kube, SYNC)
        assert [each.method for each in server.requests] == ["GET", "PATCH"] * 3


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("refused", [True, False], ids=["the API server refuses it", "no schema accepts both"])
async def test_only_own_crd_that_cannot_be_widened_is_a_failure(
    own: bool, refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect_to_api_server() as (server, kube):
        if refused:
            server.add_responses(
                make_served_crd(SYNC, own=own, names=make_older_names(SYNC)), error_response(422, "the schema is wrong")
            )
        else:
            server.add_responses(make_served_crd(SYNC, own=own, scope="Cluster"))
        assert await job.upgrade_crd(kube, SYNC) is (not own)
        assert len(server.requests) == 1 + refused
    [record] = caplog.records
    assert record.levelname == ("ERROR" if own else "WARNING")
    assert "left unchanged, because it cannot be widened to this release's: " in record.getMessage()
    assert ("the schema is wrong" if refused else "spec.scope: Cluster is served") in record.getMessage()


@pytest.mark.parametrize(
    ("answers", "code", "message"),
    [
        pytest.param([make_served_crd(SYNC)], 0, "nothing to do", id="up to date"),
        pytest.param([make_served_crd(SYNC, scope="Cluster")], 1, "left unchanged", id="own, cannot be widened"),
        pytest.param([error_response(403)], 1, "a request to the Kubernetes API failed: ", id="no right to read it"),
        pytest.param(
            [make_served_crd(SYNC, names=make_older_names(SYNC)), error_response(403)],
            1,
            "a request to the Kubernetes API failed: ",
            id="no right to change it",
        ),
    ],
)
async def test_exit_code(
    answers: list[Any], code: int, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", job.__name__)
    folder = tmp_path / "crds"
    folder.mkdir()
    (folder / "a.yaml").write_bytes(msgspec.json.encode(SYNC))
    async with run_api_server() as server:
        server.add_responses(*answers)
        environment = {"KUBECONFIG": write_kubeconfig(tmp_path, server.url)}
        assert await asyncio.to_thread(job.run, folder, environment) == code
    [line] = caplog.messages
    assert message in line


async def test_crd_that_cannot_be_widened_does_not_stop_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "crds"
    folder.mkdir()
    for name, crd in (("a", SYNC), ("b", AKV_SYNC)):
        (folder / f"{name}.yaml").write_bytes(msgspec.json.encode(crd))
    async with run_api_server() as server:
        server.add_responses(
            make_served_crd(SYNC, scope="Cluster"),
            make_served_crd(AKV_SYNC, names=make_older_names(AKV_SYNC)),
            make_served_crd(AKV_SYNC),
        )
        assert await asyncio.to_thread(job.run, folder, {"KUBECONFIG": write_kubeconfig(tmp_path, server.url)}) == 1
        names = [(each.method, each.path.rpartition("/")[2]) for each in server.requests]
    sync, akv_sync = (crd["metadata"]["name"] for crd in (SYNC, AKV_SYNC))
    assert names == [("GET", sync), ("GET", akv_sync), ("PATCH", akv_sync)]
