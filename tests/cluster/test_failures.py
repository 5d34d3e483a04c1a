"""Test failures: the Secret remains, the status has the cause and the next step, calls are limited, nothing leaks.

The tests here and in test_sync.py produce every reason that a status can have.
"""

import base64
import contextlib
import json
import operator
import re
import time
from functools import partial

import pytest

from controller.api.conditions import Reason
from controller.runtime import budgets
from tests.support.cluster.audit import count_refused_dry_runs
from tests.support.cluster.harness import SINCE_POLICIES, InstalledRelease, canary_value, eventually
from tests.support.cluster.namespace import Namespace, admission_policy
from tests.support.messages import NOT_IN_KEY_VAULT
from tools.pods.pod_process import PodProcess

ONE_KEY = {"k": "a"}
WRITTEN = Reason.WRITTEN


def create_synced(space: Namespace) -> None:
    """Create a SecretSync `s` with one key, and wait until it is synced."""
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", ONE_KEY))
    space.wait_secret("s", {"k": "1"})
    space.wait_reason("s", WRITTEN)  # before that, a failed attempt would report that there is no Secret


@pytest.mark.parametrize(
    ("fault", "repair", "words"),
    [
        ("disable_secret", "enable_secret", ["secret a is disabled", "enable it"]),
        ("delete_secret", "recover_secret", [f"secret a {NOT_IN_KEY_VAULT}", "create or recover"]),
        ("revoke_role", "assign_role", ["may not read secret a", "Key Vault Secrets User"]),
        ("firewall", "firewall", ["firewall refuses", "networking"]),
        ("cut_off", "restore", ["cannot be reached"]),
        ("throttle", "clear_faults", ["throttled", "jitterSeconds"]),
        ("fail", "clear_faults", ["HTTP 503"]),
        (
            "unfederate",
            "federate",
            ["federated credential", "issuer https://127.0.0.1", "subject system:serviceaccount:"],
        ),
    ],
)
def test_secret_remains_while_the_vault_fails(space: Namespace, fault: str, repair: str, words: list[str]) -> None:
    emulator, subject = space.installed.emulator, f"system:serviceaccount:{space.name}:{space.account}"
    arguments: dict[str, tuple[object, ...]] = {
        "revoke_role": (space.client, space.vault),
        "assign_role": (space.client, space.vault),
        "cut_off": (),
        "restore": (),
        "clear_faults": (),
        "unfederate": (space.client, space.installed.plane.issuer, subject),
        "federate": (space.client, space.installed.plane.issuer, subject),
        "throttle": (space.vault, 0, 1),
        "fail": (503,),
    }
    if fault != "unfederate":  # an issued token stays valid, so that fault needs a new identity
        create_synced(space)
    else:
        space.set_secret("a", "1")
    arguments["firewall"] = (space.vault, True)
    getattr(emulator, fault)(*arguments.get(fault, (space.vault, "a")))
    if fault == "unfederate":
        space.apply(space.provider_class("a"), space.sync("s", ONE_KEY))
    else:
        space.force_sync("s")
    message = space.wait_reason("s", Reason.PROVIDER_ERROR)
    for word in words:
        assert word in message
    if fault != "unfederate":
        assert space.secret_values("s") == {"k": canary_value("1")}
        conditions = {item["type"]: item["status"] for item in space.get("secretsync", "s")["status"]["conditions"]}
        assert conditions == {"Ready": "False", "SecretCreated": "True", "SecretUpdated": "False"}
    arguments["firewall"] = (space.vault, False)
    getattr(emulator, repair)(*arguments.get(repair, (space.vault, "a")))
    # The controller keeps a failed read for some seconds. After that, an edit causes an attempt at once.
    space.set_secret("a", "2")
    eventually(partial(force_and_read, space), lambda found: found == {"k": canary_value("2")}, patience=40, every=0.5)


