"""Explain Key Vault's errors, each with the next step. Pure.

Source: Azure Key Vault REST API reference, "Common error codes"; "Azure Key Vault REST API error codes"; "Azure Key
Vault RBAC guide"; recorded answers of vaults in the public, US Government and China clouds.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

from azure.core.exceptions import AzureError, HttpResponseError

from controller.config.settings import DEFAULT_CLOUD, KEY_VAULT_API_VERSION
from controller.domain.provider_class import VaultObject
from controller.errors import AccessDenied, ObjectError, ObjectGone, ProviderError, Retry
from controller.keyvault.objects import ObjectClient
from controller.runtime.backoff import parse_retry_after
from controller.runtime.json_decoding import decode_json, replace_lone_surrogates

# Key Vault's refusal of an api-version, with the newest version that it supports.
_UNKNOWN_VERSION = re.compile(
    r"The specified version \([^()]{1,40}\) is not recognized"
    r"(?:\. Consider using the latest supported version"
    r" \((?P<offered>[0-9]{1,4}(?:[-.][0-9]{1,2}){1,2}(?:-preview(?:\.[0-9]{1,2})?)?)\))?"
)
_TOKEN_FAULT = re.compile(r"\b(?:AKV|IDX)[0-9]{4,6}\b")
# A code consists of words, such as ForbiddenByRbac. Other text stays out of messages.
_INNER_CODE = re.compile(r"(?:[A-Z]{1,4}[a-z]{1,14}){1,6}")
# The maximum number of nested errors to read. Key Vault nests one.
MAX_INNER_ERRORS = 3
WRONG_TENANT, WRONG_AUDIENCE, NO_TOKEN = "AKV10032", "AKV10022", "AKV10000"
# Codes of tokens after their end, or before their start.
OUTSIDE_TIMES = ("IDX10223", "IDX10222")
# Faults of the token that a new attempt with the same identity cannot cure.
LASTING = (WRONG_TENANT, WRONG_AUDIENCE)
SEARCH_HINT = "search for {} in Microsoft's documentation of Azure Key Vault (REST API error codes)"


class VaultAddress(NamedTuple):
    """One Key Vault: its name, its URL, its cloud, and the version of the REST API."""

    name: str
    url: str
    cloud: str = DEFAULT_CLOUD
    api_version: str = KEY_VAULT_API_VERSION


class VaultRefusal(NamedTuple):
    """An error answer. `text` is the vault's own; it never reaches a message."""

    status: int
    codes: tuple[str, ...] = ()
    """error.code, then those of its inner errors, such as Forbidden and ForbiddenByRbac."""
    text: str = ""
    retry_after: float | None = None
    token: str = ""
    """The token that was refused."""
    lacks_claims: bool = False
    """The vault asked for a token with other claims (continuous access evaluation)."""
    is_page: bool = False
    """The answer is HTML or plain text, which a proxy or gateway sends, and never Key Vault."""

    @classmethod
    def from_error(cls, error: HttpResponseError) -> Self:
        """Read the SDK's error. Fields that the answer lacks, or has in another form, are empty."""
        response: Any = error.response
        errors = list(_nested_errors(response))
        codes = [code for code in _texts(errors, "code") if _INNER_CODE.fullmatch(code)]
        sent = getattr(getattr(response, "request", None), "headers", {})
        received: Mapping[str, str] = getattr(response, "headers", {})
        return cls(
            status=error.status_code or 0,
            codes=tuple(codes),
            text=next(_texts(errors, "message"), ""),
            retry_after=parse_retry_after(received),
            token=sent.get("Authorization", "").partition(" ")[2],
            lacks_claims="insufficient_claims" in received.get("WWW-Authenticate", ""),
            is_page=not codes and _is_page_type(received.get("Content-Type", "")),
        )

    @property
    def token_fault(self) -> str:
        """Return Key Vault's number for the token's fault, such as AKV10032, or an empty text."""
        found = _TOKEN_FAULT.search(self.text) if self.status == 401 else None
        return found[0] if found else ""

    @property
    def is_unknown_api_version(self) -> bool:
        """Return whether the vault does not know the version of the REST API."""
        return self.status == 400 and bool(_UNKNOWN_VERSION.search(self.text))

    @property
    def is_disabled(self) -> bool:
        """Return whether a disabled object was requested."""
        return any(code.endswith("Disabled") for code in self.codes)

    @property
    def is_of_perimeter(self) -> bool:
        """Return whether a network security perimeter refuses the request."""
        return any("nsp" in code.lower() or "perimeter" in code.lower() for code in self.codes)

    @property
    def is_of_network(self) -> bool:
        """Return whether the vault's network rules refuse every request from this cluster."""
        return self.has_code("ForbiddenByFirewall", "ForbiddenByConnection") or self.is_of_perimeter

    def has_code(self, *codes: str) -> bool:
        """Return whether one of these is among the codes."""
        return not set(self.codes).isdisjoint(codes)


