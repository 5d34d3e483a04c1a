"""Test certificates, which are also secrets and keys, with the official clients."""

import base64

import pytest
from azure.core.exceptions import HttpResponseError
from azure.keyvault.certificates.aio import CertificateClient as AsyncCertificateClient
from azure.keyvault.keys.aio import KeyClient as AsyncKeyClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from tests.support.certificates import encode_pem_bundle, encode_pfx, generate_key, issue_certificate
from tests.unit.keyvault_emulator.emulator_harness import CLIENT, VAULT, EmulatorHarness
from tools.keyvault_emulator import EmulatorError


@pytest.mark.parametrize("form", ["pem", "encrypted pem", "pfx", "pfx with password"])
@pytest.mark.parametrize("kind", ["EC", "RSA"])
def test_certificate_is_also_a_secret_and_a_key(emulator_harness: EmulatorHarness, form: str, kind: str) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT, "Key Vault Certificate User")
    key = ec.generate_private_key(ec.SECP384R1()) if kind == "EC" else generate_key(kind)
    issuer = issue_certificate("ca", ca=True)
    issued = issue_certificate("shop", issuer, key=key)
    leaf, ca = issued.certificate, issuer.certificate
    password = "swordfish" if form in ("encrypted pem", "pfx with password") else ""
    if "pem" in form:
        data = encode_pem_bundle(issued, issuer, password=password)
    else:
        data = base64.b64decode(encode_pfx(key, [issued, issuer], password))
    version = emulator_harness.emulator.import_certificate(VAULT, "web", data, password=password or None)
    der = leaf.public_bytes(serialization.Encoding.DER)

    with emulator_harness.certificates() as client:
        certificate = client.get_certificate("web")
        assert bytes(certificate.cer or b"") == der
        assert certificate.secret_id == f"https://{VAULT}.vault.azure.net/secrets/web/{version}"
        assert certificate.key_id == f"https://{VAULT}.vault.azure.net/keys/web/{version}"
        assert certificate.properties is not None
        assert certificate.policy is not None
        assert certificate.properties.x509_thumbprint == leaf.fingerprint(hashes.SHA1())  # noqa: S303
        assert certificate.policy.content_type == (
            "application/x-pem-file" if "pem" in form else "application/x-pkcs12"
        )
        assert client.get_certificate_policy("web").key_type == kind
        assert [each.name for each in client.list_properties_of_certificates()] == ["web"]
        assert [each.version for each in client.list_properties_of_certificate_versions("web")] == [version]
        assert client.get_certificate_version("web", version).name == "web"

    with emulator_harness.secrets() as secrets:
        secret = secrets.get_secret("web")
        assert secret.properties.version == version
        assert secret.properties.managed is True
        assert secret.properties.key_id == certificate.key_id
        assert secret.properties.expires_on == leaf.not_valid_after_utc
        assert [(each.name, each.managed) for each in secrets.list_properties_of_secrets()] == [("web", True)]
        value = secret.value or ""
        if "pem" in form:
            assert secret.properties.content_type == "application/x-pem-file"
            private = serialization.load_pem_private_key(value.encode(), None)
            assert x509.load_pem_x509_certificates(value.encode()) == [leaf, ca]
        else:
            assert secret.properties.content_type == "application/x-pkcs12"
            opened = pkcs12.load_pkcs12(base64.b64decode(value), None)
            assert opened.key is not None
            private = opened.key
            assert [each.certificate for each in opened.additional_certs] == [ca]
        assert private.public_key() == key.public_key()

    with emulator_harness.keys() as keys:
        jwk = keys.get_key("web")
        assert jwk.properties.managed is True
        assert jwk.key_type == kind
        members = vars(jwk.key)
        if isinstance(key, rsa.RSAPrivateKey):
            assert int.from_bytes(members["n"], "big") == key.public_key().public_numbers().n
        else:
            x = key.public_key().public_numbers().x.to_bytes(48, "big")
            assert (members["crv"], members["x"]) == ("P-384", x)
        assert [each.name for each in keys.list_properties_of_keys()] == ["web"]
        assert [each.version for each in keys.list_properties_of_key_versions("web")] == [version]


def test_disabled_certificate_still_serves_its_public_half(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT, "Key Vault Certificate User")
    emulator_harness.emulator.import_certificate(VAULT, "web", encode_pem_bundle(issue_certificate("shop")))
    emulator_harness.emulator.set_attributes(VAULT, "web", kind="certificates", enabled=False)
    with emulator_harness.certificates() as client:
        properties = client.get_certificate("web").properties
        assert properties is not None
        assert properties.enabled is False
    with emulator_harness.keys() as keys:
        assert keys.get_key("web").properties.enabled is False
    with emulator_harness.secrets() as secrets, pytest.raises(HttpResponseError, match="disabled secret"):
        secrets.get_secret("web")
    with pytest.raises(EmulatorError, match="taken by another kind of object"):
        emulator_harness.emulator.set_secret(VAULT, "web", "x")


async def test_certificates_and_keys_are_read_with_asyncio(emulator_harness: EmulatorHarness) -> None:
    emulator_harness.emulator.assign_role(CLIENT, VAULT, "Key Vault Administrator")
    for _ in range(2):
        emulator_harness.emulator.import_certificate(VAULT, "web", encode_pem_bundle(issue_certificate("shop")))
    for kty in ("RSA", "EC"):
        emulator_harness.emulator.create_key(VAULT, f"sign-{kty}", kty)
    url = emulator_harness.emulator.vault_pattern.format(vault=VAULT)
    async with emulator_harness.async_credential() as credential:
        async with AsyncCertificateClient(
            url, credential, verify_challenge_resource=False, **emulator_harness.options
        ) as certificates:
            assert len([each async for each in certificates.list_properties_of_certificate_versions("web")]) == 2
            assert (await certificates.get_certificate("web")).cer
        async with AsyncKeyClient(url, credential, verify_challenge_resource=False, **emulator_harness.options) as keys:
            assert [each.name async for each in keys.list_properties_of_keys()] == [
                "sign-EC",
                "sign-RSA",
                "web",
            ]
            assert (await keys.get_key("sign-EC")).key_type == "EC"
            assert (await keys.get_key("sign-RSA")).properties.managed is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"rubbish", "neither PEM nor a PFX"),
        (b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "has no certificate"),
    ],
)
def test_invalid_certificate_is_refused(emulator_harness: EmulatorHarness, data: bytes, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        emulator_harness.emulator.import_certificate(VAULT, "web", data)


def test_certificate_without_its_own_key_is_refused(emulator_harness: EmulatorHarness) -> None:
    leaf = issue_certificate("shop")
    with pytest.raises(EmulatorError, match="no certificate belongs to the private key"):
        emulator_harness.emulator.import_certificate(VAULT, "web", encode_pem_bundle(leaf._replace(key=generate_key())))
    with pytest.raises(EmulatorError, match="has no private key"):
        emulator_harness.emulator.import_certificate(VAULT, "web", leaf.pem.encode())
    with pytest.raises(EmulatorError, match=r"the password is wrong"):
        emulator_harness.emulator.import_certificate(
            VAULT, "web", encode_pem_bundle(leaf, password="swordfish"), password="guess"
        )
