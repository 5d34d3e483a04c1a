"""Check the rights of callers in a vault, by role assignments or access policies, and build Key Vault's refusals."""

from typing import NamedTuple

from tools.keyvault_emulator.azure.state import Allowed, Identity, Kind, Role, Vault
from tools.keyvault_emulator.errors import ErrorAnswer, vault_error


class TokenIdentity(NamedTuple):
    """The identity that a verified token names."""

    client_id: str
    object_id: str
    issuer: str

    def __str__(self) -> str:
        return f"appid={self.client_id};oid={self.object_id};iss={self.issuer}"


class AccessRight(NamedTuple):
    """The right for an operation: the data action of role assignments, and the permission of access policies."""

    kind: Kind
    action: str
    policy: Allowed


PERMISSIONS: dict[str, AccessRight] = {
    "secrets.get": AccessRight("secrets", "getSecret/action", "get"),
    "secrets.list": AccessRight("secrets", "readMetadata/action", "list"),
    "secrets.versions": AccessRight("secrets", "readMetadata/action", "list"),
    "certificates.get": AccessRight("certificates", "read", "get"),
    "certificates.list": AccessRight("certificates", "read", "list"),
    "certificates.versions": AccessRight("certificates", "read", "list"),
    "certificates.policy": AccessRight("certificates", "read", "get"),
    "certificates.pending": AccessRight("certificates", "read", "get"),
    "certificates.issuers": AccessRight("certificates", "read", "get"),
    "certificates.contacts": AccessRight("certificates", "read", "get"),
    "keys.get": AccessRight("keys", "read", "get"),
    "keys.list": AccessRight("keys", "read", "list"),
    "keys.versions": AccessRight("keys", "read", "list"),
}
"""All emulated operations of the data plane."""

_SECRETS = {"secrets/getSecret/action", "secrets/readMetadata/action"}
_PUBLIC = {"certificates/read", "keys/read"}

ROLES: dict[Role, frozenset[str]] = {
    "Key Vault Secrets User": frozenset(_SECRETS),
    "Key Vault Secrets Officer": frozenset(_SECRETS),
    "Key Vault Reader": frozenset(_PUBLIC | {"secrets/readMetadata/action"}),
    "Key Vault Certificate User": frozenset(_SECRETS | _PUBLIC),
    "Key Vault Certificates Officer": frozenset({"certificates/read"}),
    "Key Vault Crypto User": frozenset({"keys/read"}),
    "Key Vault Administrator": frozenset(_SECRETS | _PUBLIC),
}
"""Azure's built-in roles with the actions of PERMISSIONS (learn.microsoft.com/azure/key-vault/general/rbac-guide)."""


def refusal(
    caller: TokenIdentity, identity: Identity | None, vault: Vault, operation: str, name: str
) -> ErrorAnswer | None:
    """Return the 403 for this caller, or None if the vault's roles or policies allow the operation."""
    need = PERMISSIONS[operation]
    if vault.rbac:
        roles = identity.roles.get(vault.name.lower(), []) if identity else []
        if any(f"{need.kind}/{need.action}" in ROLES[role] for role in roles):
            return None
        return _forbidden_by_rbac(caller, vault, need, name)
    policies = identity.policies.get(vault.name.lower(), {}) if identity else {}
    if vault.on_behalf_of:
        return vault_error(
            403,
            "Forbidden",
            f"The policy requires the caller '{caller}' to use on-behalf-of (OBO) flow. For more information on OBO, "
            "please see https://go.microsoft.com/fwlink/?linkid=2152310",
            inner="ForbiddenByPolicy",
        )
    if need.policy in policies.get(need.kind, []):
        return None
    return vault_error(
        403,
        "Forbidden",
        f"The user, group or application '{caller}' does not have {need.kind} {need.policy} permission on key vault "
        f"'{vault.name};location={vault.location}'. For help resolving this issue, please see "
        "https://go.microsoft.com/fwlink/?linkid=2125287",
        inner=vault.policy_refusal,
    )


def network_refusal(caller: TokenIdentity, vault: Vault, address: str | None) -> ErrorAnswer | None:
    """Return the 403 for a caller from that address, or None if the vault's network settings allow it."""
    tail = f"Caller: {caller}\r\nVault: {vault.name};location={vault.location}"
    source = f"Client address: {address}\r\n"
    for refuses, inner, text in (
        (
            vault.perimeter,
            "ForbiddenByNsp",
            "Request was not allowed by NSP rules and the client address is not authorized and caller is not a trusted "
            f"service.\r\n{source}",
        ),
        (
            not vault.public_access,
            "ForbiddenByConnection",
            "Public network access is disabled and request is not from a trusted service nor via an approved private "
            "link.\r\n",
        ),
        (
            vault.firewall,
            "ForbiddenByFirewall",
            f"Client address is not authorized and caller is not a trusted service.\r\n{source}",
        ),
    ):
        if refuses:
            return vault_error(403, "Forbidden", text + tail, inner=inner)
    return None


def _forbidden_by_rbac(caller: TokenIdentity, vault: Vault, need: AccessRight, name: str) -> ErrorAnswer:
    # The ids of subscription and resource group have no meaning here. They complete the form of Azure's message.
    resource = (
        "/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/emulator/providers/microsoft.keyvault"
        f"/vaults/{vault.name}" + (f"/{need.kind}/{name}" if name else "")
    )
    return vault_error(
        403,
        "Forbidden",
        "Caller is not authorized to perform action on resource.\r\n"
        "If role assignments, deny assignments or role definitions were changed recently, please observe propagation "
        f"time.\r\nCaller: {caller}\r\nAction: 'Microsoft.KeyVault/vaults/{need.kind}/{need.action}'\r\n"
        f"Resource: '{resource}'\r\nAssignment: (not found)\r\nDecisionReason: 'DeniedWithNoValidRBAC' \r\n"
        f"Vault: {vault.name};location={vault.location}\r\n",
        inner="ForbiddenByRbac",
    )
