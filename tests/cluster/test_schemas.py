"""Every object that the chart renders, over the matrix of values, fits the schemas that the API server serves."""

import json
from dataclasses import replace

import pytest

from tests.cluster.world import create
from tools import lint, render
from tools.local_cluster import ControlPlane
from tools.local_cluster.errors import ClusterError

RELEASE = "schemas"
MATRIX = {name: replace(options, release=RELEASE, namespace=RELEASE) for name, options in lint.rendered()}


@pytest.fixture(scope="module")
def scene(plane: ControlPlane) -> None:
    """Create what a dry run does not: the namespaces, and the ServiceAccounts without which no Pod is admitted."""
    rendered = [each for options in MATRIX.values() for each in render.render(options)]
    there = set(plane.kubectl("get", "namespaces", "--output=jsonpath={.items[*].metadata.name}").split())
    for name in {each.namespace for each in rendered} - {""} - there:
        create(plane, "namespaces", name)
    for namespace, name in {(each.namespace, each.name) for each in rendered if each.kind == "ServiceAccount"}:
        create(plane, f"namespaces/{namespace}/serviceaccounts", name)


def apply(plane: ControlPlane, *objects: object) -> list[str]:
    """What a server would do with them, any field that it does not know being an error."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    words = ("apply", "--dry-run=server", "--validate=strict", "--filename", "-", "--output=name")
    return plane.kubectl(*words, stdin=listed).split()


@pytest.mark.parametrize("options", MATRIX.values(), ids=MATRIX)
def test_every_object_is_valid(plane: ControlPlane, scene: None, options: render.Options) -> None:
    # Before 1.30 there are no admission policies.
    served = plane.kubectl("api-versions").split()
    manifests = [each for each in render.render(options) if each.object["apiVersion"] in served]
    assert len(apply(plane, *(each.object for each in manifests))) == len(manifests)


def test_an_unknown_field_is_refused(plane: ControlPlane, scene: None) -> None:
    [deployment] = [each.object for each in render.render(MATRIX["defaults"]) if each.kind == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(ClusterError, match=r"unknown field .*imagePolicy"):
        apply(plane, deployment)