def force_and_read(space: Namespace) -> dict[str, str]:
    """Force a sync of the SecretSync `s`, and return the current values of its Secret."""
    space.force_sync("s")
    return space.secret_values("s")


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ("array: [", ["not YAML", "line 2"]),
        ("array:\n  - objectName: a\n", ["item 0 (line 2)", "`- |`"]),
        ("array: ['objectName: a', '{objectName: a, objectType: cert}']", ["item 1", "named twice"]),
        ("array: ['{objectName: a, objectType: sekret}']", ["item 0", "'sekret'"]),
        ("[" * 100_000, ["levels"]),
    ],
)
def test_invalid_objects_are_named_and_cost_no_vault_call(space: Namespace, objects: str, words: list[str]) -> None:
    space.apply(space.provider_class(objects=objects), space.sync("s", ONE_KEY))
    # The message reports a missing class until the controller receives the class.
    eventually(lambda: space.ready_condition("s")[1], lambda message: all(word in message for word in words))
    assert space.ready_condition("s")[0] == Reason.SPC_ERROR
    assert space.count_calls() == 0
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"))
    space.wait_secret("s", {"k": "1"})


def test_faulty_item_affects_no_other_object_and_unknown_field_warns(space: Namespace) -> None:
    twice = "{objectName: c, kind: x}"
    items = ["objectName: a", "{objectName: b, objectType: sekret}", twice, "null", twice]
    space.set_secret("a", "1")
    space.set_secret("c", "2")
    listed = "".join(f"  - {json.dumps(item)}\n" for item in items)
    syncs = (space.sync(name, {"k": name}) for name in ("a", "b", "c"))
    space.apply(space.provider_class(objects=f"array:\n{listed}  - null\n", cloudName="EMULATOR"), *syncs)
    space.wait_secret("a", {"k": "1"})
    space.wait_secret("c", {"k": "2"})
    assert "item 1 (line 3): objectType is 'sekret'" in space.wait_reason("b", Reason.SPC_ERROR)

    def list_warned() -> list[str]:
        events = space.list_objects("events")
        return [item["involvedObject"]["name"] for item in events if "unknown field 'kind'" in item["message"]]

    eventually(list_warned, lambda found: found == ["c"])


def test_missing_class_is_reported_until_it_is_created(space: Namespace) -> None:
    space.set_secret("a", "1")
    space.apply(space.sync("s", ONE_KEY))
    assert "no SecretProviderClass shop" in space.wait_reason("s", Reason.SPC_ERROR)
    space.apply(space.provider_class("a"))
    space.wait_secret("s", {"k": "1"})
    space.kubectl("delete", "secretproviderclass", "shop")
    space.wait_reason("s", Reason.SPC_ERROR)
    assert space.secret_values("s") == {"k": canary_value("1")}


def test_undefined_cloud_is_reported(space: Namespace) -> None:
    space.apply(space.provider_class("a", cloudName="https://evil.example"), space.sync("s", ONE_KEY))
    message = space.wait_reason("s", Reason.SPC_ERROR)
    assert "AzurePublicCloud" in message
    assert "emulator" in message


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        ({"k": "b"}, "Opaque", ["sourcePath b", "it has: a"]),
        ({"k": "a/0"}, "Opaque", ["sourcePath a/0", "write only a"]),
        ({"k/0": "a"}, "Opaque", ["targetKey k/0"]),
        ({"k": "a"}, "kubernetes.io/tls", ["needs the key tls.crt"]),
        ({"tls.crt": "a"}, "kubernetes.io/tls", ["needs the key tls.key"]),
        ({"k": "a"}, "kubernetes.io/ssh-auth", ["needs the key ssh-privatekey"]),
        ({"k": "a"}, "kubernetes.io/basic-auth", ["needs the key username or password"]),
        ({"k": "a"}, "kubernetes.io/dockercfg", ["needs the key .dockercfg"]),
        ({"k": "a"}, "kubernetes.io/dockerconfigjson", ["needs the key .dockerconfigjson"]),
        ({".dockerconfigjson": "a"}, "kubernetes.io/dockerconfigjson", ["not a JSON object", "docker-registry"]),
    ],
)
def test_invalid_secretsync_is_reported(space: Namespace, data: dict[str, str], kind: str, words: list[str]) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"), space.sync("s", data, secretObject={"type": kind}))
    message = space.wait_reason("s", Reason.INPUT_INVALID)
    for word in words:
        assert word in message
    assert space.secret_values("s") == {}


