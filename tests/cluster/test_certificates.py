"""Test certificates and keys on a real API server, from the vault into Secrets that a server can load."""

import base64
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from controller.api.conditions import Reason
from controller.secretsync.status_reporter import ATTENTION
from tests.support.certificates import (
    IssuedCertificate,
    encode_pem_bundle,
    encode_pfx,
    encode_private_key,
    generate_key,
    issue_certificate,
)
from tests.support.cluster.harness import eventually
from tests.support.cluster.namespace import Namespace
from tests.support.messages import NEITHER_PEM_NOR_PFX, NOT_IN_KEY_VAULT

TODAY = datetime.now(UTC)
ROOT = issue_certificate("root", ca=True, start=TODAY)
ISSUING = issue_certificate("issuing", ROOT, ca=True, start=TODAY)
WEB = {kind: issue_certificate("web", ISSUING, key=generate_key(kind), start=TODAY) for kind in ("EC", "RSA")}
TLS = "kubernetes.io/tls"
PAIR = {"tls.crt": "web", "tls.key": "web"}
SYNCED = (Reason.WRITTEN, Reason.UP_TO_DATE)


def format_objects(*items: str) -> str:
    """Return the parameter `objects` with these items, each written as `web cert objectAlias=public`."""
    text = "array:\n"
    for item in items:
        name, kind, *rest = item.split()
        text += f"  - |\n    objectName: {name}\n    objectType: {kind}\n"
        text += "".join("    {}: {}\n".format(*field.split("=")) for field in rest)
    return text


def import_certificate(space: Namespace, data: bytes, name: str = "web", password: str | None = None) -> str:
    """Import a certificate, and give the identity the right to read certificates and keys."""
    space.installed.emulator.assign_role(space.client, space.vault, "Key Vault Reader")
    return space.installed.emulator.import_certificate(space.vault, name, data, password=password)


def make_pfx(leaf: IssuedCertificate, *others: IssuedCertificate, password: str = "", key_id: bool = True) -> bytes:
    return base64.b64decode(encode_pfx(leaf.key, [leaf, *others], password, key_id=key_id))


def public_pem(leaf: IssuedCertificate) -> str:
    return leaf.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def wait_values(space: Namespace, name: str, **wanted: str) -> None:
    """Wait until the Secret has exactly these values. An underscore in the name of a key means a dot."""
    expected = {key.replace("_", "."): text for key, text in wanted.items()}
    eventually(lambda: space.secret_values(name), lambda found: found == expected)


def list_warnings(space: Namespace, name: str) -> list[str]:
    """Return the messages of the warning events about a synced SecretSync."""
    return [
        item["message"] for item in space.list_events(name) if (item["reason"], item["type"]) == (ATTENTION, "Warning")
    ]


def wait_for_events_of_sync(space: Namespace, name: str) -> None:
    """Wait until all events of the first sync exist. The controller sends the event about the status last."""
    eventually(lambda: [item["type"] for item in space.list_events(name)], lambda found: "Normal" in found)


@pytest.mark.parametrize("kind", ["EC", "RSA"])
@pytest.mark.parametrize("form", ["pem", "pfx", "pfx with password", "pfx without key id", "out of order"])
def test_server_can_load_the_tls_secret(space: Namespace, kind: str, form: str, tmp_path: Path) -> None:
    leaf = WEB[kind]
    password = "swordfish" if "password" in form else None
    data = {
        "pem": encode_pem_bundle(leaf, ISSUING),
        "pfx": make_pfx(leaf, ISSUING),
        "pfx with password": make_pfx(leaf, ISSUING, password="swordfish"),
        "pfx without key id": make_pfx(leaf, ISSUING, key_id=False),
        "out of order": (ISSUING.pem + leaf.pem + leaf.key_pem).encode(),
    }[form]
    import_certificate(space, data, password=password)
    space.apply(
        space.provider_class(objects=format_objects("web secret")), space.sync("tls", PAIR, secretObject={"type": TLS})
    )
    chain, key = leaf.pem + ISSUING.pem, encode_private_key(leaf.key, PrivateFormat.TraditionalOpenSSL)
    wait_values(space, "tls", tls_crt=chain, tls_key=key)
    assert space.get("secret", "tls")["type"] == TLS
    for name, text in space.secret_values("tls").items():
        (tmp_path / name).write_text(text)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    wait_for_events_of_sync(space, "tls")
    assert list_warnings(space, "tls") == []