def explain_refusal(
    refused: VaultRefusal,
    address: VaultAddress,
    client_id: str,
    source: ObjectClient,
    verb: str,
    vault_object: VaultObject | None,
) -> ProviderError:
    """Return the error of one call.

    It is an `ObjectError` if it concerns only `vault_object`, or without one only the list.
    """
    place = f"Key Vault {address.name}"
    match refused.status:
        case status if vault_object and 200 <= status < 300:
            return unusable_error(address.name, vault_object)
        case status if refused.is_page and 300 <= status < 500 and status not in (408, 429):
            return _page_error(status, place, vault_object)
        case 400:
            return _bad_request(refused, address, vault_object)
        case 401:
            return ProviderError(_unauthorized_error(refused, place, f"identity {client_id}"))
        case 403:
            return _forbidden_error(refused, place, f"identity {client_id}", source, verb, vault_object)
        case 404 if vault_object:
            # The 404 of a gateway says nothing about the object.
            kind = ObjectGone if any(code.endswith("NotFound") for code in refused.codes) else ObjectError
            return kind(
                f"{vault_object.noun} is not in {place}; create or recover it there, or correct objectName, objectType"
                " or objectVersion"
            )
        case 429:
            return throttled_error(address.name, refused.retry_after)
        case status if vault_object and 400 <= status < 500 and status != 408:
            return ObjectError(
                f"{place} does not give {vault_object.noun} (HTTP {status}); correct objectName, objectType or"
                " objectVersion"
            )
        case status:
            text = f"{place} answered with HTTP {status}; the controller tries again by itself"
            return ProviderError(text, retry_after=refused.retry_after)


def unusable_error(vault: str, vault_object: VaultObject) -> ObjectError:
    """Return the error for one object whose answer has a success status and an unreadable body."""
    return ObjectError(
        f"Key Vault {vault} gave no usable answer for {vault_object.noun}; check it with `az keyvault"
        f" {vault_object.noun.split()[0]} show`, and if that works, check the proxy and firewall to the vault"
    )


def throttled_error(vault: str, seconds: float | None) -> ProviderError:
    """Return the error of a call that the vault throttles and that can be sent after that time."""
    return ProviderError(
        f"Key Vault {vault} is throttled: too many calls by all its users; raise rotationPollIntervalInSeconds or"
        " jitterSeconds if it lasts",
        retry_after=seconds,
        retry=Retry.THROTTLED,
    )


def _page_error(status: int, place: str, vault_object: VaultObject | None) -> ProviderError:
    """Return the error for the page of a proxy or gateway. It says nothing about the object or the identity's roles."""
    is_of_request = status == 403 or (vault_object and status >= 400 and status != 401)  # as in `verdict`
    return (ObjectError if is_of_request else ProviderError)(
        f"{place} was not reached: a proxy or gateway answered with HTTP {status} and a page; check the proxy and"
        " firewall to it"
    )


def _bad_request(refused: VaultRefusal, address: VaultAddress, vault_object: VaultObject | None) -> ProviderError:
    place = f"Key Vault {address.name}"
    if unknown := _UNKNOWN_VERSION.search(refused.text):
        offered = unknown["offered"]
        known = f" and knows at most {offered}" if offered else ""
        return ProviderError(
            f"{place} does not know version {address.api_version} of the REST API{known}; set"
            f" clouds.{address.cloud}.apiVersion{f' to {offered!r}' if offered else ''} among the chart's values"
        )
    if vault_object:
        fix = "correct objectVersion or remove it" if vault_object.version else "correct objectName or objectType"
        return ObjectError(f"{place} refuses to read {vault_object.noun}: not a valid request (HTTP 400); {fix}")
    return ProviderError(f"{place} answered with HTTP 400; the controller tries again by itself")


