"""Test each SecretProviderClass and SecretSync of tests/support/cluster/sse_cases.py on a real API server.

The module applies all of them at once, in one namespace. Then there is one test for each case.
"""

import base64
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from controller.api.conditions import Reason
from controller.runtime.backoff import parse_time
from tests.support.certificates import encode_pem_bundle
from tests.support.cluster.harness import MANAGED_LABEL, TENANT, InstalledRelease, eventually
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.sse_cases import CASES, ISSUER, NEW, OLD, PFX, TODAY, TOKENS, Case, covers_rows
from tools.pods.pod_process import PodProcess

SYNCED = (Reason.WRITTEN, Reason.UP_TO_DATE)


class Played(NamedTuple):
    """What became of the whole table, by names."""

    space: Namespace
    syncs: Mapping[str, dict[str, Any]]
    secrets: Mapping[str, dict[str, Any]]

    def ready(self, name: str) -> tuple[str, str]:
        """Return reason and message; empty if no controller has processed the SecretSync."""
        conditions = self.syncs[name].get("status", {}).get("conditions", [])
        return next(((item["reason"], item["message"]) for item in conditions if item["type"] == "Ready"), ("", ""))


def slug(case: Case) -> str:
    """Return a case's name as its objects have it."""
    return re.sub("[^a-z0-9]+", "-", case.name.lower())


def reasons(case: Case) -> tuple[str, ...]:
    """Return what the SecretSync may say in the end."""
    if case.reason:
        return (case.reason,)
    return SYNCED if case.secret else ("",)


def stock(space: Namespace) -> str:
    """Put into the vault what the table reads; return the id of the token's first version."""
    emulator, ids = space.installed.emulator, []
    emulator.assign_role(space.client, space.vault, "Key Vault Reader")
    for second, (token, web) in enumerate(zip(TOKENS, (OLD, NEW), strict=True)):
        emulator.set_clock(-10 + second)  # Key Vault's times have a grain of one second
        ids.append(emulator.set_secret(space.vault, "token", token))
        emulator.import_certificate(space.vault, "web", encode_pem_bundle(web, ISSUER))
    emulator.set_clock(0)
    emulator.import_certificate(space.vault, "shop", base64.b64decode(PFX))
    for name, text in (("as-hex", "00ff41"), ("as-base64", "AP9B"), ("registry", "{}")):
        emulator.set_secret(space.vault, name, text)
    return ids[0]


def merged(before: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """As `kubectl patch --type=merge` does: None takes a field away."""
    after = dict(before)
    for key, item in change.items():
        after[key] = merged(after.get(key, {}), item) if isinstance(item, Mapping) else item
    return {key: item for key, item in after.items() if item is not None}


def manifests(case: Case, space: Namespace, first: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the case's class and its SecretSync; `first` is the id of the token's first version."""
    items = (item.replace("{first}", first).replace("\n", "\n    ") for item in case.objects)
    text = "array:\n" + "".join(f"  - |\n    {item}\n" for item in items)
    fill = {"client": space.client, "tenant": TENANT, "vault": space.vault}
    parameters = {key: given.format(**fill) for key, given in case.parameters.items()}
    provider_class = space.provider_class(name=slug(case), objects=text, **parameters)
    sync = space.sync(slug(case), case.data, secretProviderClassName=slug(case))
    more = {**case.spec, "secretObject": case.secret_object}
    return merged(provider_class, case.provider_class), merged(sync, {"spec": more})


@pytest.fixture(scope="module")
def played(installed: InstalledRelease, controller: PodProcess) -> Iterator[Played]:
    space = Namespace(installed)
    first = stock(space)
    space.apply(*(manifest for case in CASES for manifest in manifests(case, space, first)))

    def look() -> Played:
        found = json.loads(space.kubectl("get", "secretsyncs,secrets", "--output", "json"))["items"]
        by_kind = {
            kind: {item["metadata"]["name"]: item for item in found if item["kind"] == kind}
            for kind in ("SecretSync", "Secret")
        }
        return Played(space, by_kind["SecretSync"], by_kind["Secret"])

    # A SecretSync may be seen before its class. Whatever is not as it should be in the end is for its case to tell.
    with contextlib.suppress(AssertionError):
        eventually(look, lambda found: all(found.ready(slug(case))[0] in reasons(case) for case in CASES))
    yield look()
    space.remove()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_class_and_secretsync_of_sse_are_accepted(case: Case, played: Played) -> None:
    name = slug(case)
    reason, message = played.ready(name)
    assert reason in reasons(case), message
    assert case.said.format(vault=played.space.vault) in message
    if not case.secret:
        assert name not in played.secrets
        return
    secret = played.secrets[name]
    found = {key: base64.b64decode(text) for key, text in secret["data"].items()}
    assert found == {key: text.encode() if isinstance(text, str) else text for key, text in case.secret.items()}
    assert secret["type"] == (case.secret_object.get("type") or "Opaque")
    assert secret["metadata"]["labels"] == MANAGED_LABEL | case.secret_object.get("labels", {})
    assert secret["metadata"].get("annotations", {}) == case.secret_object.get("annotations", {})


@covers_rows("life: the Secret's name", "status: syncHash", "status: lastSuccessfulSyncTime", "status: conditions")
def test_secret_and_status_have_the_form_of_sse(played: Played) -> None:
    sync, secret = played.syncs["v1"], played.secrets["v1"]
    (owner,) = secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("SecretSync", "v1", sync["metadata"]["uid"])
    assert sync["spec"]["secretSyncControllerName"] == ""
    status = sync["status"]
    assert status["syncHash"]
    assert (moment := parse_time(status["lastSuccessfulSyncTime"]))
    assert abs((moment - TODAY).total_seconds()) < 3600
    assert {item["type"]: item["status"] for item in status["conditions"]} == {
        "Ready": "True",
        "SecretCreated": "True",
        "SecretUpdated": "True",
    }
    # What SSE ignores is not made either.
    assert "not-made" not in played.secrets


@covers_rows("reason: PartialSync")
def test_partial_sync_reports_each_item(played: Played) -> None:
    items = json.loads(played.ready("an-object-that-is-not-there")[1])
    assert [(item["targetKey"], item["sourcePath"], item["status"]) for item in items] == [
        ("n", "none", "failed"),
        ("k", "token", "synced"),
    ]
