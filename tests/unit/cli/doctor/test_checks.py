"""Test each check of tools/doctor. tests/cluster/test_doctor.py tests how the doctor collects the facts."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.api.lease import Lease, LeaseSpec
from controller.api.meta import ObjectMeta, OwnerReference
from controller.api.secretsync import SecretSync
from controller.config.settings import Settings
from controller.domain.values import SecretBytes, VaultValue
from controller.errors import NotFound, ObjectError
from controller.keyvault.credentials import Identity
from tools.cli.common.command import BadInput
from tools.cli.common.kube_client import OperatorKubeClient
from tools.cli.doctor import checks, doctor
from tools.cli.doctor.checks import CheckLevel, SecretData
from tools.cli.releases import ControllerRelease

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
IDENTITY = Identity("shop", "shop", "client-1", "tenant-1")
FIRST, SECOND = "11111111-2222-3333-4444-55555555aaaa", "22222222-2222-3333-4444-55555555aaaa"


def make_sync(**status: Any) -> SecretSync:
    return msgspec.convert(
        {
            "metadata": {"name": "s", "namespace": "shop", "uid": "u1", "generation": 2},
            "spec": {
                "secretProviderClassName": "c",
                "serviceAccountName": "shop",
                "secretObject": {"data": [{"sourcePath": "a", "targetKey": "k"}]},
            },
            "status": status,
        },
        SecretSync,
    )


def make_ready_condition(status: str = "True", generation: int = 2, message: str = "equal") -> dict[str, Any]:
    return {
        "type": "Ready",
        "status": status,
        "reason": "Because",
        "message": message,
        "lastTransitionTime": "2030-01-01T00:00:00Z",
        "observedGeneration": generation,
    }


def make_release(available: int, *, verified: bool = True) -> ControllerRelease:
    deployment = {"metadata": {"name": "a", "namespace": "n"}, "status": {"availableReplicas": available}}
    return ControllerRelease(deployment, "mine", verified=verified)


@pytest.mark.parametrize(
    ("found", "level", "word"),
    [
        (None, CheckLevel.FAIL, "install the chart"),
        (make_release(0), CheckLevel.FAIL, "n/a has no pod"),
        (make_release(1, verified=False), CheckLevel.WARN, "no ClusterRoleBinding or admission policy"),
        (make_release(1), CheckLevel.OK, "n/a is available"),
    ],
)
def test_controller_check_depends_on_its_deployment(
    found: ControllerRelease | None, level: CheckLevel, word: str
) -> None:
    check = checks.controller(found)
    assert check.level is level
    assert word in str(check)


@pytest.mark.parametrize(
    ("present", "bound", "word"),
    [
        (["p", "q"], {"p": "Deny", "q": "Deny"}, "2 in force"),
        (["p"], {"p": "Deny", "q": "Deny"}, "q missing"),
        (["p", "q"], {"p": "Deny", "q": "Audit"}, "q not bound"),
        (["p", "q"], {"p": "Deny"}, "q not bound"),
    ],
)
def test_policy_check_depends_on_policies_and_bindings(present: list[str], bound: dict[str, str], word: str) -> None:
    bindings = [{"spec": {"policyName": name, "validationActions": [action]}} for name, action in bound.items()]
    assert word in checks.policies(["p", "q"], present, bindings).text


def test_issuer_check_compares_the_published_keys_with_those_of_the_cluster() -> None:
    name = "https://issuer.example"
    assert checks.issuer(name, ["1"], {"issuer": name}, ["1", "2"]).level is CheckLevel.OK
    assert checks.issuer(name, ["1", "3"], {"issuer": name}, ["1"]).text.startswith("1 of the keys")
    assert "names issuer https://other" in checks.issuer(name, ["1"], {"issuer": "https://other"}, ["1"]).text


@pytest.mark.parametrize(
    ("difference", "level"),
    [(0, CheckLevel.OK), (-299, CheckLevel.OK), (301, CheckLevel.FAIL), (-3600, CheckLevel.FAIL)],
)
def test_clock_check_depends_on_the_difference(difference: int, level: CheckLevel) -> None:
    assert checks.clock(1_000_000, 1_000_000 + difference).level is level


def test_command_finds_the_identity_of_a_client_id_in_upper_case() -> None:
    """Azure lists client ids in lower case, and the query of az distinguishes cases."""
    client = "0000000A-0000-0000-0000-00000000000B"
    command = checks.federated_credential(Identity("shop", "shop", client, "tenant-1"), "https://issuer.example")
    assert command.count(client.lower()) == 2
    assert client not in command


def test_credentials_are_counted_per_service_account() -> None:
    def make_identities(client: str, count: int) -> list[Identity]:
        return [Identity(f"n{number}", "a", client, "t") for number in range(count)] * 2

    found = checks.credentials(make_identities("few", 15) + make_identities("many", 16) + make_identities("over", 21))
    assert [(check.level, check.text.split()[3]) for check in found] == [
        (CheckLevel.OK, "15"),
        (CheckLevel.WARN, "16"),
        (CheckLevel.FAIL, "21"),
    ]


def test_token_with_a_wrong_claim_fails_its_check() -> None:
    right = {"iss": "i", "sub": IDENTITY.subject, "aud": ["api://AzureADTokenExchange"], "iat": 1, "exp": 601}
    assert checks.token("s", IDENTITY, right, "i").text.endswith("for 600 s")
    for wrong in ({"iss": "j"}, {"sub": "x"}, {"aud": ["x"]}):
        assert checks.token("s", IDENTITY, right | wrong, "i").level is CheckLevel.FAIL


@pytest.mark.parametrize(
    ("challenge", "configured_tenant", "is_reported"),
    [
        (f'Bearer authorization="https://login.example/{FIRST}", resource="r"', FIRST.upper(), False),
        (f'Bearer authorization="https://login.example/{SECOND}/", resource="r"', FIRST, True),
        (f'Bearer authorization="https://login.example/{SECOND}", resource="r"', "contoso.example", False),
        ('Bearer authorization="https://login.example/not-an-id", resource="r"', FIRST, False),
        ("", FIRST, False),
    ],
)
def test_other_tenant_of_the_vault_is_reported(challenge: str, configured_tenant: str, is_reported: bool) -> None:
    assert bool(checks.tenant("s", "v", challenge, configured_tenant)) is is_reported


def test_private_address_of_the_vault_is_named() -> None:
    assert "private" in checks.addresses("s", "v", ["10.0.0.4", "52.1.2.3"]).text
    assert "private" not in checks.addresses("s", "v", ["52.1.2.3", "2603:1030::1"]).text


def make_secret(data: Mapping[str, bytes], uid: str = "u1", **changes: Any) -> SecretData:
    owner = OwnerReference(api_version="secret-sync.x-k8s.io/v1alpha1", kind="SecretSync", name="s", uid=uid)
    meta = ObjectMeta(name="s", labels={"secrets-store.sync.x-k8s.io": ""}, owner_references=[owner])
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return msgspec.structs.replace(SecretData(metadata=meta, type="Opaque", data=encoded), **changes)


@pytest.mark.parametrize(
    ("found", "level", "word"),
    [
        (None, CheckLevel.FAIL, "there is no Secret s"),
        (make_secret({"k": b"v"}), CheckLevel.OK, "1 of 1 keys equal"),
        (make_secret({"k": b"old"}), CheckLevel.WARN, "in k"),
        (make_secret({"k": b"v", "extra": b""}), CheckLevel.WARN, "in extra"),
        (make_secret({"k": b"v"}, uid="u0"), CheckLevel.WARN, "an earlier SecretSync"),
        (make_secret({"k": b"v"}, metadata=ObjectMeta(name="s")), CheckLevel.FAIL, "not touched"),
        (make_secret({"k": b"v"}, type="other"), CheckLevel.FAIL, "of type other, not Opaque"),
    ],
)
def test_secret_check_depends_on_owner_and_data(found: SecretData | None, level: CheckLevel, word: str) -> None:
    fetched = {"k": VaultValue(value=SecretBytes(b"v"), version="1")}
    check = checks.secret("s", make_sync(), found, fetched)
    assert check.level is level, check
    assert word in check.text


def test_key_that_cannot_be_read_is_reported() -> None:
    check = checks.secret("s", make_sync(), make_secret({"k": b"v"}), {"k": ObjectError("it is gone; bring it back")})
    assert "1 could not be read" in check.text
    (read,) = checks.objects("s", IDENTITY, "v", {"secret/a": ObjectError("it is gone; bring it back")})
    assert (read.text, read.fix) == ("it is gone", "bring it back")


@pytest.mark.parametrize(
    ("status", "level", "word"),
    [
        ({}, CheckLevel.FAIL, "has not processed it"),
        ({"conditions": [make_ready_condition(generation=1)]}, CheckLevel.FAIL, "since its last edit"),
        (
            {"conditions": [make_ready_condition("False", message="no role; assign it")]},
            CheckLevel.FAIL,
            "Because: no role",
        ),
        (
            {"conditions": [make_ready_condition()], "lastSuccessfulSyncTime": "2030-01-01T11:30:00Z"},
            CheckLevel.OK,
            "Because: equal",
        ),
        # The controller writes this time once a day. A poll is missing one hour and ten minutes after that day.
        (
            {"conditions": [make_ready_condition()], "lastSuccessfulSyncTime": "2029-12-31T10:50:00Z"},
            CheckLevel.OK,
            "Because: equal",
        ),
        (
            {"conditions": [make_ready_condition()], "lastSuccessfulSyncTime": "2029-12-31T10:49:59Z"},
            CheckLevel.WARN,
            "10:49:59Z",
        ),
    ],
)
def test_status_check_depends_on_the_conditions(status: dict[str, Any], level: CheckLevel, word: str) -> None:
    check = checks.status("s", make_sync(**status), Settings(), NOW)
    assert check.level is level
    assert word in check.text


@pytest.mark.parametrize(
    ("status", "polled", "level", "word"),
    [
        ("2029-12-31T10:00:00Z", timedelta(minutes=70), CheckLevel.OK, "Because: equal"),
        ("2029-12-31T10:00:00Z", timedelta(minutes=71), CheckLevel.WARN, "10:49:00Z"),
        ("2030-01-01T11:30:00Z", timedelta(hours=5), CheckLevel.OK, "Because: equal"),
    ],
)
def test_status_counts_the_last_poll_of_the_group(status: str, polled: timedelta, level: CheckLevel, word: str) -> None:
    sync = make_sync(conditions=[make_ready_condition()], lastSuccessfulSyncTime=status)
    check = checks.status("s", sync, Settings(), NOW, NOW - polled)
    assert check.level is level
    assert word in check.text


def test_secretsync_outside_the_watched_namespaces_fails() -> None:
    check = checks.served("s", make_sync(), Settings(watch_namespaces=("other",)))
    assert check
    assert check.level is CheckLevel.FAIL
    assert checks.served("s", make_sync(), Settings(watch_namespaces=("shop",))) is None


def test_check_line_has_only_printable_characters() -> None:
    line = str(checks.fail("s", "status", "red \x1b[31m\ntwo", "fix"))
    assert line == "fail  s  status: red  [31m two; fix"


class FakeClient(OperatorKubeClient):
    """A client of a cluster with one AKVSync, one SecretSync that it owns, and one without an owner.

    The cluster serves only `kinds`.
    """

    def __init__(self, conditions: list[Any], kinds: set[str]) -> None:
        self._owner = {"metadata": {"name": "x", "namespace": "shop", "uid": "o"}, "status": {"conditions": conditions}}
        self._kinds = kinds

    async def list_kind(self, kind: Any, namespace: str = "") -> list[Any]:
        owner = OwnerReference(api_version="secret-sync.x-k8s.io/v1alpha1", kind="AKVSync", name="x", uid="o")
        found = make_sync()
        return [found, msgspec.structs.replace(found, metadata=ObjectMeta(name="part", owner_references=[owner]))]

    async def get_object(self, path: str) -> Any:
        if path.split("/")[-2] not in self._kinds:
            raise NotFound("the server could not find the requested resource", status=404)
        if not path.endswith("/x"):
            raise NotFound('akvsyncs.secret-sync.x-k8s.io "y" not found', status=404)
        return self._owner

    async def list_objects(self, path: str, labels: str = "") -> list[Any]:
        return [await self.get_object(f"{path}/x")]


@pytest.mark.parametrize(
    ("conditions", "level", "word"),
    [
        ([], CheckLevel.FAIL, "not processed"),
        ([make_ready_condition("False")], CheckLevel.FAIL, "Because"),
        ([make_ready_condition()], CheckLevel.OK, "1 SecretSyncs"),
    ],
)
async def test_akvsync_is_replaced_by_the_secretsyncs_it_owns(
    conditions: list[Any], level: CheckLevel, word: str
) -> None:
    client = FakeClient(conditions, {"akvsyncs"})
    syncs, (check,) = await doctor.find_named(client, "AKVSync", "x", "shop")
    assert [each.metadata.name for each in syncs] == ["part"]
    assert check.level is level
    assert word in check.text
    everything = await doctor.find_named(client, "", "", "")
    assert ([each.metadata.name for each in everything[0]], everything[1]) == (["s", "part"], [check])


async def test_missing_or_unserved_akvsync_is_reported() -> None:
    with pytest.raises(BadInput, match="no AKVSync y in namespace shop"):
        await doctor.find_named(FakeClient([], {"akvsyncs"}), "AKVSync", "y", "shop")
    (check,) = (await doctor.find_named(FakeClient([], set()), "AKVSync", "x", "shop"))[1]
    assert check.text == "the cluster does not serve AKVSync"
    assert len((await doctor.find_named(FakeClient([], set()), "", "", ""))[0]) == 2


@pytest.mark.parametrize(
    "argument", ["secretsync", "secretsync/", "pod/x", "/x", "secretsync/a/b", "secretsync/A", "akvsync/x?y"]
)
def test_invalid_argument_ends_with_exit_code_two(argument: str) -> None:
    with pytest.raises(SystemExit) as ended:
        doctor.main([argument])
    assert ended.value.code == 2


def test_unreachable_cluster_ends_with_exit_code_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--kubeconfig", "/nowhere"]) == 2
    assert "/nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("- a", "is not a kubeconfig"),
        ("a: b", "is not a kubeconfig"),
        ("clusters: []\ncontexts: []\n---\na: b", "is not a kubeconfig"),
        ("[" * 3000, "nested too deeply"),
        ("clusters: [", "line 1"),
    ],
)
def test_invalid_kubeconfig_is_reported_in_one_line(
    text: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    assert doctor.main(["--kubeconfig", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tools/doctor: {path}")
    assert why in line


def make_lease(seconds_ago: float, holder: str = "pod-1_ab", duration: int = 15) -> Lease:
    text = (NOW - timedelta(seconds=seconds_ago)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    acquired = "2029-12-31T00:00:00.000000Z"
    return Lease(
        spec=LeaseSpec(holder_identity=holder, acquire_time=acquired, renew_time=text, lease_duration_seconds=duration)
    )


@pytest.mark.parametrize(
    ("lease", "level", "text"),
    [
        (make_lease(2), "ok", "pod-1_ab leads since 2029-12-31T00:00:00.000000Z"),
        (make_lease(-100), "ok", "pod-1_ab leads since"),
        (make_lease(60), "ok", "pod-1_ab leads since"),
        (make_lease(120, duration=120), "ok", "pod-1_ab leads since"),
        (make_lease(121, duration=120), "warn", "has not renewed it for 121 s"),
        (make_lease(61), "warn", "pod-1_ab holds the Lease and has not renewed it for 61 s"),
        (make_lease(2, holder=""), "fail", "no replica leads: the controller's Lease has no holder"),
        (Lease(spec=LeaseSpec(holder_identity="x")), "fail", "x holds the Lease and has never renewed it"),
        (Lease(spec=LeaseSpec(holder_identity="x", renew_time="soon")), "fail", "has never renewed it"),
        (Lease(spec=LeaseSpec(holder_identity="x", renew_time="2030-01-01T12:00:00")), "fail", "has never renewed it"),
        (None, "fail", "no replica leads: the controller's Lease is missing and was not created"),
    ],
)
def test_leader_check_depends_on_the_lease(lease: Lease | None, level: str, text: str) -> None:
    found = checks.leader(lease, NOW)
    assert found.level == level
    assert text in found.text
    assert bool(found.fix) == (level != "ok")


@pytest.mark.parametrize(
    ("own_namespaces", "other_namespaces", "available", "level", "text"),
    [
        ((), (), 1, CheckLevel.FAIL, "serves all namespaces, too"),
        ((), ("shop",), 1, CheckLevel.FAIL, "serves the namespaces shop, too"),
        (
            ("shop", "web"),
            (),
            0,
            CheckLevel.WARN,
            "is configured to serve the namespaces shop, web, too, and is not ready",
        ),
        (("shop", "web"), ("web", "x"), 1, CheckLevel.FAIL, "serves the namespaces web, too"),
        (("shop",), ("web",), 1, None, ""),
    ],
)
def test_overlap_with_another_release_is_reported(
    own_namespaces: tuple[str, ...],
    other_namespaces: tuple[str, ...],
    available: int,
    level: CheckLevel | None,
    text: str,
) -> None:
    found = checks.overlap(make_release(available), own_namespaces, other_namespaces)
    assert [check.level for check in found] == ([level] if level else [])
    assert all(text in check.text and "set watchNamespaces" in check.fix for check in found)
