"""Over everything that the suite did: granted == used, and no value anywhere but in a Secret. Collected last."""

import base64
from collections.abc import Iterable

from tests.cluster.rights import play, uses_what_is_granted
from tests.cluster.world import CANARY, Installed, Namespace, metrics, value
from tools.workload import Workload


def test_granted_equals_used(space: Namespace, installed: Installed) -> None:
    play(space)
    uses_what_is_granted(installed)


def texts(installed: Installed, controller: Workload) -> Iterable[tuple[str, str]]:
    """Everything that people and machines see, but Secrets."""
    yield "metrics", metrics(controller)
    for path in installed.logs:
        yield path.name, path.read_text()
    for kind in ("events", "secretsyncs", "akvsyncs", "secretproviderclasses", "configmaps"):
        yield kind, installed.plane.kubectl("get", kind, "--all-namespaces", "-o", "yaml")
    yield "audit log", installed.plane.audit_log.read_text()


def test_no_value_is_anywhere_but_in_a_secret(space: Namespace, installed: Installed, controller: Workload) -> None:
    space.put("a", "leak")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "leak"})
    # Base64 of the canary, at each of its three alignments, without the characters that neighbours change.
    encoded = [base64.b64encode(b"x" * shift + CANARY.encode())[4 if shift else 0 : -4].decode() for shift in range(3)]
    assert encoded[0] in base64.b64encode(value("leak").encode()).decode()
    for name, text in texts(installed, controller):
        assert text, name
        for form in [CANARY, *encoded]:
            assert form not in text, f"a value is in {name}"
