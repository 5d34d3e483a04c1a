"""Read the ServiceAccounts that SecretSyncs name: their identities, and their tokens for Entra."""

import re
from collections.abc import Awaitable, Callable

from controller import errors
from controller.api.meta import CLIENT_ID, TENANT_ID, ServiceAccount
from controller.api.secretsync import SecretSync
from controller.config.settings import TOKEN_AUDIENCE, TOKEN_SECONDS
from controller.domain.provider_class import CLIENT, TENANT, ProviderConfig
from controller.keyvault.credentials import Identity
from controller.kube import permissions
from controller.kube.client import KubeClient


async def resolve_identity(kube: KubeClient, sync: SecretSync, vault_class: ProviderConfig) -> Identity:
    """Return the identity that reads the vault.

    The annotations of the ServiceAccount supply a client id or tenant id that the class omits. Raise `ProviderError` if
    there is no such ServiceAccount, or `ClassError` if an annotation is missing or invalid.
    """
    namespace, name = sync.metadata.namespace, sync.spec.service_account_name
    client, tenant = vault_class.client_id, vault_class.tenant_id
    if not client or not tenant:
        try:
            account = await permissions.SERVICE_ACCOUNTS.get(kube, namespace, name)
        except errors.NotFound as error:
            raise _missing_error(namespace, name) from error
        client = client or _read_annotation(account, CLIENT_ID, "clientID", CLIENT)
        tenant = tenant or _read_annotation(account, TENANT_ID, "tenantID", TENANT)
    return Identity(namespace, name, client, tenant)


def service_account_tokens(kube: KubeClient) -> Callable[[Identity], Awaitable[str]]:
    """Return a function that requests a token of an identity's ServiceAccount, with Entra as its only audience.

    The function raises `ProviderError` if the ServiceAccount is missing or the controller may not request its token.
    """

    async def request(identity: Identity) -> str:
        namespace, name = identity.namespace, identity.service_account
        try:
            answer = await permissions.TOKENS.request_token(
                kube, namespace, name, audience=TOKEN_AUDIENCE, seconds=TOKEN_SECONDS
            )
        except errors.NotFound as error:
            raise _missing_error(namespace, name) from error
        except errors.Refused as error:
            if error.status != 403:
                raise
            raise errors.ProviderError(
                f"the controller may not request a token of ServiceAccount {name} in namespace {namespace}; an"
                " administrator adds it to the chart's tokenRequest.serviceAccounts, or correct serviceAccountName"
            ) from error
        return answer.status.token

    return request


def _missing_error(namespace: str, name: str) -> errors.ProviderError:
    return errors.ProviderError(
        f"there is no ServiceAccount {name} in namespace {namespace}; create it or correct serviceAccountName"
    )


def _read_annotation(account: ServiceAccount, annotation: str, parameter: str, pattern: re.Pattern[str]) -> str:
    """Return the annotation's value. Raise `ClassError` if it is missing or invalid.

    ServiceAccounts are not watched, so the error has a retry with backoff.
    """
    value = account.metadata.annotations.get(annotation, "").strip()
    if not pattern.fullmatch(value):
        state = f"is {value[:60]!r}" if value else "is missing"
        raise errors.ClassError(
            f"annotation {annotation} of ServiceAccount {account.metadata.name} {state}: correct it, or set the"
            f" SecretProviderClass's {parameter}",
            retry=errors.Retry.BACKOFF,
        )
    return value
