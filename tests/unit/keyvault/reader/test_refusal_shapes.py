"""Test that the codes of a refusal are found in each shape and spelling of Azure's errors."""

from typing import Any

import pytest

from controller.errors import AccessDenied, ControllerError, ProviderError
from tests.support.scripted_api_server import ScriptedResponse
from tests.unit.keyvault.reader.reader_harness import CANARY, JSON, ReaderHarness

FIREWALL = {"code": "ForbiddenByFirewall"}
DISABLED = {"code": "SecretDisabled"}
SHAPES: list[Any] = [
    pytest.param({"error": {"code": "Forbidden", "message": CANARY, "innererror": FIREWALL}}, id="documented"),
    pytest.param({"error": {"code": "Forbidden", "message": CANARY, "innerError": FIREWALL}}, id="capital E"),
    pytest.param({"error": {"code": "Forbidden", "innerError": {"Code": "ForbiddenByFirewall"}}}, id="capital C"),
    pytest.param({"Error": {"Code": "Forbidden", "InnerError": FIREWALL}}, id="Pascal case"),
    pytest.param({"error": {"innererror": FIREWALL}}, id="no code"),
    pytest.param({"error": {"innerError": FIREWALL}}, id="no code and capital E"),
    pytest.param({"error": {"code": None, "message": None, "innererror": FIREWALL}}, id="null"),
    pytest.param({"error": {"code": "Forbidden", "innererror": {"innererror": FIREWALL}}}, id="two levels"),
    pytest.param({"error": {"code": "Forbidden", "innerError": {"x": 1, "InnerError": FIREWALL}}}, id="mixed levels"),
    pytest.param({"code": "Forbidden", "innererror": FIREWALL}, id="no error"),
    pytest.param({"error": FIREWALL}, id="outer code alone"),
    pytest.param(
        b'{"error":{"code":"Forbidden","message":"\\ud800","innererror":{"code":"ForbiddenByFirewall"}}}',
        id="lone surrogate",
    ),
    pytest.param(
        b'{"error":{"code":"Forbidden","deep":%b%b,"innererror":{"code":"ForbiddenByFirewall"}}}'
        % (b"[" * 5000, b"]" * 5000),
        id="deep neighbour",
    ),
]


@pytest.mark.parametrize("body", SHAPES)
async def test_firewall_is_found_in_every_shape(harness: ReaderHarness, body: object) -> None:
    harness.answers["/secrets/user/"] = harness.answers["/secrets/user"] = ScriptedResponse(
        body, status=403, headers=JSON
    )
    error = await harness.read_error()
    assert "firewall refuses this cluster" in error.message
    assert CANARY not in error.message


@pytest.mark.parametrize(
    ("body", "status", "kind", "words"),
    [
        ({"error": {"code": "Forbidden", "innerError": DISABLED}}, 403, ControllerError, "secret user is disabled"),
        ({"Error": {"Message": "AKV10032: Invalid issuer."}}, 401, ProviderError, "(AKV10032)"),
        ({"error": {"innererror": {"message": "AKV10022: x"}}}, 401, ProviderError, "(AKV10022)"),
        (
            {"Message": "The specified version (7.4) is not recognized."},
            400,
            ProviderError,
            "does not know version 7.4",
        ),
        ({"error": {"innererror": [FIREWALL]}}, 403, AccessDenied, "assign it the role"),
        ({"error": "ForbiddenByFirewall"}, 403, AccessDenied, "assign it the role"),
        (b'[{"error":{"code":"ForbiddenByFirewall"}}]', 403, AccessDenied, "assign it the role"),
        (b"\xff\xfe{", 403, AccessDenied, "assign it the role"),
    ],
)
async def test_refusal_is_explained_by_its_shape(
    harness: ReaderHarness, body: object, status: int, kind: type[ControllerError], words: str
) -> None:
    answer = ScriptedResponse(body, status=status, headers=JSON)
    harness.answers["/secrets/user/"] = harness.answers["/secrets/user"] = answer
    error = await harness.read_error()
    assert isinstance(error, kind)
    assert words in error.message


@pytest.mark.parametrize("text", ["", "AKV10000: Request is missing a Bearer or PoP token.", "AKV10046: x"])
async def test_lasting_claims_challenge_names_conditional_access(harness: ReaderHarness, text: str) -> None:
    challenge = 'Bearer realm="", authorization_uri="https://login/t", error="insufficient_claims", claims="e30="'
    answer = ScriptedResponse(
        {"error": {"code": "Unauthorized", "message": text}}, status=401, headers=JSON | {"WWW-Authenticate": challenge}
    )
    harness.answers["/secrets/user/"] = harness.answers["/secrets/user"] = answer
    error = await harness.read_error()
    assert "Conditional Access" in error.message
    assert "Authorization header" not in error.message
