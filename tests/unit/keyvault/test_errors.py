"""Test the explanations of a vault's errors: which parts of an answer are used, and each message."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from azure.core.exceptions import AzureError, HttpResponseError

from controller.domain.provider_class import VaultObject
from controller.errors import AccessDenied, ObjectError, ObjectGone, ProviderError, Retry
from controller.keyvault.errors import VaultAddress, VaultRefusal, explain_refusal, throttled_error, unusable_error
from controller.keyvault.objects import ObjectClient

ADDRESS = VaultAddress("shop", "https://shop", "MyCloud", "2025-07-01")
USER, VERSIONED = VaultObject(name="user"), VaultObject(name="user", version="v1")
SECRETS = cast(
    "ObjectClient",
    SimpleNamespace(
        plural="secrets", role="Secrets User", disabled=lambda item: ObjectGone(f"{item.noun} is disabled")
    ),
)
UNKNOWN_VERSION = "The specified version (2025-07-01) is not recognized"
NEWEST = ". Consider using the latest supported version (7.4)"
AGAIN = "; the controller tries again by itself"
SEARCH = "search for {} in Microsoft's documentation of Azure Key Vault (REST API error codes)"
DOES_NOT_ACCEPT = (
    "Key Vault shop does not accept the token of identity client; check that tenantID is the vault's tenant"
)


# Fields that are read from an answer


def make_http_error(body: object, status: int | None = 403, **fields: Any) -> HttpResponseError:
    """Return the SDK's error for an answer."""
    error = HttpResponseError("x")
    error.status_code = status
    text = body if isinstance(body, str) else json.dumps(body)
    error.response = SimpleNamespace(text=lambda: text, **fields)
    return error


def nest_codes(*codes: str) -> dict[str, Any]:
    """Return an error whose codes are nested in each other."""
    found: dict[str, Any] = {}
    for code in reversed(codes):
        found = {"code": code, "message": f"about {code}", "innererror": found}
    return {"error": found}


def test_refusal_has_the_fields_of_the_answer() -> None:
    error = make_http_error(
        nest_codes("Forbidden", "ForbiddenByRbac"),
        403,
        headers={"Retry-After": "7", "WWW-Authenticate": 'Bearer error="insufficient_claims"'},
        request=SimpleNamespace(headers={"Authorization": "Bearer the token"}),
    )
    assert VaultRefusal.from_error(error) == VaultRefusal(
        status=403,
        codes=("Forbidden", "ForbiddenByRbac"),
        text="about Forbidden",
        retry_after=7,
        token="the token",
        lacks_claims=True,
    )


@pytest.mark.parametrize(
    "error",
    [
        HttpResponseError("x"),
        make_http_error("", None),
        make_http_error("null", None, headers={}, request=SimpleNamespace(headers={})),
        make_http_error({"error": 5}, None, headers={"WWW-Authenticate": "Bearer"}, request=SimpleNamespace()),
        make_http_error({"error": {"code": 5, "message": None, "innererror": "x"}}, None, request=None),
    ],
)
def test_refusal_without_fields_is_empty(error: HttpResponseError) -> None:
    assert VaultRefusal.from_error(error) == VaultRefusal(
        status=0, codes=(), text="", retry_after=None, token="", lacks_claims=False
    )


def test_fields_of_a_refusal_are_empty_by_default() -> None:
    refusal = VaultRefusal(0)
    assert refusal == VaultRefusal(0, (), "", None, "", lacks_claims=False, is_page=False)
    assert (refusal.text, refusal.retry_after, refusal.token) == ("", None, "")


@pytest.mark.parametrize(
    ("content_type", "body", "is_page"),
    [
        ("text/html", "<html>", True),
        ("Text/HTML; charset=utf-8", "", True),
        ("application/xhtml+xml", "<html>", True),
        ("text/html", nest_codes("Forbidden"), False),
        ("text/plain", "RBAC: access denied", True),  # Envoy
        ("text/plain; charset=utf-8", "Action: Deny. Reason: No rule matched.", True),  # Azure Firewall, HTTP 470
        ("application/xml", "<Error/>", True),
        ("text/plain", nest_codes("Forbidden"), False),
        ("application/json; charset=utf-8", "", False),
        ("application/problem+json", {"title": "Forbidden"}, False),
        ("text/json", "", False),
        ("application/octet-stream", "", False),
        ("", "<html>", False),  # a challenge of Key Vault can lack a body and its type
    ],
)
def test_page_of_a_proxy_is_found_by_its_type(content_type: str, body: object, is_page: bool) -> None:
    error = make_http_error(body, headers={"Content-Type": content_type} if content_type else {})
    assert VaultRefusal.from_error(error).is_page is is_page


