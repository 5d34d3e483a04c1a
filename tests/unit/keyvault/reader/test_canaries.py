"""Test that no text of a vault, in any form, reaches an error message."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from controller.domain.provider_class import ObjectVersionRef, VaultObject
from controller.runtime.circuit_breaker import OPEN_SECONDS
from tests.support.canaries import CANARY, SOME_FORMS, find_forms
from tests.support.scripted_api_server import ScriptedResponse
from tests.unit.keyvault.reader.reader_harness import JSON, SIGN, USER, WEB, ReaderHarness

HISTORY = ObjectVersionRef(VaultObject(name="user", history=3))
PATHS = {
    USER: ("/secrets/user", "/secrets/user/"),
    WEB: ("/certificates/web", "/certificates/web/"),
    SIGN: ("/keys/sign", "/keys/sign/"),
    HISTORY: ("/secrets/user/versions",),
}
UNKNOWN_VERSION = "The specified version (7.4) is not recognized. Consider using the latest supported version ({})"


def list_error_bodies(quoted: str) -> Iterator[Any]:
    """Yield error bodies with `quoted` in every place."""
    yield {"error": {"code": quoted, "message": quoted, "innererror": {"code": quoted, "innererror": {"code": quoted}}}}
    yield {"error": {"code": "Forbidden", "message": quoted, "innererror": {"code": quoted}}}
    yield {"error": {"code": "Unauthorized", "message": f"AKV10046: {quoted}"}}
    yield {"error": {"code": "BadParameter", "message": UNKNOWN_VERSION.format(quoted)}}
    yield {"error": quoted}
    yield quoted


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409, 413, 429, 500, 503])
@pytest.mark.parametrize("wanted", PATHS, ids=["secret", "certificate", "key", "history"])
async def test_no_error_body_reaches_a_message(harness: ReaderHarness, wanted: ObjectVersionRef, status: int) -> None:
    for form in SOME_FORMS:
        quoted = form(CANARY)
        header = quoted.replace("\n", " ")
        headers = JSON | {"WWW-Authenticate": f'Bearer authorization="https://{header}/{header}"', "Retry-After": "1"}
        for body in list_error_bodies(quoted):
            harness.now += 2 * OPEN_SECONDS
            answer = ScriptedResponse(json.dumps(body).encode(), status=status, headers=headers)
            harness.answers |= dict.fromkeys(PATHS[wanted], answer)
            assert not find_forms((await harness.read_error(wanted)).message)


async def test_no_invalid_success_body_reaches_a_message(harness: ReaderHarness) -> None:
    for form in SOME_FORMS:
        quoted = form(CANARY)
        for body in (
            {"id": quoted, "value": quoted},
            {"id": f"https://x/secrets/user/{quoted}", "value": 5},
            {"key": {"kid": "https://x/keys/sign/v1", "kty": quoted, "crv": quoted, "key_ops": [quoted]}},
            {"key": {"kid": "https://x/keys/sign/v1", "kty": "EC", "crv": quoted, "x": "AQ", "y": "AQ"}},
            {"cer": quoted, "id": quoted, "policy": {"id": quoted}},
            quoted,
        ):
            for wanted in (USER, WEB, SIGN):
                harness.now += 2 * OPEN_SECONDS
                harness.answers |= dict.fromkeys(
                    PATHS[wanted], ScriptedResponse(json.dumps(body).encode(), headers=JSON)
                )
                assert not find_forms((await harness.read_error(wanted)).message)
