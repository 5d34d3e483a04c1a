"""Test SecretProviderClasses and SecretSyncs in the forms that the CLI of Azure IoT Operations writes.

Source: Azure/azure-iot-ops-cli-extension, the commands `secretsync enable` and `connector opcua`. `format_objects`
follows the rules of the CLI: each item is YAML with sorted fields, the list is YAML with an indent of 6, and each item
is indented by four more spaces.
"""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from controller.api.conditions import Reason
from tests.support.cluster.harness import TENANT, eventually
from tests.support.cluster.namespace import Namespace

CLASS = "opc-ua-connector"
TRUST, ISSUER, CLIENT = (f"aio-opc-ua-broker-{each}" for each in ("trust-list", "issuer-list", "client-certificate"))


def format_objects(*names: str, twice: bool = False) -> str:
    """Return the parameter `objects` as the CLI writes it."""
    items = [yaml.safe_dump({"objectName": name, "objectType": "secret", "objectEncoding": "hex"}) for name in names]
    text = yaml.safe_dump({"array": items * (2 if twice else 1)}, indent=6)
    return text.replace("\n- |", "\n    - |")


def make_provider_class(space: Namespace, name: str, text: str = "") -> dict[str, Any]:
    found = space.provider_class("any", name=name)
    found["spec"]["parameters"] |= {"objects": text}
    if not text:
        del found["spec"]["parameters"]["objects"]
    return found


def make_secret_sync(space: Namespace, name: str, keys: Mapping[str, str], class_name: str = CLASS) -> dict[str, Any]:
    """Return a SecretSync. `keys` maps each secret in the vault to its target key, which is the name of a file."""
    return space.sync(name, {file: secret for secret, file in keys.items()}, secretProviderClassName=class_name)


class UploadedFiles:
    """The files that a user passes to the CLI: a certificate, its private key and a revocation list."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "plant")])
        made = x509.CertificateBuilder(name, name, self.key.public_key(), x509.random_serial_number(), now,
                                       now + timedelta(days=9))  # fmt: skip
        self.certificate = made.sign(self.key, hashes.SHA256())
        self.crl = x509.CertificateRevocationListBuilder(name, now, now + timedelta(days=9)).sign(
            self.key, hashes.SHA256()
        )

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def crt(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def crl_bytes(self) -> bytes:
        return self.crl.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


TYPES = {"der": "application/pkix-cert", "crl": "application/pkix-crl"}


def upload_file(space: Namespace, file: str, content: bytes) -> str:
    """Store a file as the CLI does, in hexadecimal with a content type. Return the secret's name."""
    name = file.replace(".", "-")
    kind = TYPES.get(file.rpartition(".")[2], "application/x-pem-file")
    space.installed.emulator.set_secret(space.vault, name, content.hex(), content_type=kind)
    return name


def wait_contents(space: Namespace, name: str, wanted: Mapping[str, bytes]) -> None:
    expected = {key: base64.b64encode(content).decode() for key, content in wanted.items()}
    eventually(lambda: space.get("secret", name).get("data"), lambda found: found == expected)


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize(
    ("sync", "contents"),
    [
        (TRUST, {"server.der": "der"}),
        (TRUST, {"server.der": "der", "other.crt": "crt"}),
        (ISSUER, {"ca.der": "der", "ca.crl": "crl_bytes"}),
        (ISSUER, {"ca.crt": "crt", "ca.crl": "crl_bytes"}),
        (CLIENT, {"client.der": "der", "client.pem": "pem"}),
    ],
)
def test_files_of_opc_ua_are_synced_byte_for_byte(
    sync: str, contents: Mapping[str, str], twice: bool, space: Namespace
) -> None:
    files = UploadedFiles()
    wanted = {file: getattr(files, which) for file, which in contents.items()}
    keys = {upload_file(space, file, content): file for file, content in wanted.items()}
    space.apply(
        make_provider_class(space, CLASS, format_objects(*keys, twice=twice)), make_secret_sync(space, sync, keys)
    )
    wait_contents(space, sync, wanted)
    space.wait_reason(sync, Reason.WRITTEN, Reason.UP_TO_DATE)


def test_file_is_added_and_removed(space: Namespace) -> None:
    """Apply the objects that the CLI writes for `add`, a second `add` and `remove`."""
    files = UploadedFiles()
    keys = {upload_file(space, "one.der", files.der): "one.der"}
    space.apply(make_provider_class(space, CLASS, format_objects(*keys)), make_secret_sync(space, TRUST, keys))
    wait_contents(space, TRUST, {"one.der": files.der})
    keys |= {upload_file(space, "two.crt", files.crt): "two.crt"}
    space.apply(make_provider_class(space, CLASS, format_objects(*keys)), make_secret_sync(space, TRUST, keys))
    wait_contents(space, TRUST, {"one.der": files.der, "two.crt": files.crt})
    del keys["one-der"]
    space.apply(make_secret_sync(space, TRUST, keys), make_provider_class(space, CLASS, format_objects(*keys)))
    wait_contents(space, TRUST, {"two.crt": files.crt})


def test_class_without_objects_is_reported_until_it_has_one(space: Namespace) -> None:
    """`secretsync enable` creates the class without objects. The first secret adds them."""
    name = "spc-ops-1a2b3c"
    space.set_secret("password", "1")
    space.apply(make_provider_class(space, name), make_secret_sync(space, "device", {"password": "pw"}, name))
    assert "objects" in space.wait_reason("device", Reason.SPC_ERROR)
    items = yaml.safe_dump({"array": [yaml.safe_dump({"objectName": "password", "objectType": "secret"})]}, indent=6)
    space.apply(make_provider_class(space, name, items.replace("\n- |", "\n    - |")))
    space.wait_secret("device", {"pw": "1"})


def test_class_of_the_older_form_is_synced_once_it_has_a_client_id(space: Namespace) -> None:
    """The class has an empty objectVersion, usePodIdentity and tenantId. It lacks clientID, which a user must add."""
    space.set_secret("a", "1")
    text = 'array:\n  - |\n    objectName: a\n    objectType: secret\n    objectVersion: ""\n'
    made = make_provider_class(space, "aio-default-spc", text)
    parameters = made["spec"]["parameters"]
    client = parameters.pop("clientID")
    parameters |= {"usePodIdentity": "false", "tenantId": TENANT}
    del parameters["tenantID"]
    space.apply(made, make_secret_sync(space, "aio", {"a": "a"}, "aio-default-spc"))
    assert "clientID is missing" in space.wait_reason("aio", Reason.SPC_ERROR)
    parameters["clientID"] = client
    space.apply(made)
    space.wait_secret("aio", {"a": "1"})
