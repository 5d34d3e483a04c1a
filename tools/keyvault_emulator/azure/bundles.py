"""Build the JSON bodies of Key Vault's objects: for `get`, and for the items of a list. Pure.

Source: Azure Key Vault REST API reference (SecretBundle, CertificateBundle, KeyBundle and their items), and recorded
answers, which differ from the reference in a few fields.
"""

import base64
import hashlib
import json
from typing import Any

from cryptography import x509

from tools.keyvault_emulator.azure.certificates import base64url
from tools.keyvault_emulator.azure.state import Entry, Kind, Vault, Version
from tools.keyvault_emulator.errors import ErrorAnswer, vault_error

RECOVERY = {"recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90}
SYMMETRIC = "oct-HSM"
# The operations of a key, by its type.
_OPERATIONS = {
    "RSA": ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"],
    "EC": ["sign", "verify"],
    "oct": ["encrypt", "decrypt", "wrapKey", "unwrapKey"],
}


def is_live(entry: Entry) -> bool:
    """Return whether the object is visible: it is not deleted, and it has a version."""
    return bool(entry.versions) and not entry.deleted


def item(
    vault: Vault, kind: Kind, entry: Entry, version: Version, managed: bool, *, versioned: bool = False
) -> dict[str, Any]:
    """Return the item of a list for an object or, if `versioned`, for one of its versions."""
    url = vault.url(kind, entry.name, version.id if versioned else "")
    found: dict[str, Any] = {"kid" if kind == "keys" else "id": url}
    # A list of certificates has no recovery attributes.
    found["attributes"] = _version_attributes(version, recovery=kind != "certificates")
    if kind == "secrets" and version.content_type is not None:
        found["contentType"] = version.content_type
    if kind == "certificates":
        found |= {"x5t": _thumbprint_of(version), "subject": ""}
    if managed:
        found["managed"] = True
    if version.tags or version.certificate is not None or kind == "certificates":
        found["tags"] = version.tags
    return found


def secret(vault: Vault, entry: Entry, version: Version, managed: bool) -> dict[str, Any]:
    """Return a secret with its value, also before its nbf and after its exp.

    Raise `ErrorAnswer` for a disabled one.
    """
    if not version.enabled:
        raise disabled_secret()
    body = {"value": version.value, **item(vault, "secrets", entry, version, managed, versioned=True)}
    if managed:
        body["kid"] = vault.url("keys", entry.name, version.id)
    return body


def disabled_secret() -> ErrorAnswer:
    """Return the refusal to read a disabled secret."""
    return vault_error(403, "Forbidden", "Operation get is not allowed on a disabled secret.", inner="SecretDisabled")


def certificate(vault: Vault, entry: Entry, version: Version, _managed: bool = False) -> dict[str, Any]:
    """Return the newest version of a certificate with its policy, even if disabled (Azure/azure-cli#26044)."""
    pending = {"id": f"{vault.url('certificates', entry.name)}/pending"}
    return _certificate_body(vault, entry, version) | {"policy": policy(vault, entry, version), "pending": pending}


def certificate_version(vault: Vault, entry: Entry, version: Version) -> dict[str, Any]:
    """Return a version of a certificate that the caller requested by its id."""
    parsed = x509.load_der_x509_certificate(version.certificate or b"")
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = names.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        hosts = []
    return _certificate_body(vault, entry, version) | {
        "subject": parsed.subject.rfc4514_string(),
        "issuer": parsed.issuer.rfc4514_string(),
        "sans": {"dns_names": hosts},
        "serialnumber": f"{parsed.serial_number:032X}",
    }


def _certificate_body(vault: Vault, entry: Entry, version: Version) -> dict[str, Any]:
    return {
        "id": vault.url("certificates", entry.name, version.id),
        "kid": vault.url("keys", entry.name, version.id),
        "sid": vault.url("secrets", entry.name, version.id),
        "x5t": _thumbprint_of(version),
        "cer": base64.b64encode(version.certificate or b"").decode(),
        "attributes": _version_attributes(version),
        "tags": version.tags,
    }


def requested(vault: Vault, entry: Entry, request: Version) -> dict[str, Any]:
    """Return a certificate that is only requested: it is disabled and has no content."""
    url = vault.url("certificates", entry.name)
    return {
        "id": vault.url("certificates", entry.name, request.id),
        "attributes": _version_attributes(request),
        "policy": {"id": f"{url}/policy", "issuer": {"name": "Unknown"}, "attributes": {"enabled": True}},
        "pending": {"id": f"{url}/pending"},
    }


def operation(vault: Vault, entry: Entry) -> dict[str, Any]:
    """Return the pending request (CertificateOperation). Its CSR is a placeholder, because no client here reads it."""
    return {
        "id": f"{vault.url('certificates', entry.name)}/pending",
        "issuer": {"name": "Unknown"},
        "csr": base64.b64encode(entry.name.encode()).decode(),
        "cancellation_requested": False,
        "status": "inProgress",
        "status_details": "Pending certificate created. Please Perform Merge to complete the request.",
    }


def policy(vault: Vault, entry: Entry, version: Version) -> dict[str, Any]:
    """Return the policy of an imported certificate (CertificatePolicy)."""
    jwk = version.jwk or {}
    properties: dict[str, Any] = {"exportable": True, "kty": jwk.get("kty"), "reuse_key": False}
    if jwk.get("kty") == "RSA":
        properties["key_size"] = len(base64.urlsafe_b64decode(jwk["n"] + "==")) * 8
    else:
        properties["crv"] = jwk.get("crv")
    parsed = x509.load_der_x509_certificate(version.certificate or b"")
    return {
        "id": f"{vault.url('certificates', entry.name)}/policy",
        "key_props": properties,
        "secret_props": {"contentType": version.content_type},
        "x509_props": {
            "subject": parsed.subject.rfc4514_string(),
            "ekus": [],
            "key_usage": ["digitalSignature", "keyEncipherment"],
            "validity_months": 12,
            "basic_constraints": {"ca": False},
        },
        "lifetime_actions": [{"trigger": {"lifetime_percentage": 80}, "action": {"action_type": "EmailContacts"}}],
        "issuer": {"name": "Unknown"},
        "attributes": {"enabled": True, "created": version.created, "updated": version.updated},
    }


def key(vault: Vault, entry: Entry, version: Version, managed: bool) -> dict[str, Any]:
    """Return the public key and, if the key can be exported, its release policy."""
    jwk = version.jwk or {}
    found = item(vault, "keys", entry, version, managed, versioned=True)
    family = jwk.get("kty", "").removesuffix("-HSM")
    body = {"key": {"kid": found.pop("kid"), "key_ops": _OPERATIONS[family], **jwk}, **found}
    if version.release_policy:
        body["attributes"]["exportable"] = True
        body["release_policy"] = {
            "contentType": "application/json; charset=utf-8",
            "data": base64url(json.dumps({"version": "1.0.0", "anyOf": []}).encode()),
            "immutable": False,
        }
    return body


def _version_attributes(version: Version, *, recovery: bool = True) -> dict[str, Any]:
    times = {"nbf": version.not_before, "exp": version.expires}
    return {
        "enabled": version.enabled,
        **{key: value for key, value in times.items() if value is not None},
        "created": version.created,
        "updated": version.updated,
        **(RECOVERY if recovery else {}),
    }


def _thumbprint_of(version: Version) -> str:
    # Key Vault's x5t is SHA-1 by definition (RFC 7515, 4.1.7). It is an identifier, not a protection.
    return base64url(hashlib.sha1(version.certificate or b"", usedforsecurity=False).digest())
