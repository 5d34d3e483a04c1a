"""Render the chart with a matrix of values. Test that every object is valid by the API server's schemas."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.support.cluster.harness import create_object
from tools import lint
from tools.cli.render import render
from tools.local_cluster import ControlPlane
from tools.local_cluster.errors import ClusterError

RELEASE = "schemas"
MATRIX = {name: replace(options, release=RELEASE, namespace=RELEASE) for name, options in lint.rendered()}


@pytest.fixture(scope="module")
def prerequisites(plane: ControlPlane) -> None:
    """Create the namespaces and ServiceAccounts that the API server requires for Pods. A dry run creates neither."""
    rendered = [each for options in MATRIX.values() for each in list_objects(options)]
    namespaces = {each["metadata"].get("namespace", "") for each in rendered}
    existing = set(plane.kubectl("get", "namespaces", "--output=jsonpath={.items[*].metadata.name}").split())
    for name in namespaces - {""} - existing:
        create_object(plane, "namespaces", name)
    accounts = [each["metadata"] for each in rendered if each["kind"] == "ServiceAccount"]
    for namespace, name in {(account["namespace"], account["name"]) for account in accounts}:
        create_object(plane, f"namespaces/{namespace}/serviceaccounts", name)


def list_objects(options: render.RenderOptions) -> list[dict[str, Any]]:
    """Return the objects that the chart renders. Replace a List by its items: kubectl rejects a List in a List."""
    rendered = [each.object for each in render.render(options)]
    return [item for each in rendered for item in (each["items"] if each["kind"] == "List" else [each])]


def apply_as_dry_run(plane: ControlPlane, *objects: object) -> list[str]:
    """Apply objects as a dry run, with unknown fields as errors. Return their names."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    words = ("apply", "--dry-run=server", "--validate=strict", "--filename", "-", "--output=name")
    return plane.kubectl(*words, stdin=listed).split()


@pytest.mark.parametrize("options", MATRIX.values(), ids=MATRIX)
def test_every_object_is_valid(plane: ControlPlane, prerequisites: None, options: render.RenderOptions) -> None:
    # Kubernetes before 1.30 has no admission policies.
    served = plane.kubectl("api-versions").split()
    objects = [each for each in list_objects(options) if each["apiVersion"] in served]
    assert len(apply_as_dry_run(plane, *objects)) == len(objects)


def test_unknown_field_is_refused(plane: ControlPlane, prerequisites: None) -> None:
    [deployment] = [each.object for each in render.render(MATRIX["defaults"]) if each.kind == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(ClusterError, match=r"unknown field .*imagePolicy"):
        apply_as_dry_run(plane, deployment)
