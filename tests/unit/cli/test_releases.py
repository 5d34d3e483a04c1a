"""Test the detection of releases by objects that only cluster administrators can create."""

from collections.abc import Mapping
from typing import Any, cast

import pytest

from controller import errors
from tools.cli import releases
from tools.cli.common.command import BadInput
from tools.cli.common.kube_client import Object, OperatorKubeClient
from tools.cli.releases import NotSeen, ReleaseAccount, ReleaseChoice

LABELS = {"app.kubernetes.io/part-of": "akv-secret-store"}


def make_binding(name: str, *subjects: tuple[str, str], kind: str = "ServiceAccount", release: str = "mine") -> Object:
    labels = {**LABELS, "app.kubernetes.io/instance": release}
    subject_list = [{"kind": kind, "namespace": namespace, "name": account} for namespace, account in subjects]
    return {"metadata": {"name": name, "labels": labels}, "subjects": subject_list}


def make_policy(name: str, user: str) -> Object:
    condition = {"name": "controller", "expression": f"request.userInfo.username == '{user}'"}
    return {"metadata": {"name": name, "labels": LABELS}, "spec": {"matchConditions": [condition]}}


def make_deployment(namespace: str, name: str, account: str = "akv") -> Object:
    meta = {"namespace": namespace, "name": name, "labels": {**LABELS, "app.kubernetes.io/instance": "mine"}}
    return {"metadata": meta, "spec": {"template": {"spec": {"serviceAccountName": account}}}}


class FakeCluster:
    """A fake client with one list for the last part of each path. It raises a list that is an error."""

    def __init__(self, *deployments: Object, **lists: list[Object] | Exception) -> None:
        self._deployments = list(deployments)
        self._lists: Mapping[str, list[Object] | Exception] = lists

    async def list_objects(self, path: str, labels: str = "") -> list[Object]:
        *_, namespace, plural = path.split("/")
        if plural == "deployments":
            return [each for each in self._deployments if namespace in ("v1", each["metadata"]["namespace"])]
        found = self._lists.get(plural, [])
        if isinstance(found, Exception):
            raise found
        return found

    async def get_object(self, path: str) -> Object:
        *_, namespace, _, name = path.split("/")
        for each in self._deployments:
            if (each["metadata"]["namespace"], each["metadata"]["name"]) == (namespace, name):
                return each
        raise errors.NotFound("not found", status=404)


async def list_names(cluster: FakeCluster, **choice: str) -> list[str]:
    return [
        f"{each.namespace}/{each.name}"
        for each in await releases.find_releases(cast("OperatorKubeClient", cluster), ReleaseChoice(**choice))
    ]


BINDING = make_binding("akv.home", ("home", "akv"))
USER = "system:serviceaccount:home:akv"


@pytest.mark.parametrize(
    ("lists", "found"),
    [
        ({}, []),
        ({"clusterrolebindings": [BINDING]}, [ReleaseAccount("home", "akv", "akv", "mine")]),
        (
            {"validatingadmissionpolicies": [make_policy("secrets.akv.home", USER)]},
            [ReleaseAccount("home", "akv", "akv")],
        ),
        # Objects that the chart does not create: another subject, another namespace or another policy in the name.
        ({"clusterrolebindings": [make_binding("akv.home", ("home", "akv"), kind="User")]}, []),
        ({"clusterrolebindings": [make_binding("akv.home", ("shop", "akv"))]}, []),
        ({"clusterrolebindings": [{"metadata": {"name": "akv.home"}}]}, []),
        ({"validatingadmissionpolicies": [make_policy("mine.akv.home", USER)]}, []),
        ({"validatingadmissionpolicies": [make_policy("secrets.akv.shop", USER)]}, []),
        ({"validatingadmissionpolicies": [make_policy("secrets.akv.home", "system:admin")]}, []),
        ({"validatingadmissionpolicies": [{"metadata": {"name": "secrets.akv.home"}, "spec": {}}]}, []),
        # The name of a release may contain dots.
        (
            {"clusterrolebindings": [make_binding("a.b.home", ("home", "x"))]},
            [ReleaseAccount("home", "a.b", "x", "mine")],
        ),
        (
            {"clusterrolebindings": [BINDING], "validatingadmissionpolicies": [make_policy("secrets.akv.home", USER)]},
            [ReleaseAccount("home", "akv", "akv", "mine")],
        ),
    ],
)
def test_release_is_found_by_objects_of_administrators(
    lists: dict[str, list[Object]], found: list[ReleaseAccount]
) -> None:
    bindings, rules = (lists.get(name, []) for name in ("clusterrolebindings", "validatingadmissionpolicies"))
    assert releases.list_accounts(bindings, rules) == found


