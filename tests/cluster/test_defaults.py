"""With the chart's defaults: the rights that are granted are used, and no value is anywhere but in a Secret."""

import base64

from tests.cluster.leaks import leaked
from tests.cluster.memory import forms
from tests.cluster.rights import play, uses_what_is_granted
from tests.cluster.world import CANARY, Installed, Namespace, value
from tools.workload import Workload


def test_granted_equals_used(space: Namespace, installed: Installed) -> None:
    play(space)
    uses_what_is_granted(installed)


def test_no_value_is_anywhere_but_in_a_secret(space: Namespace, installed: Installed, controller: Workload) -> None:
    space.put("a", "leak")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "leak"})
    assert any(form in base64.b64encode(value("leak").encode()) for form in forms(CANARY.encode()))
    assert leaked(installed, controller, [CANARY.encode()]) == []
