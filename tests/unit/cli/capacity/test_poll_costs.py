"""Test tools/plan --from: the calls of a poll for the objects of a folder or cluster, and their SecretSyncs."""

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.errors import Refused
from controller.kube import client
from controller.kube.client import KubeClient
from tests.support.scripted_api_server import ReceivedRequest, ScriptedResponse, error_response, run_api_server
from tools.cli.capacity import plan, sources
from tools.cli.capacity.poll_costs import ClusterObjects, poll_costs
from tools.cli.capacity.sources import read_manifests
from tools.cli.common.kube_client import OperatorKubeClient


def make_provider_class(name: str, *objects: str, namespace: str = "shop", **parameters: str) -> dict[str, Any]:
    items = "array:\n" + "".join(f"  - |\n    {item}\n" for item in objects)
    ids = {"keyvaultName": "Shop-Vault", "clientID": "client", "tenantID": "tenant", "objects": items}
    return {
        "apiVersion": "secrets-store.csi.x-k8s.io/v1",
        "kind": "SecretProviderClass",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"provider": "azure", "parameters": ids | parameters},
    }


def format_secret(name: str, kind: str = "secret", history: int = 0) -> str:
    history_field = f"\n    objectVersionHistory: {history}" if history else ""
    return f"objectName: {name}\n    objectType: {kind}{history_field}"


def make_sync(name: str, source: str, *paths: str, namespace: str = "shop", account: str = "robot") -> dict[str, Any]:
    data = [{"sourcePath": path, "targetKey": path.replace("/", "-")} for path in paths]
    return {
        "apiVersion": "secret-sync.x-k8s.io/v1alpha1",
        "kind": "SecretSync",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "serviceAccountName": account,
            "secretProviderClassName": source,
            "secretObject": {"type": "Opaque", "data": data},
        },
    }


def make_akvsync(*objects: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "secret-sync.x-k8s.io/v1alpha1",
        "kind": "AKVSync",
        "metadata": {"name": "shop", "namespace": "shop"},
        "spec": {
            "keyvaultName": "shop-vault",
            "clientID": "client",
            "tenantID": "tenant",
            "serviceAccountName": "robot",
            "objects": list(objects),
        },
    }


def write_manifests(folder: Path, *objects: Mapping[str, Any]) -> str:
    for number, item in enumerate(objects):
        (folder / f"{number}.yaml").write_text(yaml.safe_dump(item))
    return str(folder)


@pytest.fixture
def measure_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*objects: Mapping[str, Any], arguments: tuple[str, ...] = ()) -> Any:
        assert plan.main(["--from", write_manifests(tmp_path, *objects), "-o", "json", *arguments]) == 0
        return json.loads(capsys.readouterr().out)["polls"]

    return run


def list_calls(found: Any) -> list[tuple[int, int, int]]:
    return [(group["lists"], group["gets"], group["versionLists"]) for group in found["groups"]]


@pytest.mark.parametrize(
    ("count", "in_vault", "expected"),
    [
        (1, 0, (1, 0, 0)),
        (25, 0, (1, 0, 0)),
        (26, 0, (2, 0, 0)),
        (100, 0, (4, 0, 0)),
        (100, 2_500, (100, 0, 0)),
        (100, 2_501, (0, 100, 0)),  # the list would have more pages than there are gets
        (1, 5_000, (0, 1, 0)),
    ],
)
def test_poll_lists_the_vault_if_pages_are_no_more_than_gets(
    measure_costs: Any, count: int, in_vault: int, expected: tuple[int, int, int]
) -> None:
    names = [f"a{number}" for number in range(count)]
    arguments = ("--objects", str(in_vault)) if in_vault else ()
    found = measure_costs(
        make_provider_class("all", *map(format_secret, names)), make_sync("s", "all", *names), arguments=arguments
    )
    assert list_calls(found) == [expected]
    assert found["callsByVault"] == {"shop-vault": sum(expected)}
    assert found["readsByVault"] == {"shop-vault": count}


