"""The ServiceAccounts that SecretSyncs name: who they say they are, and their tokens for Entra."""

import re
from collections.abc import Awaitable, Callable

from controller import errors, permissions
from controller.api.meta import CLIENT_ID, TENANT_ID, ServiceAccount
from controller.api.secretsync import SecretSync
from controller.identity import Identity
from controller.kube import Kube
from controller.objects import CLIENT, TENANT, VaultClass
from controller.settings import TOKEN_AUDIENCE, TOKEN_SECONDS


async def identity_of(kube: Kube, sync: SecretSync, vault_class: VaultClass) -> Identity:
    """Who reads the vault; what the class leaves out (where it may) is in the ServiceAccount's annotations."""
    namespace, name = sync.metadata.namespace, sync.spec.service_account_name
    client, tenant = vault_class.client_id, vault_class.tenant_id
    if not client or not tenant:
        try:
            account = await permissions.SERVICE_ACCOUNTS.get(kube, namespace, name)
        except errors.NotFound as error:
            raise _missing(namespace, name) from error
        client = client or _annotated(account, CLIENT_ID, "clientID", CLIENT)
        tenant = tenant or _annotated(account, TENANT_ID, "tenantID", TENANT)
    return Identity(namespace, name, client, tenant)


def assertions(kube: Kube) -> Callable[[Identity], Awaitable[str]]:
    """How an identity's assertion is made: a token of its ServiceAccount, for Entra alone."""

    async def request(identity: Identity) -> str:
        namespace, name = identity.namespace, identity.service_account
        try:
            answer = await permissions.TOKENS.request(
                kube, namespace, name, audience=TOKEN_AUDIENCE, seconds=TOKEN_SECONDS
            )
        except errors.NotFound as error:
            raise _missing(namespace, name) from error
        return answer.status.token

    return request


def _missing(namespace: str, name: str) -> errors.ProviderError:
    return errors.ProviderError(
        f"there is no ServiceAccount {name} in namespace {namespace}; create it or correct serviceAccountName"
    )


def _annotated(account: ServiceAccount, annotation: str, parameter: str, pattern: re.Pattern[str]) -> str:
    """The annotation's value. Nobody watches ServiceAccounts, so its absence is looked into again by itself."""
    value = account.metadata.annotations.get(annotation, "").strip()
    if not pattern.fullmatch(value):
        said = f"is {value[:60]!r}" if value else "is missing"
        raise errors.ClassError(
            f"annotation {annotation} of ServiceAccount {account.metadata.name} {said}: correct it, or set the"
            f" SecretProviderClass's {parameter}",
            retry=errors.Retry.TIME,
        )
    return value