@pytest.mark.parametrize("failure", [AzureError("x"), ValueError("x"), LookupError("x"), AttributeError("x")])
def test_body_that_cannot_be_read_has_no_codes(failure: Exception) -> None:
    def fail() -> str:
        raise failure

    error = make_http_error("", 403)
    error.response = SimpleNamespace(text=fail)
    assert VaultRefusal.from_error(error).codes == ()


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        (nest_codes("One", "Two", "Three", "Four"), ("One", "Two", "Three", "Four")),
        (nest_codes("One", "Two", "Three", "Four", "Five"), ("One", "Two", "Three", "Four")),
        (nest_codes("Forbidden", "not a code", "ForbiddenByRbac"), ("Forbidden", "ForbiddenByRbac")),
        ({"Code": "Forbidden", "InnerError": {"CODE": "ForbiddenByRbac"}}, ("Forbidden", "ForbiddenByRbac")),
    ],
)
def test_codes_of_an_error_and_of_three_inner_errors_are_read(body: object, codes: tuple[str, ...]) -> None:
    assert VaultRefusal.from_error(make_http_error(body)).codes == codes


@pytest.mark.parametrize(
    ("refused", "fault"),
    [
        (VaultRefusal(401, text="AKV10032: x"), "AKV10032"),
        (VaultRefusal(401, text="x IDX10223 y"), "IDX10223"),
        (VaultRefusal(401, text="x"), ""),
        (VaultRefusal(400, text="AKV10032: x"), ""),
        (VaultRefusal(402, text="AKV10032: x"), ""),
        (VaultRefusal(403, text="AKV10032: x"), ""),
    ],
)
def test_fault_of_a_token_is_read_from_a_401(refused: VaultRefusal, fault: str) -> None:
    assert refused.token_fault == fault


@pytest.mark.parametrize(
    ("refused", "unknown"),
    [
        (VaultRefusal(400, text=UNKNOWN_VERSION), True),
        (VaultRefusal(400, text="x"), False),
        (VaultRefusal(399, text=UNKNOWN_VERSION), False),
        (VaultRefusal(401, text=UNKNOWN_VERSION), False),
    ],
)
def test_unknown_api_version_is_a_400(refused: VaultRefusal, unknown: bool) -> None:
    assert refused.is_unknown_api_version is unknown


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((), set()),
        (("Forbidden",), set()),
        (("Forbidden", "SecretDisabled"), {"is_disabled"}),
        (("Forbidden", "ForbiddenByNsp"), {"is_of_perimeter", "is_of_network"}),
        (("Forbidden", "PerimeterRule"), {"is_of_perimeter", "is_of_network"}),
        (("Forbidden", "ForbiddenByFirewall"), {"is_of_network"}),
        (("Forbidden", "ForbiddenByConnection"), {"is_of_network"}),
        (("Forbidden", "ForbiddenByRbac"), set()),
    ],
)
def test_codes_of_a_refusal_show_its_subject(codes: tuple[str, ...], expected: set[str]) -> None:
    refused = VaultRefusal(403, codes)
    found = {name for name in ("is_disabled", "is_of_perimeter", "is_of_network") if getattr(refused, name)}
    assert found == expected
    assert all(getattr(refused, name) in (True, False) for name in ("is_disabled", "is_of_perimeter", "is_of_network"))


# Messages


def format_gateway_message(status: int) -> str:
    return f"Key Vault shop answered with HTTP {status}{AGAIN}"


def format_not_given_message(status: int) -> str:
    return f"Key Vault shop does not give secret user (HTTP {status}); correct objectName, objectType or objectVersion"


MISSING = (
    "secret user is not in Key Vault shop; create or recover it there, or correct objectName, objectType or"
    " objectVersion"
)


def format_page_message(status: int) -> str:
    return (
        f"Key Vault shop was not reached: a proxy or gateway answered with HTTP {status} and a page; check the proxy"
        " and firewall to it"
    )


NO_ANSWER = (
    "Key Vault shop gave no usable answer for secret user; check it with `az keyvault secret show`, and if that works,"
    " check the proxy and firewall to the vault"
)


