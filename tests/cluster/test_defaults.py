"""Test the chart's defaults: all granted rights are used, and values are only in Secrets."""

import base64

from tests.support.cluster.harness import CANARY, InstalledRelease, canary_value
from tests.support.cluster.leaks import find_leaks
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.permissions import assert_all_granted_used, use_all_permissions
from tests.support.cluster.process_memory import list_encodings
from tools.pods.pod_process import PodProcess


def test_granted_permissions_equal_used_ones(space: Namespace, installed: InstalledRelease) -> None:
    use_all_permissions(space)
    assert_all_granted_used(installed)


def test_no_value_is_anywhere_but_in_a_secret(
    space: Namespace, installed: InstalledRelease, controller: PodProcess
) -> None:
    space.set_secret("a", "leak")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "leak"})
    assert any(form in base64.b64encode(canary_value("leak").encode()) for form in list_encodings(CANARY.encode()))
    assert find_leaks(installed, controller, [CANARY.encode()]) == []