def test_every_form_of_source_path_is_synced(space: Namespace) -> None:
    leaf = WEB["EC"]
    import_certificate(space, make_pfx(leaf, ROOT, ISSUING))
    data = make_pfx(leaf, ROOT, ISSUING)
    import_certificate(space, data, "raw")
    paths = {
        "whole": "web",
        "sse.crt": "web/tls.crt",
        "sse.key": "web/tls.key",
        "csi.crt": "web.crt",
        "csi.key": "web.key",
        "cert": "public",
        "key": "public-key",
        "pfx": "raw",
        "pfx.crt": "raw/tls.crt",
    }
    given = format_objects(
        "web secret",
        "web cert objectAlias=public",
        "web key objectAlias=public-key",
        "raw secret objectFormat=PFX",
    )
    space.apply(space.provider_class(objects=given), space.sync("web", paths))
    space.wait_reason("web", *SYNCED)
    chain = leaf.pem + ISSUING.pem + ROOT.pem
    found = space.secret_values("web")
    assert found == {
        "whole": leaf.key_pem + chain,
        "sse.crt": chain,
        "sse.key": leaf.key_pem,
        "csi.crt": chain,
        "csi.key": leaf.key_pem,
        "cert": leaf.pem,
        "key": public_pem(leaf),
        "pfx": base64.b64encode(data).decode(),
        "pfx.crt": chain,
    }
    status = {item["targetKey"]: item["object"] for item in space.get("secretsync", "web")["status"]["objects"]}
    assert (status["whole"], status["sse.crt"], status["cert"], status["key"]) == (
        "secret/web",
        "secret/web",
        "cert/web",
        "key/web",
    )
    # The controller reads each object once, regardless of the number of keys that use it.
    assert space.count_calls("secrets.get") == 2


@pytest.mark.parametrize("object_type", ["secret", "cert", "key"])
def test_enabled_versions_are_synced_newest_first(space: Namespace, object_type: str) -> None:
    emulator = space.installed.emulator
    leaves = [issue_certificate(f"web-{number}", ISSUING, start=TODAY) for number in range(4)]
    ids = [import_certificate(space, encode_pem_bundle(leaf, ISSUING)) for leaf in leaves]
    for number, version in enumerate(ids):  # Key Vault's times have a resolution of one second
        emulator.set_attributes(space.vault, "web", version, kind="certificates", created=1_000 + number)
    emulator.set_attributes(space.vault, "web", ids[2], kind="certificates", enabled=False)
    newest, middle, oldest = leaves[3], leaves[1], leaves[0]
    given = format_objects(f"web {object_type} objectVersionHistory=2")
    paths = {"a": "web/0", "b": "web/1", "c": "web/2"}
    space.apply(space.provider_class(objects=given), space.sync("web", paths))

    def wanted(leaf: IssuedCertificate) -> str:
        return {"secret": encode_pem_bundle(leaf, ISSUING).decode(), "cert": leaf.pem, "key": public_pem(leaf)}[
            object_type
        ]

    wait_values(space, "web", a=wanted(newest), b=wanted(middle), c=wanted(oldest))
    # The status is written after the Secret.
    status = eventually(lambda: space.get("secretsync", "web")["status"].get("objects", []), bool)
    assert [(item["object"], item["version"]) for item in status] == [
        (f"{object_type}/web/{index}", ids[number]) for index, number in enumerate((3, 1, 0))
    ]