@pytest.mark.parametrize(
    ("refused", "vault_object", "kind", "message"),
    [
        *((VaultRefusal(status), USER, ObjectError, NO_ANSWER) for status in (200, 204, 299)),
        *(
            (VaultRefusal(status), USER, ProviderError, format_gateway_message(status))
            for status in (0, 199, 300, 301, 399)
        ),
        *(
            (VaultRefusal(status), None, ProviderError, format_gateway_message(status))
            for status in (200, 299, 404, 409, 499)
        ),
        *((VaultRefusal(status), USER, ProviderError, format_gateway_message(status)) for status in (408, 500, 503)),
        *(
            (VaultRefusal(status), USER, ObjectError, format_not_given_message(status))
            for status in (402, 407, 409, 428, 430, 499)
        ),
        # A page of a proxy or gateway
        *(
            (VaultRefusal(status, is_page=True), USER, ObjectError, format_page_message(status))
            for status in (400, 403, 404, 407, 451, 499)
        ),
        *(
            (VaultRefusal(status, is_page=True), USER, ProviderError, format_page_message(status))
            for status in (300, 302, 399, 401)
        ),
        *(
            (VaultRefusal(status, is_page=True), None, ProviderError, format_page_message(status))
            for status in (302, 400, 401, 404, 499)
        ),
        (VaultRefusal(403, is_page=True), None, ObjectError, format_page_message(403)),
        *(
            (VaultRefusal(status, is_page=True), USER, ProviderError, format_gateway_message(status))
            for status in (408, 500, 502)
        ),
        (VaultRefusal(200, is_page=True), USER, ObjectError, NO_ANSWER),
        (VaultRefusal(404), USER, ObjectError, MISSING),
        (VaultRefusal(404, ("ResourceGroup",)), USER, ObjectError, MISSING),
        (VaultRefusal(404, ("SecretNotFound",)), USER, ObjectGone, MISSING),
        (VaultRefusal(404, ("NotFound", "x")), USER, ObjectGone, MISSING),
        # 400
        (VaultRefusal(400), None, ProviderError, format_gateway_message(400)),
        (
            VaultRefusal(400),
            USER,
            ObjectError,
            "Key Vault shop refuses to read secret user: not a valid request (HTTP 400); correct objectName or"
            " objectType",
        ),
        (
            VaultRefusal(400),
            VERSIONED,
            ObjectError,
            "Key Vault shop refuses to read secret user: not a valid request (HTTP 400); correct objectVersion or"
            " remove it",
        ),
        *(
            (
                VaultRefusal(400, text=UNKNOWN_VERSION),
                item,
                ProviderError,
                "Key Vault shop does not know version 2025-07-01 of the REST API; set clouds.MyCloud.apiVersion among"
                " the chart's values",
            )
            for item in (None, USER)
        ),
        (
            VaultRefusal(400, text=UNKNOWN_VERSION + NEWEST),
            USER,
            ProviderError,
            "Key Vault shop does not know version 2025-07-01 of the REST API and knows at most 7.4; set"
            " clouds.MyCloud.apiVersion to '7.4' among the chart's values",
        ),
        # 401
        (VaultRefusal(401), USER, ProviderError, DOES_NOT_ACCEPT),
        (VaultRefusal(401, text="AKV10032"), USER, ProviderError, f"{DOES_NOT_ACCEPT} (AKV10032)"),
        *(
            (
                VaultRefusal(401, text=text, lacks_claims=True),
                None,
                ProviderError,
                "Key Vault shop wants another token of identity client, because a policy of its tenant changed or the"
                " token was revoked; the controller gets one by itself, and if it lasts, check the tenant's Conditional"
                " Access policies for workload identities",
            )
            for text in ("", "AKV10032")
        ),
        (
            VaultRefusal(401, text="AKV10022"),
            None,
            ProviderError,
            "Key Vault shop expects tokens for another audience than identity client has; correct cloudName, or the"
            " cloud's audience in the chart's clouds (AKV10022)",
        ),
        *(
            (
                VaultRefusal(401, text=fault),
                None,
                ProviderError,
                f"Key Vault shop says that the token of identity client {when}; check the clock of the cluster's nodes,"
                f" the controller gets another token by itself ({fault})",
            )
            for fault, when in (("IDX10223", "has expired"), ("IDX10222", "is not valid yet"))
        ),
        (
            VaultRefusal(401, text="AKV10000"),
            None,
            ProviderError,
            "Key Vault shop did not see the token of identity client; check whether a proxy removes the Authorization"
            " header (AKV10000)",
        ),
        (
            VaultRefusal(401, text="AKV10046"),
            None,
            ProviderError,
            f"Key Vault shop refused the token of identity client for the moment{AGAIN}, and if it lasts,"
            f" {SEARCH.format('AKV10046')}",
        ),
        # 403
        (VaultRefusal(403, ("Forbidden", "SecretDisabled")), USER, ObjectGone, "secret user is disabled"),
        (
            VaultRefusal(403, ("Forbidden", "SecretDisabled")),
            None,
            ObjectError,
            "identity client may not read the list of secrets in Key Vault shop (SecretDisabled); check the identity's"
            f" roles and the vault's networking, or {SEARCH.format('SecretDisabled')}",
        ),
        (
            VaultRefusal(403, ("Forbidden", "ForbiddenByFirewall")),
            USER,
            ProviderError,
            "Key Vault shop's firewall refuses this cluster; allow its address in the vault's networking",
        ),
        (
            VaultRefusal(403, ("Forbidden", "ForbiddenByConnection")),
            USER,
            ProviderError,
            "Key Vault shop has its public access off and was not reached by an approved private link; use a private"
            " endpoint and check its DNS zone (privatelink), or allow public access in the vault's networking",
        ),
        (
            VaultRefusal(403, ("Forbidden", "ForbiddenByNsp")),
            USER,
            ProviderError,
            "Key Vault shop's network security perimeter refuses this cluster; add an inbound access rule for its"
            " address to the perimeter's profile",
        ),
        (
            VaultRefusal(403, ("Forbidden", "ForbiddenByPolicy"), "on-behalf-of x"),
            USER,
            ObjectError,
            "identity client may not read secret user in Key Vault shop: the vault's access policies allow it only"
            " together with another application; add one of the vault's access policies for the identity alone",
        ),
        *(
            (
                VaultRefusal(403, ("Forbidden", code), text),
                USER,
                AccessDenied,
                "identity client may not read secret user in Key Vault shop; give it the permission Get for secrets in"
                " the vault's access policies",
            )
            for code, text in (("AccessDenied", ""), ("AccessDenied", "on-behalf-of x"), ("ForbiddenByPolicy", ""))
        ),
        *(
            (
                VaultRefusal(403, codes),
                USER,
                AccessDenied,
                "identity client may not read secret user in Key Vault shop; assign it the role Secrets User there",
            )
            for codes in ((), ("Forbidden",), ("Forbidden", "ForbiddenByRbac"), ("Forbidden", "ForbiddenByRbac", "Xy"))
        ),
        (
            VaultRefusal(403, ("Forbidden",)),
            None,
            AccessDenied,
            "identity client may not read the list of secrets in Key Vault shop; assign it the role Secrets User there",
        ),
        *(
            (
                VaultRefusal(403, codes),
                USER,
                ObjectError,
                f"identity client may not read secret user in Key Vault shop ({codes[-1]}); check the identity's roles"
                f" and the vault's networking, or {SEARCH.format(codes[-1])}",
            )
            for codes in (("Forbidden", "Odd"), ("Forbidden", "Odd", "Odder"))
        ),
    ],
)
def test_refusal_is_explained_with_the_next_step(
    refused: VaultRefusal, vault_object: VaultObject | None, kind: type[ProviderError], message: str
) -> None:
    error = explain_refusal(refused, ADDRESS, "client", SECRETS, "get", vault_object)
    assert (type(error), error.message) == (kind, message)


