"""Test properties, certificate chains, basic-auth Secrets and encodings on a real API server, and count vault calls."""

import base64
import json
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tests.support.certificates import encode_pem_bundle, issue_certificate
from tests.support.cluster.audit import count_probes
from tests.support.cluster.harness import canary_value, eventually
from tests.support.cluster.namespace import Namespace
from tools.pods.pod_process import PodProcess

INTERVAL = 2
STORE = b"\xfe\xed\xfe\xed\x00store"


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    return {"ROTATION_POLL_INTERVAL": str(INTERVAL), "DRIFT_INTERVAL": "2"}


def set_document(space: Namespace, name: str, document: Any) -> None:
    """Create a new version of a vault secret. Encode an object as JSON."""
    text = document if isinstance(document, str) else json.dumps(document)
    space.installed.emulator.set_secret(space.vault, name, text)


def apply_akv_sync(space: Namespace, objects: str) -> None:
    space.apply(space.akv_sync(*msgspec.yaml.decode(objects), name="shop"))


def wait_secret_data(space: Namespace, name: str, wanted: dict[str, str | bytes]) -> None:
    """Wait until a Secret has exactly these values."""
    expected = {key: text.encode() if isinstance(text, str) else text for key, text in wanted.items()}

    def found() -> dict[str, bytes]:
        return {key: base64.b64decode(text) for key, text in space.get("secret", name).get("data", {}).items()}

    eventually(found, lambda data: data == expected)


def wait_message(space: Namespace, *words: str) -> str:
    """Wait until the AKVSync's conditions contain these words. Return their reasons and messages."""

    def message() -> str:
        conditions = space.get("akvsync", "shop").get("status", {}).get("conditions", [])
        return " ".join(f"{item['reason']} {item['message']}" for item in conditions)

    return eventually(message, lambda text: all(word in text for word in words))


def wait_until_no_gets(space: Namespace) -> int:
    """Wait until a poll makes no get call. Return the number of get calls until then."""
    before = -1
    for _ in range(6):
        if (now := space.count_calls("secrets.get")) == before:
            return now
        before = now
        time.sleep(INTERVAL + 3)
    pytest.fail(f"each of six polls made get calls, {before} until now")


def test_several_properties_of_one_secret_cost_one_get(space: Namespace) -> None:
    set_document(
        space,
        "config",
        {"db": {"user": canary_value("me"), "port": 5432, "big": 1e300}, "a.b": [canary_value("x"), True]},
    )
    paths = {"user": "db.user", "port": "db.port", "dots": r"a\.b.0", "list": r"a\.b"}
    items = "".join(
        f"  - |\n    objectName: config\n    objectAlias: {key}\n    objectProperty: {path}\n"
        for key, path in paths.items()
    )
    space.apply(space.provider_class(objects=f"array:\n{items}"), space.sync("app", {key: key for key in paths}))
    listed = json.dumps([canary_value("x"), True], separators=(",", ":"))
    wait_secret_data(
        space, "app", {"user": canary_value("me"), "port": "5432", "dots": canary_value("x"), "list": listed}
    )
    # The controller makes a second get if it polled within a second of the change.
    assert space.count_calls("secrets.get") <= 2


def test_missing_property_fails_only_its_key_and_lists_the_existing_ones(space: Namespace) -> None:
    set_document(space, "config", {"user": canary_value("me"), "port": 1})
    apply_akv_sync(
        space,
        "[{kubernetesSecretName: app, mapping: [{dataKey: user, secretInAKV: config, property: user},"
        " {dataKey: pass, secretInAKV: config, property: password}]}]",
    )
    wait_secret_data(space, "app", {"user": canary_value("me")})
    message = wait_message(space, "PartialSync", "no property 'password'; the value has: user, port")
    assert canary_value("me") not in message
    set_document(space, "config", {"user": canary_value("me"), "password": canary_value("pw")})
    wait_secret_data(space, "app", {"user": canary_value("me"), "pass": canary_value("pw")})


def test_missing_property_costs_no_get_until_the_value_changes(space: Namespace) -> None:
    set_document(space, "config", {"user": canary_value("me")})
    apply_akv_sync(
        space,
        "[{kubernetesSecretName: app, mapping: [{dataKey: user, secretInAKV: config, property: user},"
        " {dataKey: pass, secretInAKV: config, property: password}]},"
        " {kubernetesSecretName: alone, mapping: [{dataKey: pass, secretInAKV: config, property: password}]}]",
    )
    wait_secret_data(space, "app", {"user": canary_value("me")})
    wait_message(space, "no property 'password'; the value has: user")
    lists = space.count_calls("secrets.list")
    eventually(lambda: space.count_calls("secrets.list"), lambda found: found >= lists + 3)
    # The controller makes one get for each Secret, and a second one if it polled within a second of the change.
    assert space.count_calls("secrets.get") <= 4
    set_document(space, "config", {"user": canary_value("me"), "password": canary_value("pw")})
    wait_secret_data(space, "app", {"user": canary_value("me"), "pass": canary_value("pw")})
    wait_secret_data(space, "alone", {"pass": canary_value("pw")})