def test_parts_of_earlier_versions_are_synced(space: Namespace) -> None:
    leaves = [issue_certificate(f"web-{number}", ISSUING, start=TODAY) for number in range(2)]
    for number, leaf in enumerate(leaves):
        version = import_certificate(space, make_pfx(leaf, ISSUING))
        space.installed.emulator.set_attributes(
            space.vault, "web", version, kind="certificates", created=1_000 + number
        )
    old, new = leaves
    paths = {"a": "web/0/tls.crt", "b": "web/0/tls.key", "c": "web/1.crt", "d": "web/1.key"}
    pair = {"tls.crt": "web/1", "tls.key": "web/1/tls.key"}
    space.apply(
        space.provider_class(objects=format_objects("web secret objectVersionHistory=2")),
        space.sync("parts", paths),
        space.sync("before", pair, secretObject={"type": TLS}),
    )
    wait_values(space, "parts", a=new.pem + ISSUING.pem, b=new.key_pem, c=old.pem + ISSUING.pem, d=old.key_pem)
    wait_values(
        space,
        "before",
        tls_crt=old.pem + ISSUING.pem,
        tls_key=encode_private_key(old.key, PrivateFormat.TraditionalOpenSSL),
    )


@pytest.mark.parametrize("object_type", ["secret", "cert", "key"])
def test_history_of_five_hundred_versions_costs_twenty_list_calls(space: Namespace, object_type: str) -> None:
    data = encode_pem_bundle(WEB["EC"], ISSUING)
    ids = [import_certificate(space, data) for _ in range(500)]
    for number in (0, 499):
        space.installed.emulator.set_attributes(
            space.vault, "web", ids[number], kind="certificates", created=TODAY.timestamp() + number * 10 - 1_000
        )
    given = format_objects(f"web {object_type} objectVersionHistory=500")
    space.apply(space.provider_class(objects=given), space.sync("web", {"new": "web/0", "old": "web/499"}))
    space.wait_reason("web", *SYNCED)
    status = space.get("secretsync", "web")["status"]["objects"]
    assert [item["version"] for item in status] == [ids[499], ids[0]]
    plural = {"secret": "secrets", "cert": "certificates", "key": "keys"}[object_type]
    assert space.count_calls(f"{plural}.versions") == 20


def test_renewed_certificate_is_synced_together_with_its_key(space: Namespace) -> None:
    import_certificate(space, encode_pem_bundle(WEB["RSA"], ISSUING))
    space.apply(
        space.provider_class(objects=format_objects("web secret")), space.sync("tls", PAIR, secretObject={"type": TLS})
    )
    space.wait_reason("tls", *SYNCED)
    leaf = issue_certificate("web", ISSUING, start=TODAY)
    import_certificate(space, make_pfx(leaf, ISSUING))
    space.force_sync("tls")
    wait_values(
        space,
        "tls",
        tls_crt=leaf.pem + ISSUING.pem,
        tls_key=encode_private_key(leaf.key, PrivateFormat.TraditionalOpenSSL),
    )


