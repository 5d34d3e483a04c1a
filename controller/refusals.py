"""What Key Vault's refusals mean, each with the next step. Pure.

Source: Azure Key Vault REST API reference, "Common error codes"; "Azure Key Vault RBAC guide".
"""

from azure.core.exceptions import HttpResponseError

from controller.errors import ObjectError, ProviderError, Retry
from controller.objects import VaultObject
from controller.schedule import asked_to_wait
from controller.sources import Source


def explain(
    error: HttpResponseError, vault: str, client_id: str, source: Source, verb: str, found: VaultObject | None
) -> ProviderError:
    """The error of one call; an `ObjectError` where it speaks of `found`, or of the list where there is none, alone."""
    status = error.status_code
    code = _inner_code(error)
    place, client = f"Key Vault {vault}", f"identity {client_id}"
    noun = found.noun if found else f"the list of {source.plural}"
    if status == 404 and found:
        return ObjectError(
            f"{noun} is not in {place}; create or recover it there, or correct objectName, objectType or objectVersion"
        )
    if code.endswith("Disabled") and found:
        return source.disabled(found)
    if code == "ForbiddenByFirewall":
        return ProviderError(f"{place}'s firewall refuses this cluster; allow its address in the vault's networking")
    if status == 403 and code == "AccessDenied":  # the vault works with access policies
        right = "Get" if verb == "get" else "List"
        return ObjectError(
            f"{client} may not read {noun} in {place}; give it the permission {right} for {source.plural} in the"
            " vault's access policies"
        )
    if status == 403:
        return ObjectError(f"{client} may not read {noun} in {place}; assign it the role {source.role} there")
    if status == 401:
        return ProviderError(
            f"{place} does not accept the token of {client}; check that tenantID is the vault's tenant"
        )
    if status == 429:
        return throttled(vault, asked_to_wait(getattr(error.response, "headers", {})))
    return ProviderError(f"{place} answered with HTTP {status}; the controller tries again by itself")


def throttled(vault: str, seconds: float | None) -> ProviderError:
    """The vault has too many calls; the caller's turn comes in that time."""
    return ProviderError(
        f"Key Vault {vault} is throttled: too many calls by all its users; raise rotationPollIntervalInSeconds or"
        " jitterSeconds if it lasts",
        retry_after=seconds,
        retry=Retry.TURN,
    )


def _inner_code(error: HttpResponseError) -> str:
    """Key Vault's own word for a refusal: error.innererror.code, such as ForbiddenByRbac."""
    inner = getattr(error.error, "innererror", None)
    code = inner.get("code") if isinstance(inner, dict) else None
    return code if isinstance(code, str) else ""