def test_histories_and_kinds_need_additional_calls(measure_costs: Any) -> None:
    found = measure_costs(
        make_provider_class("all", format_secret("a"), format_secret("k", "key"), format_secret("h", history=3)),
        make_sync("s", "all", "a", "k", "h/0", "h/1"),
    )
    assert list_calls(found) == [(2, 0, 1)]


def test_secretsyncs_of_one_identity_share_a_poll(measure_costs: Any) -> None:
    names = [f"a{number}" for number in range(30)]
    found = measure_costs(
        make_provider_class("all", *map(format_secret, names)),
        make_sync("big", "all", *names),
        make_sync("part", "all", *names[:5]),
        make_sync("other", "all", "a0", account="another"),
    )
    assert list_calls(found) == [(2, 0, 0), (1, 0, 0)]
    assert [group["reader"]["serviceAccount"] for group in found["groups"]] == ["robot", "another"]
    assert [(each["name"], each["objects"], each["savedWithoutIt"]) for each in found["groups"][0]["syncs"]] == [
        ("big", 30, 1),
        ("part", 5, 0),
    ]


def test_akvsync_is_counted_once_as_its_generated_objects(measure_costs: Any) -> None:
    found = measure_costs(
        make_akvsync({"secretInAKV": "a"}, {"certInAKV": "web", "kubernetesSecretType": "kubernetes.io/tls"})
    )
    assert list_calls(found) == [(1, 0, 0)]
    assert sorted(each["name"] for each in found["groups"][0]["syncs"]) == ["a", "web"]


def test_selection_lists_the_whole_vault(measure_costs: Any) -> None:
    found = measure_costs(make_akvsync({"select": {"namePrefix": "shop-"}}), arguments=("--objects", "260"))
    assert list_calls(found) == [(11, 0, 0)]
    assert found["groups"][0]["selects"]


def test_object_that_cannot_be_counted_is_noted(measure_costs: Any) -> None:
    found = measure_costs(
        make_sync("lost", "none", "a"), make_provider_class("one", format_secret("a")), make_sync("wrong", "one", "b")
    )
    assert found["groups"] == []
    assert (
        found["notes"][0]
        == "SecretSync shop/lost is not counted: there is no SecretProviderClass none in namespace shop"
    )
    assert found["notes"][1].startswith("SecretSync shop/wrong is not counted: sourcePath b")


def test_text_shows_the_most_expensive_first_and_is_safe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a{number}" for number in range(12)]
    folder = write_manifests(
        tmp_path,
        make_provider_class("all", *map(format_secret, names)),
        *(make_sync(f"s{number:02}", "all", *names[number:]) for number in range(12)),
        make_sync("evil\x1b[2J", "none\u202e", "a"),
    )
    assert plan.main(["--from", folder]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:3] == [
        "Key Vault shop-vault: 1 calls for a poll without changes",
        "  as ServiceAccount shop/robot: 1 calls (1 list pages)",
        "    SecretSync s00: 12 objects",
    ]
    assert "    and 2 more SecretSyncs (-o json shows all)" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_source_that_reads_no_vault_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--from", write_manifests(tmp_path, {"kind": "Pod"})]) == 0
    assert capsys.readouterr().out == "no SecretSync and no AKVSync: no poll calls a vault\n"