def test_expired_or_incomplete_value_is_synced_with_one_warning(space: Namespace) -> None:
    emulator = space.installed.emulator
    import_certificate(space, encode_pem_bundle(WEB["EC"]))
    space.set_secret("token", "1", expires=1_000)
    space.apply(
        space.provider_class(objects=format_objects("web secret", "token secret")),
        space.sync("tls", PAIR, secretObject={"type": TLS}),
        space.sync("token", {"k": "token"}),
    )
    (message,) = eventually(lambda: list_warnings(space, "tls"), len)
    assert f"secret web in Key Vault {space.vault} lacks the certificate of an issuer" in message
    (message,) = eventually(lambda: list_warnings(space, "token"), len)
    assert f"secret token in Key Vault {space.vault} expired at 1970-01-01T00:16:40Z" in message
    space.wait_secret("token", {"k": "1"})
    space.wait_reason("tls", *SYNCED)
    space.force_sync("tls")  # another sync sends no further warning
    space.wait_reason("tls", Reason.UP_TO_DATE)
    emulator.set_attributes(space.vault, "web", kind="certificates", not_before=4_000_000_000)
    space.force_sync("tls")
    eventually(lambda: list_warnings(space, "tls"), lambda found: len(found) == 2)
    assert any("is not valid before 2096-10-02T07:06:40Z" in text for text in list_warnings(space, "tls"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (encode_pfx(WEB["EC"].key, [WEB["EC"]], "swordfish"), ["PFX has a password", "import it as a certificate"]),
        (ISSUING.pem + WEB["EC"].key_pem, ["none of its certificates belongs to its private key"]),
        ("no certificate at all", [NEITHER_PEM_NOR_PFX]),
    ],
)
def test_unreadable_bundle_is_reported_with_the_cause(space: Namespace, value: str, words: list[str]) -> None:
    space.installed.emulator.set_secret(space.vault, "web", value)
    space.apply(
        space.provider_class(objects=format_objects("web secret")), space.sync("tls", PAIR, secretObject={"type": TLS})
    )
    message = space.wait_reason("tls", Reason.PROVIDER_ERROR)
    for word in [f"secret web in Key Vault {space.vault}", *words]:
        assert word in message
    assert space.secret_values("tls") == {}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("role", ["may not read {noun} in Key Vault", "assign it the role Key Vault Reader"]),
        ("missing", [f"{{noun}} {NOT_IN_KEY_VAULT}", "objectName"]),
        ("disabled", ["{noun} is disabled in Key Vault", "enable it"]),
        ("deleted", [f"{{noun}} {NOT_IN_KEY_VAULT}", "recover it"]),
    ],
)
@pytest.mark.parametrize(("object_type", "noun"), [("cert", "certificate web"), ("key", "key web")])
def test_message_names_the_kind_of_the_object(
    space: Namespace, fault: str, words: list[str], object_type: str, noun: str
) -> None:
    emulator = space.installed.emulator
    import_certificate(space, encode_pem_bundle(WEB["EC"], ISSUING), "other" if fault == "missing" else "web")
    if fault == "role":
        emulator.revoke_role(space.client, space.vault, "Key Vault Reader")
    elif fault == "disabled":
        emulator.set_attributes(space.vault, "web", kind="certificates", enabled=False)
    elif fault == "deleted":
        emulator.delete_secret(space.vault, "web", kind="certificates")
    space.apply(space.provider_class(objects=format_objects(f"web {object_type}")), space.sync("web", {"k": "web"}))
    message = space.wait_reason("web", Reason.PROVIDER_ERROR)
    for word in words:
        assert word.format(noun=noun) in message


def test_keys_without_a_certificate_are_synced(space: Namespace) -> None:
    emulator = space.installed.emulator
    emulator.assign_role(space.client, space.vault, "Key Vault Crypto User")
    for kind in ("RSA", "EC"):
        emulator.create_key(space.vault, f"sign-{kind}", kind)
    given = format_objects("sign-RSA key", "sign-EC key objectAlias=ec.pub")
    space.apply(space.provider_class(objects=given), space.sync("keys", {"rsa": "sign-RSA", "ec": "ec.pub"}))
    found = eventually(lambda: space.secret_values("keys"), len)
    kinds = {name: type(load_pem_public_key(text.encode())).__name__ for name, text in found.items()}
    assert kinds == {"rsa": "RSAPublicKey", "ec": "ECPublicKey"}


def test_hex_and_base64_values_are_decoded(space: Namespace) -> None:
    emulator = space.installed.emulator
    emulator.set_secret(space.vault, "hex", "00ff41")
    emulator.set_secret(space.vault, "base64", "AP9B")
    given = format_objects("hex secret objectEncoding=hex", "base64 secret objectEncoding=base64")
    space.apply(space.provider_class(objects=given), space.sync("bytes", {"a": "hex", "b": "base64"}))
    space.wait_reason("bytes", *SYNCED)
    data = space.get("secret", "bytes")["data"]
    assert {base64.b64decode(text) for text in data.values()} == {b"\x00\xffA"}
