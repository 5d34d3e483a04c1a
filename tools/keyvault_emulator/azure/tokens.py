"""Sign Entra's access tokens, and verify them for vaults."""

import hashlib
import uuid
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tools.keyvault_emulator.azure.access import TokenIdentity
from tools.keyvault_emulator.azure.certificates import base64url, public_jwk
from tools.keyvault_emulator.azure.state import Identity, Vault
from tools.keyvault_emulator.errors import EmulatorError, ErrorAnswer, vault_error
from tools.pki import encode_pem, write_private

SKEW = 300
"""The accepted difference of clocks in seconds: five minutes, in Entra and in Key Vault."""

SIGNATURE_ONLY: Any = {
    "verify_signature": True,
    **dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss", "verify_sub"), False),
}
"""PyJWT checks only signatures: the emulator checks claims with its own clock and Azure's messages."""

REMEMBERED = 1000
"""Cached signatures, so that many calls with one token need one verification."""

OTHER_ISSUER = "https://sts.windows.net/f8cdef31-a31e-4b4a-93e4-5f571e91255a/"
"""Microsoft's own tenant, which every vault also trusts; the message AKV10032 lists it."""


def token_issuer(tenant: str) -> str:
    """Return the `iss` of a tenant's access tokens for Key Vault, which have version 1.0."""
    return f"https://sts.windows.net/{tenant}/"


class TokenSigner:
    """Entra's signing key. It is stored in `folder`, so that tokens stay valid after a restart of the emulator."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "entra.key"
        self._verified: dict[bytes, dict[str, Any]] = {}
        if self._file.exists():
            self._use_key(_read_key(self._file))
        else:
            self.roll()

    def roll(self) -> None:
        """Replace the key. All tokens that were issued before become invalid."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        write_private(self._file, encode_pem(key))
        self._use_key(key)

    def _use_key(self, key: rsa.RSAPrivateKey) -> None:
        members = public_jwk(key.public_key())
        self._key = key
        self._verified.clear()
        self.kid = base64url(hashlib.sha256(members["n"].encode()).digest()[:20])
        self.jwks = {"keys": [{**members, "kid": self.kid, "x5t": self.kid, "use": "sig", "alg": "RS256"}]}

    def issue(self, identity: Identity, client_id: str, resource: str, *, now: float, lifetime: int) -> str:
        """Return a signed access token for `resource`. `now` is in seconds since 1970, `lifetime` in seconds."""
        issuer = token_issuer(identity.tenant)
        claims = {
            "aud": resource,
            "iss": issuer,
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now) + lifetime,
            "appid": client_id,
            "appidacr": "2",
            "idp": issuer,
            "idtyp": "app",
            "oid": identity.object_id,
            "sub": identity.object_id,
            "tid": identity.tenant,
            "uti": base64url(uuid.uuid4().bytes),
            "ver": "1.0",
        }
        return jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self.kid, "x5t": self.kid})

    def caller(self, token: str, vault: Vault, now: float) -> TokenIdentity:
        """Return the identity of a token that `vault` accepts. Raise the 401 `ErrorAnswer` of Key Vault otherwise."""
        claims = self._read_claims(token)
        if now > claims["exp"] + SKEW:
            raise unauthorized("Error validating token: IDX10223")
        if now < claims["nbf"] - SKEW:
            raise unauthorized("Error validating token: IDX10222")
        if claims["aud"] != vault.audience:
            raise unauthorized(f"AKV10022: Invalid audience. Expected {vault.audience}, found: {claims['aud']}.")
        expected = token_issuer(vault.tenant)
        if claims["iss"].lower() != expected.lower():
            raise unauthorized(
                f"AKV10032: Invalid issuer. Expected one of {expected}, {OTHER_ISSUER}, found {claims['iss']}."
            )
        return TokenIdentity(claims["appid"], claims["oid"], claims["iss"])

    def _read_claims(self, token: str) -> dict[str, Any]:
        digest = hashlib.sha256(token.encode()).digest()
        if digest in self._verified:
            return self._verified[digest]
        try:
            header = jwt.get_unverified_header(token)
            if header.get("kid") != self.kid:
                encoded = token.split(".")[0]
                raise unauthorized(
                    f"AKV10046: Unable to resolve the key used for signature validation. EncodedJwtHeader: '{encoded}'."
                )
            claims: dict[str, Any] = jwt.decode(
                token, self._key.public_key(), algorithms=["RS256"], options=SIGNATURE_ONLY
            )
        except jwt.InvalidSignatureError:
            raise unauthorized("Error validating token: IDX10511") from None
        except jwt.InvalidTokenError:
            raise unauthorized("Error validating token: IDX12741") from None
        if len(self._verified) >= REMEMBERED:
            self._verified.clear()
        self._verified[digest] = claims
        return claims


def _read_key(file: Path) -> rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (TypeError, ValueError):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise EmulatorError(f"{file} is not an RSA key; delete it, and the emulator creates a new one")
    return key


def unauthorized(message: str) -> ErrorAnswer:
    """Return a vault's 401, without its challenge."""
    return vault_error(401, "Unauthorized", message)