def test_duplicate_keys_are_refused_by_the_api_server(space: Namespace) -> None:
    manifest = space.sync("s", ONE_KEY)
    manifest["spec"]["secretObject"]["data"] *= 2
    with pytest.raises(Exception, match=r"Duplicate value.*targetKey"):
        space.apply(manifest)


def test_values_larger_than_a_secret_are_reported(space: Namespace) -> None:
    names = [f"big-{number}" for number in range(50)]
    for name in names:
        space.set_secret(name, "x" * 25_000)  # Key Vault accepts at most 25 KB for each value
    space.apply(space.provider_class(*names), space.sync("s", {name: name for name in names}))
    message = space.wait_reason("s", Reason.INPUT_INVALID)
    assert "at most 1048576" in message
    assert "split the SecretSync" in message


def test_failing_key_does_not_stop_the_other_keys(space: Namespace) -> None:
    space.set_secret("a", "1")
    space.set_secret("b", "1")
    space.apply(space.provider_class("a", "b"), space.sync("s", {"a": "a", "b": "b"}))
    space.wait_secret("s", {"a": "1", "b": "1"})
    space.installed.emulator.disable_secret(space.vault, "a")
    space.set_secret("b", "2")
    space.force_sync("s")
    items = json.loads(space.wait_reason("s", Reason.PARTIAL))
    assert [(item["targetKey"], item["status"]) for item in items] == [("a", "failed"), ("b", "synced")]
    assert "disabled" in items[0]["message"]
    assert space.secret_values("s") == {"a": canary_value("1"), "b": canary_value("2")}


def test_foreign_secret_is_never_changed(space: Namespace) -> None:
    space.set_secret("a", "1")
    theirs = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"x": "eA=="}}
    space.apply(theirs, space.provider_class("a"))
    before = space.get("secret", "s")
    space.apply(space.sync("s", ONE_KEY))
    message = space.wait_reason("s", Reason.LABEL_ERROR)
    assert "was not touched" in message
    assert space.get("secret", "s") == before
    # Only the first attempt may fetch the value, because it may not know the owner of the Secret yet.
    assert space.count_calls("secrets.get") <= 1
    space.kubectl("delete", "secret", "s")
    space.wait_secret("s", {"k": "1"}, patience=40)


def test_secret_without_its_owner_is_foreign(space: Namespace) -> None:
    create_synced(space)
    space.kubectl("patch", "secret", "s", "--type=merge", "--patch", '{"metadata":{"ownerReferences":null}}')
    space.force_sync("s")
    space.wait_reason("s", Reason.LABEL_ERROR)
    assert space.secret_values("s") == {"k": canary_value("1")}


def test_immutable_secret_is_reported(space: Namespace) -> None:
    create_synced(space)
    space.kubectl("patch", "secret", "s", "--type=merge", "--patch", '{"immutable":true}')
    space.set_secret("a", "2")
    space.force_sync("s")
    assert "marked immutable: delete it" in space.wait_reason("s", Reason.SYNC_FAILED)
    assert space.secret_values("s") == {"k": canary_value("1")}


OTHER_TYPES = [
    "example.com/other",
    "kubernetes.io/TLS",
    "kubernetes.io/tls ",
    " Opaque",
    "OPAQUE",
    "kubernetes.io/service-account-token",
    "bootstrap.kubernetes.io/token",
    "helm.sh/release.v1",
    "kubernetes.io/",
    "a\nb",
    "'quoted'",
    "\U0001f511",
    "x" * 253,
]


@pytest.mark.since(*SINCE_POLICIES)
def test_secret_type_forbidden_by_the_policies_is_reported(space: Namespace) -> None:
    space.set_secret("a", "1")
    names = {f"s-{number}": given for number, given in enumerate(OTHER_TYPES)}
    syncs = [space.sync(name, ONE_KEY, secretObject={"type": given}) for name, given in names.items()]
    space.apply(space.provider_class("a"), *syncs)
    for name, given in names.items():
        message = space.wait_reason(name, Reason.INPUT_INVALID)
        assert "accepted are Opaque, " in message
        assert f"secretObject.type is {given!r}"[:40] in message
        assert "allowedSecretTypes" in message or given.startswith(("kubernetes.io/serv", "bootstrap", "helm.sh"))
        found = {item["type"]: item["status"] for item in space.get("secretsync", name)["status"]["conditions"]}
        assert found == {"Ready": "False", "SecretCreated": "False", "SecretUpdated": "Unknown", "Stalled": "True"}
    assert space.count_calls() == 0


