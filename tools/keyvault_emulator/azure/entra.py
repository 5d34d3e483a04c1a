"""Emulate Entra's v2.0 endpoints: discovery, and the exchange of a federated token for an access token."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import jwt

from tools.keyvault_emulator.azure.issuers import IssuerKeys, UnreachableError
from tools.keyvault_emulator.azure.state import EmulatorState, FederatedCredential, Identity
from tools.keyvault_emulator.azure.tokens import SIGNATURE_ONLY, SKEW, TokenSigner
from tools.keyvault_emulator.errors import ErrorAnswer, entra_error

LOG = logging.getLogger(__name__)

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

RESOURCES = {
    "https://vault.azure.net",
    "https://vault.usgovcloudapi.net",
    "https://vault.azure.cn",
    "https://management.azure.com",
    "https://graph.microsoft.com",
}
"""The resources of tokens. The last two exist to test a vault with a token for another resource."""

OPENID_SCOPES = {"openid", "offline_access", "profile"}
"""MSAL for Go adds these scopes to each request. Entra ignores them in a client credential flow."""

DOCUMENTATION = "https://learn.microsoft.com/entra/workload-id/workload-identity-federation"


class GrantedToken(NamedTuple):
    """The answer to a token request, and the client id of its identity."""

    client_id: str
    body: dict[str, Any]


class EntraEmulation:
    """The tenants of the state. `signer` signs access tokens, and `issuers` finds the keys of federated tokens."""

    def __init__(self, world: EmulatorState, signer: TokenSigner, issuers: IssuerKeys) -> None:
        self._world = world
        self._signer = signer
        self._issuers = issuers

    def openid_configuration(self, tenant: str, origin: str) -> dict[str, Any]:
        """Return the tenant's discovery document. `origin` is the address of the request, such as https://127.0.0.1:8443."""
        self._find_tenant(tenant, origin, "invalid_tenant")
        base = f"{origin}/{tenant}"
        return {
            "issuer": f"{base}/v2.0",
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "response_types_supported": ["token"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "tenant_region_scope": None,
            "cloud_instance_name": "emulator",
        }

    def instance_discovery(self, query: Mapping[str, str], origin: str) -> dict[str, Any]:
        """Return the discovery endpoint of a tenant. MSAL requests it before it trusts an authority."""
        host = urlsplit(origin).netloc
        asked = urlsplit(query.get("authorization_endpoint", ""))
        # MSAL's query names the authority without its port.
        if asked.hostname != urlsplit(origin).hostname:
            text = f"Unknown or invalid instance: '{asked.netloc}'."
            raise _TokenRequest(self._world.now(), origin, None).refuse(400, "invalid_instance", 50049, text)
        tenant = asked.path.strip("/").split("/")[0]
        return {
            "tenant_discovery_endpoint": f"{origin}/{tenant}/v2.0/.well-known/openid-configuration",
            "api-version": "1.1",
            "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
        }

    def keys(self, tenant: str, origin: str) -> dict[str, Any]:
        """Return the public keys of the access tokens as a JWK set."""
        self._find_tenant(tenant, origin, "invalid_tenant")
        return self._signer.jwks

    async def token(self, tenant: str, form: Mapping[str, str], origin: str, correlation: str | None) -> GrantedToken:
        """Exchange `client_assertion` for an access token. Raise the `ErrorAnswer` that Entra would send.

        The checks have Entra's order: tenant, parameters, client, then issuer, audience and subject of the
        assertion against the federated credentials, its signature, its times.
        """
        request = _TokenRequest(self._world.now(), origin, correlation)
        self._find_tenant(tenant, origin, "invalid_request", correlation)
        client_id, resource = _read_parameters(form, request)
        identity = self._world.identities.get(client_id.lower())
        if identity is None or identity.tenant.lower() != tenant.lower():
            raise request.refuse(
                400,
                "unauthorized_client",
                700016,
                f"Application with identifier '{client_id}' was not found in the directory '{tenant}'. This can happen "
                "if the application has not been installed by the administrator of the tenant or consented to by any "
                "user in the tenant. You may have sent your authentication request to the wrong tenant.",
            )
        await self._verify_assertion(form["client_assertion"], client_id, identity, request)
        lifetime = self._world.token_lifetime
        token = self._signer.issue(identity, client_id, resource, now=request.now, lifetime=lifetime)
        body = {
            "token_type": "Bearer",
            "expires_in": lifetime,
            "ext_expires_in": lifetime,
            "access_token": token,
        }
        return GrantedToken(client_id, body | ({"refresh_in": lifetime // 2} if lifetime >= 7200 else {}))

    def _find_tenant(self, tenant: str, origin: str, error: str, correlation: str | None = None) -> None:
        request = _TokenRequest(self._world.now(), origin, correlation)
        if not all(letter.isalnum() or letter in "-." for letter in tenant):
            raise request.refuse(
                400,
                error,
                900023,
                f"Specified tenant identifier '{tenant}' is neither a valid DNS name, nor a valid external domain.",
            )
        if not self._world.has_tenant(tenant):
            raise request.refuse(
                400,
                error,
                90002,
                f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into "
                "the correct cloud. Check with your subscription administrator, this may happen if there are no active "
                "subscriptions for the tenant.",
            )

    async def _verify_assertion(
        self, assertion: str, client_id: str, identity: Identity, request: "_TokenRequest"
    ) -> None:
        try:
            header = jwt.get_unverified_header(assertion)
            claims: dict[str, Any] = jwt.decode(assertion, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            raise request.refuse(400, "invalid_request", 50027, "JWT token is invalid or malformed.") from None
        issuer = str(claims.get("iss"))
        _match_credential(identity.federated, client_id, claims, request)
        try:
            key = await self._issuers.key(issuer, header.get("kid"))
        except UnreachableError as problem:
            LOG.warning("discovery failed: %s", problem)
            raise request.refuse(400, "invalid_request", 50166, "Request to External OIDC endpoint failed.") from None
        if key is None:
            raise request.refuse(
                401,
                "invalid_client",
                7000272,
                f"The certificate with identifier {header.get('kid')} used to sign the federated credential could not "
                f"be found in the metadata of identity provider {issuer}. Please validate that your Identity "
                "Provider's metadata exposes the key used to sign the incoming token.",
            )
        try:
            jwt.decode(assertion, key, algorithms=["RS256", "ES256"], options=SIGNATURE_ONLY)
        except jwt.InvalidTokenError:
            raise request.refuse(
                401,
                "invalid_client",
                700027,
                "Client assertion contains an invalid signature. [Reason - The provided signature value did not match "
                f"the expected signature value., Thumbprint of key used by client: '{header.get('kid')}'].",
            ) from None
        _check_times(claims, request)


class _TokenRequest(NamedTuple):
    now: float
    origin: str
    correlation: str | None

    def refuse(self, status: int, error: str, code: int, text: str) -> ErrorAnswer:
        return entra_error(status, error, code, text, now=self.now, error_uri=self.origin, correlation=self.correlation)


def _read_parameters(form: Mapping[str, str], request: _TokenRequest) -> tuple[str, str]:
    """Return the client id and the resource of a token request. Raise `ErrorAnswer`."""
    for name in ("grant_type", "client_id", "scope"):
        if not form.get(name):
            text = f"The request body must contain the following parameter: '{name}'."
            raise request.refuse(400, "invalid_request", 900144, text)
    if form["grant_type"] != "client_credentials":
        text = f"The app requested an unsupported grant type '{form['grant_type']}'."
        raise request.refuse(400, "unsupported_grant_type", 70003, text)
    scope = " ".join(each for each in form["scope"].split() if each not in OPENID_SCOPES)
    if scope and (" " in scope or "://" not in scope):
        text = f"The provided request must include a 'scope' input parameter. The scope {form['scope']} is not valid."
        raise request.refuse(400, "invalid_scope", 70011, text)
    if not scope.endswith("/.default"):
        raise request.refuse(
            400,
            "invalid_scope",
            1002012,
            f"The provided value for scope {form['scope']} is not valid. Client credential flows must have a scope "
            "value with /.default suffixed to the resource identifier (application ID URI).",
        )
    resource = scope.removesuffix("/.default")
    if resource not in RESOURCES:
        text = f"The resource principal named {resource} was not found in the tenant."
        raise request.refuse(400, "invalid_resource", 500011, text)
    if form.get("client_assertion_type") != ASSERTION_TYPE or not form.get("client_assertion"):
        text = "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."
        raise request.refuse(401, "invalid_client", 7000218, text)
    return form["client_id"], resource


def _match_credential(
    federated: list[FederatedCredential], client_id: str, claims: dict[str, Any], request: _TokenRequest
) -> None:
    """Find a federated credential for these claims. Raise an `ErrorAnswer` that names the issuer, audience or subject.

    The audience is compared with the credentials of that issuer, and the subject with those of issuer and audience.
    Number 70021 means that only a credential with another issuer or audience has the subject.
    """
    issuer, subject, audience = str(claims.get("iss")), str(claims.get("sub")), claims.get("aud")
    advice = (
        "Check your federated identity credential Subject, Audience and Issuer against the presented assertion. "
        + DOCUMENTATION
    )
    if not federated:
        text = f"The client '{client_id}' has no configured federated identity credentials."
        raise request.refuse(401, "invalid_client", 70025, text)
    candidates = [each for each in federated if each.issuer == issuer]
    if not candidates:
        text = f"No matching federated identity record found for presented assertion issuer '{issuer}'. {advice}"
        raise request.refuse(401, "invalid_client", 700211, text)
    audiences = [str(each) for each in audience] if isinstance(audience, list) else [str(audience)]
    candidates = [each for each in candidates if each.audience in audiences]
    if not candidates or len(audiences) != 1:
        shown = ", ".join(audiences)
        text = f"No matching federated identity record found for presented assertion audience '{shown}'. {advice}"
        raise request.refuse(401, "invalid_client", 700212, text)
    if any(each.subject == subject for each in candidates):
        return
    if any(each.subject == subject for each in federated):
        text = (
            f"No matching federated identity record found for presented assertion. Assertion Issuer: '{issuer}'. "
            f"Assertion Subject: '{subject}'. Assertion Audience: '{audiences[0]}'. {DOCUMENTATION}"
        )
        raise request.refuse(401, "invalid_client", 70021, text)
    start = f"No matching federated identity record found for presented assertion subject '{subject}'. "
    if any(each.subject.lower() == subject.lower() for each in candidates):
        text = "The subject matches with case-insensitive comparison, but not with case-sensitive comparison. "
        raise request.refuse(401, "invalid_client", 7002138, start + text + advice)
    raise request.refuse(401, "invalid_client", 700213, start + advice)


def _check_times(claims: dict[str, Any], request: _TokenRequest) -> None:
    start, end = claims.get("nbf", claims.get("iat", 0)), claims.get("exp")
    if isinstance(start, int | float) and isinstance(end, int | float) and start - SKEW <= request.now <= end + SKEW:
        return

    def moment(seconds: object) -> str:
        number = seconds if isinstance(seconds, int | float) else 0
        return datetime.fromtimestamp(number, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")

    raise request.refuse(
        401,
        "invalid_client",
        700024,
        f"Client assertion is not within its valid time range. Current time: {moment(request.now)}, assertion valid "
        f"from {moment(start)}, expiry time of assertion {moment(end)}. Review the documentation at "
        "https://learn.microsoft.com/entra/identity-platform/certificate-credentials .",
    )
