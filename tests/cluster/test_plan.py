"""Test `tools/plan --from cluster`, which computes the calls of a poll from the objects on a real API server."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cluster.harness import InstalledRelease, eventually
from tests.support.cluster.namespace import Namespace
from tools.cli.capacity import plan
from tools.cli.common import kube_client

POLL = 3600


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": str(POLL)}


def plan_polls(space: Namespace, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """Run tools/plan. Return the poll groups of the test's namespace."""
    kubeconfig = str(space.installed.plane.kubeconfig)
    assert plan.main(["--from", "cluster", "--kubeconfig", kubeconfig, "-o", "json", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)["polls"]
    return [group for group in found["groups"] if group["reader"]["namespace"] == space.name]


def count_calls(groups: list[dict[str, Any]]) -> dict[str, tuple[int, int, int]]:
    return {group["reader"]["vault"]: (group["lists"], group["gets"], group["versionLists"]) for group in groups}


def with_vault(manifest: Mapping[str, Any], vault: str) -> dict[str, Any]:
    """Return a copy of this class with another vault."""
    spec = manifest["spec"]
    return {**manifest, "spec": {**spec, "parameters": {**spec["parameters"], "keyvaultName": vault}}}


def test_classes_of_several_vaults_an_akvsync_and_a_selection_are_counted(
    space: Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"key-{number}" for number in range(30)]
    other = {"secretProviderClassName": "other"}
    history = "array:\n  - |\n    objectName: a\n    objectVersionHistory: 2\n  - |\n    objectName: b\n"
    space.apply(
        space.provider_class(*names),
        space.sync("all", {name: name for name in names}),
        space.sync("one", {"k": names[0]}),
        with_vault(space.provider_class(objects=history, name="other"), "other-vault"),
        space.sync("versions", {"old": "a/1", "b": "b"}, **other),
    )
    assert count_calls(plan_polls(space, capsys)) == {space.vault: (2, 0, 0), "other-vault": (1, 0, 1)}
    ((first, *_),) = [group["syncs"] for group in plan_polls(space, capsys) if group["reader"]["vault"] == space.vault]
    assert (first["name"], first["objects"], first["savedWithoutIt"]) == ("all", 30, 1)

    # tools/plan counts an AKVSync once, before and after the controller has generated its objects.
    space.apply(space.akv_sync({"secretInAKV": "x"}, {"certInAKV": "web"}))
    generated = eventually(lambda: space.list_names("secretsync"), lambda found: {"x", "web"} <= set(found))
    assert len(generated) == 5
    assert count_calls(plan_polls(space, capsys))[space.vault] == (2, 0, 0)

    space.apply(space.akv_sync({"select": {"namePrefix": "shop-"}}, name="selecting"))
    found = plan_polls(space, capsys, "--objects", "260")
    assert count_calls(found)[space.vault] == (11, 0, 0)
    assert [group["selects"] for group in found if group["reader"]["vault"] == space.vault] == [True]


def test_large_objects_are_listed_in_pages(
    space: Namespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Create more objects than tools/plan reads in one page."""
    items = "array:\n" + "".join(f"  - |\n    objectName: a{number}\n    # {'x' * 1000}\n" for number in range(100))
    classes = [space.provider_class(name=f"large-{number}", objects=items) for number in range(100)]
    syncs = [
        space.sync(f"s-{number}", {"k": f"a{number}"}, secretProviderClassName=f"large-{number}")
        for number in range(100)
    ]
    space.apply(*classes, *syncs)
    (group,) = plan_polls(space, capsys)
    assert (len(group["syncs"]), group["lists"]) == (100, 4)
    monkeypatch.setattr(kube_client, "PAGE_SIZE", 7)
    assert plan_polls(space, capsys) == [group]


@pytest.fixture
def unprivileged(installed: InstalledRelease, space: Namespace, tmp_path: Path) -> Path:
    """Return a kubeconfig for an account without permissions."""
    plane = installed.plane
    token = plane.kubectl("create", "token", "default", "--namespace", space.name).strip()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"] = [{"name": each["name"], "user": {"token": token}} for each in config["users"]]
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


def test_forbidden_list_is_explained(unprivileged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--from", "cluster", "--kubeconfig", str(unprivileged)]) == 2
    errors = capsys.readouterr().err
    assert "you may not list secretproviderclasses in all namespaces; ask an administrator for the right" in errors
    assert "kubectl get secretproviderclasses --all-namespaces --output yaml" in errors


def test_export_with_null_fields_gives_the_same_plan_as_the_cluster(
    space: Namespace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source, sync = space.provider_class("a"), space.sync("s", {"k": "a"})
    source["spec"]["secretObjects"] = None
    source["metadata"]["labels"] = None
    sync["spec"]["secretObject"] |= {"labels": None, "annotations": None}
    sync["spec"]["forceSynchronization"] = None
    space.apply(source, sync)
    file = tmp_path / "export.json"
    file.write_text(json.dumps({"kind": "List", "items": [source, sync]}))
    assert plan.main(["--from", str(file), "-o", "json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["polls"]["groups"]
    (in_cluster,) = plan_polls(space, capsys)
    assert (group["calls"], group["lists"]) == (in_cluster["calls"], in_cluster["lists"])
