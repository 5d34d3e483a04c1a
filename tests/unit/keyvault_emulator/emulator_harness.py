"""Provide a token issuer that replaces that of the cluster, and an emulator with one vault."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from azure.identity import ClientAssertionCredential
from azure.identity.aio import ClientAssertionCredential as AsyncClientAssertionCredential
from azure.keyvault.certificates import CertificateClient
from azure.keyvault.keys import KeyClient
from azure.keyvault.secrets import SecretClient
from cryptography.hazmat.primitives.asymmetric import rsa

from tools.keyvault_emulator import Emulator
from tools.keyvault_emulator.azure.certificates import public_jwk
from tools.keyvault_emulator.tls import LocalAuthority

TENANT = "11111111-1111-1111-1111-11111111aaaa"
OTHER_TENANT = "22222222-2222-2222-2222-22222222bbbb"
CLIENT = "33333333-3333-3333-3333-33333333cccc"
VAULT = "shop-vault"
SUBJECT = "system:serviceaccount:shop:shop"
AUDIENCE = "api://AzureADTokenExchange"
SCOPE = "https://vault.azure.net/.default"


class StandInIssuer:
    """An OIDC issuer over HTTPS with its own keys, which replaces that of the cluster. It can go offline."""

    def __init__(self, folder: Path) -> None:
        self.authority = LocalAuthority(folder)
        self._context = self.authority.server_context(folder, ["127.0.0.1"])
        self.ca_file = self.authority.file
        self.requested_paths: list[str] = []
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.claimed: str | None = None
        self.roll("first")
        self._port = 0
        self.start()
        self.url = f"https://127.0.0.1:{self._port}"

    def roll(self, kid: str) -> None:
        """Sign later tokens with a new key, and publish only that key."""
        self.kid = kid
        self.keys = {kid: rsa.generate_private_key(65537, 2048)}

    def start(self) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.requested_paths.append(self.path)
                documents: dict[str, dict[str, Any]] = {
                    "/.well-known/openid-configuration": {
                        "issuer": issuer.claimed or issuer.url,
                        "jwks_uri": f"{issuer.url}/openid/v1/jwks",
                    },
                    "/openid/v1/jwks": {
                        "keys": [
                            {**public_jwk(key.public_key()), "kid": kid, "use": "sig", "alg": "RS256"}
                            for kid, key in issuer.keys.items()
                        ]
                    },
                }
                body = json.dumps(documents[self.path]).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/jwk-set+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        self._server.socket = self._context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Go offline."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def token(self, key: rsa.RSAPrivateKey | None = None, kid: str | None = None, **claims: Any) -> str:
        """Return a signed token as a cluster issues it. `claims` replace its claims, or remove them if None."""
        now = int(time.time())
        content = {
            "iss": self.url,
            "sub": SUBJECT,
            "aud": [AUDIENCE],
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            **claims,
        }
        return jwt.encode(
            {name: value for name, value in content.items() if value is not None},
            key or self.keys[self.kid],
            algorithm="RS256",
            headers={"kid": kid or self.kid},
        )


class EmulatorHarness:
    """An emulator with one vault, one identity that is federated with the issuer, and no roles yet."""

    def __init__(self, emulator: Emulator, issuer: StandInIssuer) -> None:
        self.emulator = emulator
        self.issuer = issuer

    def reset(self) -> None:
        """Reset the emulator to this state."""
        self.emulator.clear()
        self.emulator.add_vault(VAULT, TENANT)
        self.emulator.add_identity(CLIENT, TENANT)
        self.emulator.trust_issuer(self.issuer.url, self.issuer.ca_file)
        self.emulator.federate(CLIENT, self.issuer.url, SUBJECT)

    @property
    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of every client: the CA, and no retries."""
        return {"connection_verify": str(self.emulator.ca_file), "retry_total": 0}

    @contextmanager
    def credential(self, token: str | None = None, **options: Any) -> Iterator[ClientAssertionCredential]:
        """Provide the credential of the identity. It sends `token`, or else a valid token of the issuer."""
        credential = ClientAssertionCredential(
            options.pop("tenant", TENANT),
            options.pop("client", CLIENT),
            lambda: token or self.issuer.token(),
            authority=self.emulator.authority,
            **self.options,
            **options,
        )
        with credential:
            yield credential

    @contextmanager
    def secrets(self, vault: str = VAULT, **options: Any) -> Iterator[SecretClient]:
        """Provide the official client for secrets."""
        with ExitStack() as stack:
            credential = options.pop("credential", None) or stack.enter_context(self.credential())
            url = options.pop("url", self.emulator.vault_pattern.format(vault=vault))
            merged = {**self.options, **options}
            yield stack.enter_context(SecretClient(url, credential, verify_challenge_resource=False, **merged))

    @contextmanager
    def certificates(self) -> Iterator[CertificateClient]:
        """Provide the official client for certificates."""
        with self.credential() as credential:
            url = self.emulator.vault_pattern.format(vault=VAULT)
            with CertificateClient(url, credential, verify_challenge_resource=False, **self.options) as client:
                yield client

    @contextmanager
    def keys(self) -> Iterator[KeyClient]:
        """Provide the official client for keys."""
        with self.credential() as credential:
            url = self.emulator.vault_pattern.format(vault=VAULT)
            with KeyClient(url, credential, verify_challenge_resource=False, **self.options) as client:
                yield client

    def async_credential(self) -> AsyncClientAssertionCredential:
        """Return the credential of the identity for asyncio."""
        return AsyncClientAssertionCredential(
            TENANT, CLIENT, self.issuer.token, authority=self.emulator.authority, **self.options
        )

    def access_token(self, scope: str = SCOPE) -> str:
        """Return an access token of the identity."""
        with self.credential() as credential:
            return credential.get_token(scope).token