async def test_deployment_with_only_a_label_is_no_release() -> None:
    fakes = [make_deployment("aaa", "akv"), make_deployment("aaa", "other"), make_deployment("home", "other")]
    assert await list_names(FakeCluster(*fakes, make_deployment("home", "akv"), clusterrolebindings=[BINDING])) == [
        "home/akv"
    ]
    assert await list_names(FakeCluster(*fakes, clusterrolebindings=[BINDING])) == []
    assert await list_names(FakeCluster(*fakes)) == []


async def test_deployment_with_another_account_is_no_release() -> None:
    assert await list_names(FakeCluster(make_deployment("home", "akv", "default"), clusterrolebindings=[BINDING])) == []


async def test_leftover_binding_is_no_release() -> None:
    leftover = make_binding("akv.aaa", ("aaa", "akv"))
    cluster = FakeCluster(make_deployment("home", "akv"), clusterrolebindings=[leftover, BINDING])
    assert await list_names(cluster) == ["home/akv"]


async def test_several_releases_need_a_choice() -> None:
    second = make_binding("akv.away", ("away", "akv"), release="theirs")
    cluster = FakeCluster(
        make_deployment("home", "akv"), make_deployment("away", "akv"), clusterrolebindings=[BINDING, second]
    )
    found = await releases.find_releases(cast("OperatorKubeClient", cluster), ReleaseChoice())
    with pytest.raises(BadInput, match=r"away/akv \(release theirs\), home/akv .*--release-namespace NAMESPACE"):
        releases.choose_release(found)
    assert await list_names(cluster, namespace="home") == ["home/akv"]
    assert await list_names(cluster, release="theirs") == ["away/akv"]
    assert await list_names(cluster, namespace="shop") == []


async def test_releases_of_one_namespace_are_selected_by_name() -> None:
    second = make_binding("akv2.home", ("home", "akv"), release="second")
    cluster = FakeCluster(
        make_deployment("home", "akv"), make_deployment("home", "akv2"), clusterrolebindings=[BINDING, second]
    )
    with pytest.raises(BadInput, match="--release NAME"):
        releases.choose_release(
            await releases.find_releases(cast("OperatorKubeClient", cluster), ReleaseChoice("home"))
        )
    assert await list_names(cluster, namespace="home", release="second") == ["home/akv2"]


async def test_namespace_that_the_caller_names_is_trusted() -> None:
    """Check a release without policies and cluster-wide objects in the namespace that the caller names."""
    cluster = FakeCluster(make_deployment("home", "akv"), make_deployment("aaa", "akv"))
    (found,) = await releases.find_releases(cast("OperatorKubeClient", cluster), ReleaseChoice("home"))
    assert (found.namespace, found.verified) == ("home", False)
    # A release that objects of administrators name has priority.
    cluster = FakeCluster(
        make_deployment("home", "akv"), make_deployment("home", "fake"), clusterrolebindings=[BINDING]
    )
    (found,) = await releases.find_releases(cast("OperatorKubeClient", cluster), ReleaseChoice("home"))
    assert (found.name, found.verified) == ("akv", True)


async def test_caller_without_rights_on_bindings_names_the_namespace() -> None:
    refused: Any = errors.Refused("clusterrolebindings is forbidden", status=403)
    cluster = FakeCluster(make_deployment("aaa", "akv"), make_deployment("home", "akv"), clusterrolebindings=refused)
    with pytest.raises(NotSeen, match="forbidden"):
        await releases.find_releases(cast("OperatorKubeClient", cluster), ReleaseChoice())
    assert await list_names(cluster, namespace="home") == ["home/akv"]
