"""Provide calls of the Kubernetes API, an answer to them, and a helper that returns their error."""

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


def probe_secret(api: KubeClient) -> Awaitable[object]:
    return permissions.SECRETS.probe_metadata(api, "team", "shop")


async def catch_error(call: Awaitable[object]) -> errors.KubeError:
    with pytest.raises(errors.KubeError) as caught:
        await call
    return caught.value