def _unauthorized_error(refused: VaultRefusal, place: str, client: str) -> str:
    fault = refused.token_fault
    if refused.lacks_claims:
        return (
            f"{place} wants another token of {client}, because a policy of its tenant changed or the token was revoked;"
            " the controller gets one by itself, and if it lasts, check the tenant's Conditional Access policies for"
            " workload identities"
        )
    if fault == WRONG_TENANT or not fault:
        tail = f" ({fault})" if fault else ""
        return f"{place} does not accept the token of {client}; check that tenantID is the vault's tenant{tail}"
    if fault == WRONG_AUDIENCE:
        return (
            f"{place} expects tokens for another audience than {client} has; correct cloudName, or the cloud's audience"
            f" in the chart's clouds ({fault})"
        )
    if fault in OUTSIDE_TIMES:
        when = "has expired" if fault == "IDX10223" else "is not valid yet"
        return (
            f"{place} says that the token of {client} {when}; check the clock of the cluster's nodes, the controller"
            f" gets another token by itself ({fault})"
        )
    if fault == NO_TOKEN:
        return (
            f"{place} did not see the token of {client}; check whether a proxy removes the Authorization header"
            f" ({fault})"
        )
    return (
        f"{place} refused the token of {client} for the moment; the controller tries again by itself, and if it lasts,"
        f" {SEARCH_HINT.format(fault)}"
    )


def _forbidden_error(
    refused: VaultRefusal, place: str, client: str, source: ObjectClient, verb: str, vault_object: VaultObject | None
) -> ProviderError:
    noun = vault_object.noun if vault_object else f"the list of {source.plural}"
    if vault_object and refused.is_disabled:
        return source.disabled(vault_object)
    if refused.has_code("ForbiddenByFirewall"):
        return ProviderError(f"{place}'s firewall refuses this cluster; allow its address in the vault's networking")
    if refused.has_code("ForbiddenByConnection"):
        return ProviderError(
            f"{place} has its public access off and was not reached by an approved private link; use a private endpoint"
            " and check its DNS zone (privatelink), or allow public access in the vault's networking"
        )
    if refused.is_of_perimeter:
        return ProviderError(
            f"{place}'s network security perimeter refuses this cluster; add an inbound access rule for its address to"
            " the perimeter's profile"
        )
    if refused.has_code("ForbiddenByPolicy") and "on-behalf-of" in refused.text:
        return ObjectError(
            f"{client} may not read {noun} in {place}: the vault's access policies allow it only together with another"
            " application; add one of the vault's access policies for the identity alone"
        )
    if refused.has_code("AccessDenied", "ForbiddenByPolicy"):  # the vault uses access policies
        right = "Get" if verb == "get" else "List"
        return AccessDenied(
            f"{client} may not read {noun} in {place}; give it the permission {right} for {source.plural} in the"
            " vault's access policies"
        )
    if refused.has_code("ForbiddenByRbac") or len(refused.codes) < 2:
        return AccessDenied(f"{client} may not read {noun} in {place}; assign it the role {source.role} there")
    return ObjectError(
        f"{client} may not read {noun} in {place} ({refused.codes[-1]}); check the identity's roles and the vault's"
        f" networking, or {SEARCH_HINT.format(refused.codes[-1])}"
    )


def _nested_errors(response: Any) -> Iterator[dict[str, Any]]:
    """Yield the error of an answer, then its inner errors, with the names of fields in lower case.

    The SDK reads no error without a code and a message, and no `innerError` in that spelling.
    """
    try:
        body = decode_json(replace_lone_surrogates(response.text().encode()), dict[str, Any])
    except (AzureError, ValueError, LookupError, AttributeError):  # there is no body, or it cannot be read
        return
    found = _lower_names(body)
    inner: Any = found.get("error", found)
    for _ in range(1 + MAX_INNER_ERRORS):
        if not isinstance(inner, dict):
            return
        found = _lower_names(inner)
        yield found
        inner = found.get("innererror")


def _is_page_type(content_type: str) -> bool:
    """Return whether this is a type of pages: HTML, plain text or XML."""
    kind = content_type.lower()
    return (kind.startswith("text/") or "xml" in kind) and "json" not in kind


def _lower_names(fields: dict[str, Any]) -> dict[str, Any]:
    return {name.lower(): value for name, value in fields.items()}


def _texts(errors: list[dict[str, Any]], name: str) -> Iterator[str]:
    return (text for error in errors if isinstance(text := error.get(name), str))