def test_fleet_of_clusters_with_these_objects_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a{number}" for number in range(20)]
    folder = write_manifests(
        tmp_path, make_provider_class("all", *map(format_secret, names)), make_sync("s", "all", *names)
    )
    assert plan.main(["--from", folder, "--clusters", "500", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert plan.main(["--clusters", "500", "--secrets", "20", "-o", "json"]) == 0
    assert found["plan"] == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "give --clusters and --secrets, or --from"),
        (["--clusters", "5"], "give --clusters and --secrets, or --from"),
        (["--from", "x", "--secrets", "5"], "leave out --secrets"),
        (["--from", "x", "--kubeconfig", "k"], "--kubeconfig needs --from cluster"),
    ],
)
def test_conflicting_arguments_are_refused(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        plan.main(arguments)
    assert problem in capsys.readouterr().err


def test_cluster_that_cannot_be_reached_has_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main(["--from", "cluster", "--kubeconfig", str(tmp_path / "none")]) == 2
    assert "there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "there is no such file or folder; give one, or `cluster`"),
        ("a: [", "cannot be read: line 1"),
        (
            "kind: SecretSync\napiVersion: secret-sync.x-k8s.io/v1alpha1\nmetadata: 3\n",
            "does not have the form of its kind",
        ),
    ],
)
def test_unusable_sources_are_bad_input(
    text: str | None, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "in.yaml"
    if text is not None:
        path.write_text(text)
    assert plan.main(["--from", str(path)]) == 2
    assert problem in capsys.readouterr().err


def test_plan_without_a_countable_secretsync_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["--from", write_manifests(tmp_path, make_sync("lost", "none", "a")), "--clusters", "5"]) == 1
    assert "no SecretSync that could be counted reads a vault" in capsys.readouterr().err


def test_lists_of_objects_and_other_kinds_are_read(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text(
        json.dumps(
            {
                "kind": "List",
                "items": [make_provider_class("one", format_secret("a")), make_sync("s", "one", "a"), {"kind": "Pod"}],
            }
        )
    )
    assert len(poll_costs(read_manifests(tmp_path)).groups) == 1


def test_null_fields_are_left_out_as_the_api_server_does(measure_costs: Any) -> None:
    source, one = make_provider_class("one", format_secret("a")), make_sync("s", "one", "a")
    source["metadata"]["labels"] = source["spec"]["secretObjects"] = source["status"] = None
    one["metadata"]["annotations"] = one["spec"]["forceSynchronization"] = one["spec"]["secretObject"]["labels"] = None
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": None}}
    assert list_calls(measure_costs(source, one, account)) == [(1, 0, 0)]


def read_cluster(answer: Callable[[ReceivedRequest], ScriptedResponse]) -> ClusterObjects:
    """Return the objects of an API server that answers requests with `answer`."""

    async def run() -> ClusterObjects:
        async with run_api_server() as server:
            server.default_response = answer
            async with KubeClient(server.client_config()) as kube:
                return await sources.read_objects(OperatorKubeClient(kube))

    return asyncio.run(run())


@pytest.mark.parametrize("missing", ["secretproviderclasses", "secretsyncs", "akvsyncs"])
def test_kind_that_the_cluster_lacks_has_no_objects(missing: str) -> None:
    page = ScriptedResponse({"metadata": {}, "items": [{"metadata": {"name": "a"}}]})
    found = read_cluster(lambda request: error_response(404) if missing in request.path else page)
    assert len(found.accounts) == 1


@pytest.mark.parametrize("plural", ["secretproviderclasses", "secretsyncs", "akvsyncs", "serviceaccounts"])
def test_forbidden_list_names_the_kind_and_the_alternative(plural: str) -> None:
    page = ScriptedResponse({"metadata": {}, "items": []})
    with pytest.raises(Refused, match=f"you may not list {plural} in all .*kubectl get {plural} --all-namespaces"):
        read_cluster(lambda request: error_response(403, "no") if plural in request.path else page)


def test_pages_that_are_too_large_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER", 10_000)
    limits: list[int] = []
    items = [{"metadata": {"name": f"a{number}", "annotations": {"x": "x" * 1_000}}} for number in range(40)]

    def answer(request: ReceivedRequest) -> ScriptedResponse:
        if "serviceaccounts" not in request.path:
            return ScriptedResponse({"metadata": {}, "items": []})
        start, limit = int(request.query.get("continue", 0)), int(request.query["limit"])
        limits.append(limit)
        token = str(start + limit) if start + limit < len(items) else ""
        return ScriptedResponse({"metadata": {"continue": token}, "items": items[start : start + limit]})

    assert [each.metadata.name for each in read_cluster(answer).accounts] == [f"a{number}" for number in range(40)]
    assert limits == [500, 250, 125, 62, 31, 15, *[7] * 6]