@pytest.mark.parametrize("verb", ["list", "list_versions"])
def test_denied_list_needs_the_permission_to_list(verb: str) -> None:
    error = explain_refusal(VaultRefusal(403, ("Forbidden", "AccessDenied")), ADDRESS, "client", SECRETS, verb, None)
    assert error.message == (
        "identity client may not read the list of secrets in Key Vault shop; give it the permission List for secrets in"
        " the vault's access policies"
    )


@pytest.mark.parametrize(("seconds", "vault_object"), [(7.0, None), (7.0, USER), (None, USER)])
def test_429_is_a_throttled_vault(seconds: float | None, vault_object: VaultObject | None) -> None:
    refused = VaultRefusal(429, retry_after=seconds, is_page=vault_object is not None)
    error = explain_refusal(refused, ADDRESS, "client", SECRETS, "get", vault_object)
    assert (type(error), error.message, error.retry_after, error.retry) == (
        ProviderError,
        "Key Vault shop is throttled: too many calls by all its users; raise rotationPollIntervalInSeconds or"
        " jitterSeconds if it lasts",
        seconds,
        Retry.THROTTLED,
    )
    assert throttled_error("shop", seconds).message == error.message


@pytest.mark.parametrize("seconds", [9.0, None])
def test_failure_of_a_vault_keeps_its_retry_after(seconds: float | None) -> None:
    error = explain_refusal(VaultRefusal(503, retry_after=seconds), ADDRESS, "client", SECRETS, "get", USER)
    assert (error.retry_after, error.retry) == (seconds, Retry.BACKOFF)


def test_unusable_object_is_shown_with_the_command_of_its_kind() -> None:
    error = unusable_error("shop", VaultObject(name="web", type="cert"))
    assert error.message == (
        "Key Vault shop gave no usable answer for certificate web; check it with `az keyvault certificate show`, and"
        " if that works, check the proxy and firewall to the vault"
    )
