"""Test each SecretProviderClass and SecretSync of tests/support/cluster/sse_cases.py on a real API server.

The module applies all of them together in one namespace. Each case has one test.
"""

import base64
import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from controller.api.conditions import Reason
from controller.runtime.clock import parse_time
from tests.support.certificates import encode_pem_bundle
from tests.support.cluster.harness import MANAGED_LABEL, TENANT, InstalledRelease, eventually
from tests.support.cluster.namespace import Namespace
from tests.support.cluster.sse_cases import CASES, ISSUER, NEW, OLD, PFX, TODAY, TOKENS, Case, covers_rows
from tools.pods.pod_process import PodProcess

SYNCED = (Reason.WRITTEN, Reason.UP_TO_DATE)


class AppliedTable(NamedTuple):
    """The SecretSyncs and Secrets of all cases by their names, after the controller has processed them."""

    space: Namespace
    syncs: Mapping[str, dict[str, Any]]
    secrets: Mapping[str, dict[str, Any]]

    def ready(self, name: str) -> tuple[str, str]:
        """Return the reason and message of Ready, or empty strings if no controller has processed the SecretSync."""
        conditions = self.syncs[name].get("status", {}).get("conditions", [])
        return next(((item["reason"], item["message"]) for item in conditions if item["type"] == "Ready"), ("", ""))


def make_object_name(case: Case) -> str:
    """Return the name of a case's objects."""
    return re.sub("[^a-z0-9]+", "-", case.name.lower())


def list_accepted_reasons(case: Case) -> tuple[str, ...]:
    """Return the reasons that are correct for the SecretSync."""
    if case.reason:
        return (case.reason,)
    return SYNCED if case.secret else ("",)


def fill_vault(space: Namespace) -> str:
    """Create the vault objects that the cases read. Return the ID of the first version of the secret `token`."""
    emulator, ids = space.installed.emulator, []
    emulator.assign_role(space.client, space.vault, "Key Vault Reader")
    for second, (token, web) in enumerate(zip(TOKENS, (OLD, NEW), strict=True)):
        emulator.set_clock(-10 + second)  # Key Vault's times have a resolution of one second
        ids.append(emulator.set_secret(space.vault, "token", token))
        emulator.import_certificate(space.vault, "web", encode_pem_bundle(web, ISSUER))
    emulator.set_clock(0)
    emulator.import_certificate(space.vault, "shop", base64.b64decode(PFX))
    for name, text in (("as-hex", "00ff41"), ("as-base64", "AP9B"), ("registry", "{}")):
        emulator.set_secret(space.vault, name, text)
    return ids[0]


def apply_merge_patch(before: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a JSON merge patch, as `kubectl patch --type=merge` does. The value None removes a field."""
    after = dict(before)
    for key, item in change.items():
        after[key] = apply_merge_patch(after.get(key, {}), item) if isinstance(item, Mapping) else item
    return {key: item for key, item in after.items() if item is not None}


def make_manifests(case: Case, space: Namespace, first: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a case's class and SecretSync. `first` is the ID of the first version of the secret `token`."""
    items = (item.replace("{first}", first).replace("\n", "\n    ") for item in case.objects)
    text = "array:\n" + "".join(f"  - |\n    {item}\n" for item in items)
    fill = {"client": space.client, "tenant": TENANT, "vault": space.vault}
    parameters = {key: given.format(**fill) for key, given in case.parameters.items()}
    provider_class = space.provider_class(name=make_object_name(case), objects=text, **parameters)
    sync = space.sync(make_object_name(case), case.data, secretProviderClassName=make_object_name(case))
    more = {**case.spec, "secretObject": case.secret_object}
    return apply_merge_patch(provider_class, case.provider_class), apply_merge_patch(sync, {"spec": more})


@pytest.fixture(scope="module")
def applied(installed: InstalledRelease, controller: PodProcess) -> Iterator[AppliedTable]:
    space = Namespace(installed)
    first = fill_vault(space)
    space.apply(*(manifest for case in CASES for manifest in make_manifests(case, space, first)))

    def read_objects() -> AppliedTable:
        found = json.loads(space.kubectl("get", "secretsyncs,secrets", "--output", "json"))["items"]
        by_kind = {
            kind: {item["metadata"]["name"]: item for item in found if item["kind"] == kind}
            for kind in ("SecretSync", "Secret")
        }
        return AppliedTable(space, by_kind["SecretSync"], by_kind["Secret"])

    # The controller may see a SecretSync before its class. If a case does not reach its state, its own test reports it.
    with contextlib.suppress(AssertionError):
        eventually(
            read_objects,
            lambda found: all(found.ready(make_object_name(case))[0] in list_accepted_reasons(case) for case in CASES),
        )
    yield read_objects()
    space.remove()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_class_and_secretsync_of_sse_are_accepted(case: Case, applied: AppliedTable) -> None:
    name = make_object_name(case)
    reason, message = applied.ready(name)
    assert reason in list_accepted_reasons(case), message
    assert case.said.format(vault=applied.space.vault) in message
    if not case.secret:
        assert name not in applied.secrets
        return
    secret = applied.secrets[name]
    found = {key: base64.b64decode(text) for key, text in secret["data"].items()}
    assert found == {key: text.encode() if isinstance(text, str) else text for key, text in case.secret.items()}
    assert secret["type"] == (case.secret_object.get("type") or "Opaque")
    assert secret["metadata"]["labels"] == MANAGED_LABEL | case.secret_object.get("labels", {})
    assert secret["metadata"].get("annotations", {}) == case.secret_object.get("annotations", {})


@covers_rows("life: the Secret's name", "status: syncHash", "status: lastSuccessfulSyncTime", "status: conditions")
def test_secret_and_status_have_the_form_of_sse(applied: AppliedTable) -> None:
    sync, secret = applied.syncs["v1"], applied.secrets["v1"]
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
    # The controller ignores the class's `secretObjects`, as SSE does.
    assert "not-made" not in applied.secrets


@covers_rows("reason: PartialSync")
def test_partial_sync_reports_each_item(applied: AppliedTable) -> None:
    items = json.loads(applied.ready("an-object-that-is-not-there")[1])
    assert [(item["targetKey"], item["sourcePath"], item["status"]) for item in items] == [
        ("n", "none", "failed"),
        ("k", "token", "synced"),
    ]