def test_encoded_keystores_and_yaml_properties_are_decoded(space: Namespace) -> None:
    set_document(space, "store", base64.b64encode(STORE).decode())
    set_document(space, "hexed", STORE.hex())
    set_document(
        space, "config", f"store: {base64.b64encode(STORE).decode()}\nratio: 1.10\nnames: [{canary_value('a')}]\n"
    )
    apply_akv_sync(
        space,
        "[{kubernetesSecretName: app, mapping: [{dataKey: app.jks, secretInAKV: store, encoding: base64},"
        " {dataKey: app.bin, secretInAKV: hexed, encoding: hex},"
        " {dataKey: inner.jks, secretInAKV: config, property: store, encoding: base64},"
        " {dataKey: ratio, secretInAKV: config, property: ratio},"
        " {dataKey: name, secretInAKV: config, property: 'names[0]'}]}]",
    )
    wanted: dict[str, str | bytes] = {
        "app.jks": STORE,
        "app.bin": STORE,
        "inner.jks": STORE,
        "ratio": "1.10",
        "name": canary_value("a"),
    }
    wait_secret_data(space, "app", wanted)


def test_expanded_object_follows_the_value_and_a_restart_makes_no_call(
    space: Namespace, controller: PodProcess
) -> None:
    set_document(space, "config", {"host": canary_value("db"), "port": 5432})
    apply_akv_sync(space, "[{secretInAKV: config, expand: true}]")
    wait_secret_data(space, "config", {"host": canary_value("db"), "port": "5432"})
    set_document(space, "config", {"host": canary_value("db"), "tls": True})
    wait_secret_data(space, "config", {"host": canary_value("db"), "tls": "true"})
    wait_message(space, "UpdateNoValueChangeSucceeded")

    set_document(
        space, "config", {"host": canary_value("db"), "not a key": canary_value("x"), "last": canary_value("y")}
    )
    wait_secret_data(space, "config", {"host": canary_value("db"), "last": canary_value("y")})
    assert canary_value("x") not in wait_message(space, "PartialSync", "not a key")

    set_document(space, "config", {"host": canary_value("db")})
    wait_secret_data(space, "config", {"host": canary_value("db")})
    wait_message(space, "UpdateNoValueChangeSucceeded")
    before = wait_until_no_gets(space)
    # Another manager's write may have changed any value, so the controller reads the object once, and removes the key.
    space.kubectl("patch", "secret", "config", "--patch", '{"data": {"port": "MQ=="}}')
    wait_secret_data(space, "config", {"host": canary_value("db")})
    assert wait_until_no_gets(space) == before + 1

    assert controller.stop() == 0
    interval = controller.env.pop("ROTATION_POLL_INTERVAL")
    calls, seen = space.count_calls(), count_probes(space)
    controller.start()
    controller.wait_ready()
    eventually(lambda: count_probes(space), lambda found: found >= seen + 2)
    assert space.count_calls() == calls
    assert controller.stop() == 0
    controller.env["ROTATION_POLL_INTERVAL"] = interval
    controller.start()
    controller.wait_ready()


def test_properties_keep_their_values_while_the_secret_is_not_an_object(space: Namespace) -> None:
    set_document(space, "config", {"host": canary_value("db")})
    apply_akv_sync(space, "[{secretInAKV: config, expand: true}]")
    wait_secret_data(space, "config", {"host": canary_value("db")})
    set_document(space, "config", canary_value("no object"))
    message = wait_message(space, "ProviderError", "has no properties: it is a text")
    assert canary_value("no object") not in message
    wait_secret_data(space, "config", {"host": canary_value("db")})


def test_certificate_secret_with_include_ca_has_the_chain(space: Namespace) -> None:
    now = datetime.now(UTC)
    root = issue_certificate("root", ca=True, start=now)
    leaf = issue_certificate("web", root, start=now)
    space.installed.emulator.import_certificate(space.vault, "web", encode_pem_bundle(leaf, root))
    apply_akv_sync(space, "[{certInAKV: web, kubernetesSecretType: kubernetes.io/tls, includeCA: true}]")
    eventually(lambda: space.get("secret", "web").get("data", {}).keys(), lambda keys: "ca.crt" in keys)
    data = {key: base64.b64decode(text).decode() for key, text in space.get("secret", "web")["data"].items()}
    assert data.keys() == {"tls.crt", "tls.key", "ca.crt"}
    assert (data["tls.crt"], data["ca.crt"]) == (leaf.pem + root.pem, root.pem)

    space.installed.emulator.import_certificate(
        space.vault, "lone", encode_pem_bundle(issue_certificate("lone", start=now))
    )
    apply_akv_sync(space, "[{certInAKV: lone, kubernetesSecretType: kubernetes.io/tls, includeCA: true}]")
    wait_message(space, "PartialSync", "ca.crt: ", "self-signed")
    assert eventually(lambda: space.get("secret", "lone").get("data", {}), bool).keys() == {"tls.crt", "tls.key"}


@pytest.mark.parametrize("login", ["me:p:w", '{"username": "me", "password": "p:w"}'])
def test_basic_auth_secret_comes_from_one_vault_secret(space: Namespace, login: str) -> None:
    set_document(space, "login", login.replace("p:w", canary_value("p:w")))
    apply_akv_sync(space, "[{secretInAKV: login, kubernetesSecretType: kubernetes.io/basic-auth}]")
    wait_secret_data(space, "login", {"username": "me", "password": canary_value("p:w")})
    assert space.get("secret", "login")["type"] == "kubernetes.io/basic-auth"
    assert space.count_calls("secrets.get") <= 2