REFUSED_BY_KUBERNETES: dict[str, tuple[dict[str, object], str]] = {
    "label-key": ({"labels": {"a b": "x"}}, "secretObject.labels: the key 'a b'"),
    "label-value": ({"labels": {"x": "no value "}}, "secretObject.labels: the value 'no value '"),
    "annotation-key": ({"annotations": {"a/b/c": "x"}}, "secretObject.annotations: the key 'a/b/c'"),
    "annotations-size": ({"annotations": {"a": "x" * 70_000, "b": "y" * 61_000}}, "at most 131072"),
    "data-key": ({"data": [{"sourcePath": "a", "targetKey": "..k"}]}, "targetKey ..k: "),
}


def test_invalid_secret_costs_no_vault_read_and_waits_for_an_edit(space: Namespace) -> None:
    space.set_secret("a", "1")
    space.apply(space.provider_class("a"))
    for name, (given, _) in REFUSED_BY_KUBERNETES.items():
        # `kubectl apply` would copy the annotations into its own annotation.
        space.kubectl("create", "--filename", "-", stdin=json.dumps(space.sync(name, ONE_KEY, secretObject=given)))
    for name, (_, message) in REFUSED_BY_KUBERNETES.items():
        assert message in space.wait_reason(name, Reason.INPUT_INVALID)
    time.sleep(5)
    assert space.count_calls() == 0
    for name in REFUSED_BY_KUBERNETES:
        space.kubectl("replace", "--filename", "-", stdin=json.dumps(space.sync(name, ONE_KEY)))
        space.wait_secret(name, {"k": "1"})


@pytest.mark.since(*SINCE_POLICIES)
def test_refusal_by_a_policy_of_the_cluster_is_reported(space: Namespace) -> None:
    space.set_secret("a", "1")
    refusing = {"validations": [{"expression": "false", "message": "secrets are not for this namespace"}]}
    with admission_policy(space, "ValidatingAdmissionPolicy", refusing, validationActions=["Deny"]):
        space.apply(space.provider_class("a"), space.sync("s", ONE_KEY))
        message = space.wait_reason("s", Reason.POLICY_REFUSED)
        assert re.match(r"ValidatingAdmissionPolicy '\S+' refused the Secret \(HTTP 422, Invalid\); ", message)
        # A policy's message can quote values.
        assert "secrets are not for this namespace" not in message
    space.wait_secret("s", {"k": "1"}, patience=40)


@pytest.mark.since(*SINCE_POLICIES)
def test_write_refused_by_a_policy_reads_the_vault_once(
    installed: InstalledRelease, space: Namespace, neighbour: Namespace
) -> None:
    """The policy refuses to create one Secret and to change the Secret of the neighbour, which exists."""
    namespaces = {space: "1", neighbour: "2"}
    for place, text in namespaces.items():
        place.set_secret("a", text)
    # The controller's probe changes nothing and is allowed.
    expression = "request.operation == 'UPDATE' && object.data == oldObject.data"
    refusing = {"validations": [{"expression": expression, "message": "no"}]}
    with contextlib.ExitStack() as stack:
        for place in namespaces:
            stack.enter_context(
                admission_policy(place, "ValidatingAdmissionPolicy", refusing, validationActions=["Deny"])
            )
        before = {place: place.count_calls() for place in namespaces}

        def count_reads() -> list[int]:
            return [place.count_calls() - before[place] for place in namespaces]

        def count_dry_runs() -> list[int]:
            return [count_refused_dry_runs(place, installed.user) for place in namespaces]

        def wait_retries(since: list[int]) -> None:
            # After a refused write comes a dry run. Each of the next attempts is only a dry run.
            eventually(count_dry_runs, lambda counts: min(map(operator.sub, counts, since)) >= 3, patience=40)

        dry_runs = count_dry_runs()
        neighbour.force_sync("s")
        space.apply(space.provider_class("a"), space.sync("s", ONE_KEY))
        for place in namespaces:
            place.wait_reason("s", Reason.POLICY_REFUSED)
        wait_retries(dry_runs)
        assert count_reads() == [1, 1]
        # An edit causes an attempt at once.
        dry_runs = count_dry_runs()
        for place in namespaces:
            place.force_sync("s")
        eventually(count_reads, lambda counts: counts == [2, 2])
        wait_retries(dry_runs)
        assert count_reads() == [2, 2]
    for place, text in namespaces.items():
        place.wait_secret("s", {"k": text}, patience=40)
    assert count_reads() == [3, 3]


