"""Calls of the Kubernetes API as these tests make them, an answer, and the failure that comes instead."""

from collections.abc import Awaitable, Callable

import pytest

from controller import errors
from controller.api.meta import ObjectMeta
from controller.kube import permissions
from controller.kube.client import KubeClient

CANARY = "canary-6f1d"
META = ObjectMeta(name="shop", namespace="team", uid="u1", resource_version="42")
PARTIAL = {"kind": "PartialObjectMetadata", "metadata": {"name": "shop", "namespace": "team", "resourceVersion": "43"}}
Call = Callable[[KubeClient], Awaitable[object]]


def look(api: KubeClient) -> Awaitable[object]:
    return permissions.SECRETS.probe_metadata(api, "team", "shop")


async def failure(call: Awaitable[object]) -> errors.KubeError:
    with pytest.raises(errors.KubeError) as caught:
        await call
    return caught.value
