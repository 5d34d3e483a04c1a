"""Test that the API server accepts SSE's fields at their limits and refuses them above their limits."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from controller.api.secretsync import TYPE_STAYS
from tests.support.cluster.harness import InstalledRelease
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.sse_bounds import BOUNDS, MISTAKES, Bound, Mistake
from tests.support.cluster.sse_cases import covers_rows
from tools.cli.common import sse_guide
from tools.local_cluster.errors import ClusterError


@pytest.fixture(scope="module")
def space(installed: InstalledRelease) -> Iterator[Namespace]:
    """Provide one namespace for all tests, because they leave nothing in it."""
    namespace = Namespace(installed)
    yield namespace
    namespace.remove()


def create_as_dry_run(space: Namespace, manifest: Mapping[str, Any]) -> str:
    """Create an object as a dry run. Return the API server's message."""
    try:
        return space.kubectl("create", "--dry-run=server", "--filename", "-", stdin=json.dumps(manifest))
    except ClusterError as error:
        return str(error)


def set_spec_fields(manifest: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Set fields of a manifest's spec by their dotted paths, and return it. The value None removes a field."""
    for path, given in fields.items():
        *parents, last = path.split(".")
        target = manifest["spec"]
        for parent in parents:
            target = target[parent]
        if given is None:
            del target[last]
        else:
            target[last] = given
    return manifest


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: f"{bound.row} {bound.said}")
def test_field_is_accepted_at_its_limit_and_refused_above_it(bound: Bound, space: Namespace) -> None:
    def manifest() -> dict[str, Any]:
        return space.sync("bound", {"k": "a"})

    assert "created (server dry run)" in create_as_dry_run(space, set_spec_fields(manifest(), bound.taken))
    assert bound.said in create_as_dry_run(space, set_spec_fields(manifest(), bound.refused))


@pytest.mark.parametrize("wrong", MISTAKES, ids=lambda wrong: f"{wrong.row} {wrong.said}")
def test_invalid_akvsync_is_refused(wrong: Mistake, space: Namespace) -> None:
    manifest = msgspec.yaml.decode(sse_guide.AKV_SYNC)
    manifest["metadata"]["namespace"] = space.name
    assert "created (server dry run)" in create_as_dry_run(space, manifest)
    if wrong.first is not None:
        manifest["spec"]["objects"][0] = wrong.first
    assert wrong.said in create_as_dry_run(space, set_spec_fields(manifest, wrong.spec))


@covers_rows("spec: type is immutable")
def test_secret_type_is_immutable(space: Namespace) -> None:
    space.apply(space.sync("there", {"k": "a"}))
    patch = json.dumps({"spec": {"secretObject": {"type": "kubernetes.io/ssh-auth"}}})
    with pytest.raises(ClusterError, match=TYPE_STAYS):
        space.kubectl("patch", "secretsync", "there", "--type=merge", "--patch", patch)
    space.kubectl("delete", "secretsync", "there")