def test_failing_secretsync_backs_off(space: Namespace, controller: PodProcess) -> None:
    create_synced(space)
    space.installed.emulator.fail(status=500, where=space.vault)
    before, began = space.count_calls(), time.monotonic()
    space.force_sync("s")
    space.wait_reason("s", Reason.PROVIDER_ERROR)
    time.sleep(max(0.0, began + 10 - time.monotonic()))
    # Half of each delay of 2, 4, 8 … s is random, and the circuit breaker of the vault stays open for 5 s.
    assert space.count_calls() - before <= 4
    # The first two calls precede the report. Another one follows.
    eventually(space.count_calls, lambda calls: calls >= before + 3, patience=40)


def test_thousand_failing_secretsyncs_cause_few_calls_and_log_lines(space: Namespace, controller: PodProcess) -> None:
    space.set_secret("a", "1")
    space.installed.emulator.revoke_role(space.client, space.vault)
    space.installed.emulator.firewall(space.vault, True)
    count, began = 1000, time.monotonic()
    space.apply(space.provider_class("a"), *(space.sync(f"s{number}", ONE_KEY) for number in range(count)))

    def count_failed() -> int:
        template = '{range .items[*]}{.status.conditions[0].reason}{"\\n"}{end}'
        return space.kubectl("get", "secretsyncs", "-o", f"jsonpath={template}").count(Reason.PROVIDER_ERROR)

    eventually(count_failed, lambda found: found == count, patience=90)
    assert space.count_calls() < 100
    minutes = 1 + (time.monotonic() - began) // 60
    lines = sum(f'"{space.name}/' in line for line in controller.log.read_text().splitlines())
    assert lines < budgets.LOG_LINES.limit * (1 + minutes)


def test_unexpected_error_affects_one_secretsync(installed: InstalledRelease, space: Namespace) -> None:
    """Run a second controller with a bug in decide_write(), because only a bug causes this reason."""
    space.set_secret("a", "1")
    broken = installed.workload(WATCH_NAMESPACES=space.name, CONTROLLER_NAME="broken", LEASE_NAME="")
    plant = installed.folder / "planted"
    plant.mkdir(exist_ok=True)
    (plant / "sitecustomize.py").write_text(
        "from controller.secretsync import syncer\n"
        "def decide_write(_): raise RuntimeError('with a value inside')\nsyncer.decide_write = decide_write\n"
    )
    broken.env["PYTHONPATH"] = f"{plant}:{broken.env['PYTHONPATH']}"
    with broken:
        broken.wait_ready()
        space.apply(space.provider_class("a"), space.sync("s", ONE_KEY, secretSyncControllerName="broken"))
        message = space.wait_reason("s", Reason.INTERNAL_ERROR)
        assert "RuntimeError" in message
        assert broken.stop() == 0
    assert "with a value inside" not in broken.log.read_text() + message


def test_values_that_are_not_text_arrive_byte_for_byte(space: Namespace) -> None:
    text = "line one\nline two\ttab \u00e4\u20ac\U0001f511 'quotes' \"double\" \\ {{ template }} %s \r\n"
    space.set_secret("a", text)
    space.apply(space.provider_class("a"), space.sync("s", ONE_KEY))
    space.wait_secret("s", {"k": text})
    data = space.get("secret", "s")["data"]
    assert base64.b64decode(data["k"]) == canary_value(text).encode()
