"""Test a hostile Entra endpoint. Each token exchange of a new identity gets another response."""

import json
import uuid
from typing import Any

from hypothesis import strategies as st

from tests.hostile.answers import BOMB_MIB, HEADERS, STATUSES, make_bomb
from tests.hostile.attack_harness import AttackHarness
from tests.hostile.drawing import draw_attacks
from tests.hostile.texts import HOSTILE, JSONS, NUMBERS, TEXTS, mostly
from tests.support.cluster.harness import KIND_PATHS, eventually

TEXT = "".join(HOSTILE)
LONG = "AADSTS" + "7" * 2**20


def make_token_response(**fields: Any) -> str:
    """Return Entra's response with a token, with these fields changed."""
    return json.dumps({"token_type": "Bearer", "expires_in": 3599, "access_token": "a.b.c", **fields})


def make_known_faults(harness: AttackHarness) -> dict[str, dict[str, Any]]:
    """Return the attacks by their names, as arguments for the emulator's `fail`."""
    victim = f"{harness.emulator.url}/{harness.neighbours[0].vault}/secrets/a?api-version=7.4"
    return {
        "a token with line breaks": {"status": 200, "body": make_token_response(access_token="a\r\nX-Injected: b")},
        "a token that is not ASCII": {"status": 200, "body": make_token_response(access_token=TEXT)},
        "a token of 1 MB": {"status": 200, "body": make_token_response(access_token="a" * 2**20)},
        "no token": {"status": 200, "body": make_token_response(access_token=None)},
        "a lifetime of 400 digits": {"status": 200, "body": make_token_response().replace("3599", "9" * 400)},
        "a negative lifetime": {"status": 200, "body": make_token_response(expires_in=-1, refresh_in="x")},
        "an error with hostile texts": {"status": 400, "body": json.dumps({"error": TEXT, "error_description": TEXT})},
        "an error of 1 MB": {"status": 400, "body": json.dumps({"error": "x", "error_description": LONG})},
        "a compression bomb": {"status": 200, "body": make_bomb(BOMB_MIB), "headers": {"Content-Encoding": "deflate"}},
        "a redirect to the victim's vault": {"status": 302, "headers": {"Location": victim}},
        "deeply nested": {"status": 200, "body": "[" * 100_000},
        "invalid UTF-8": {"status": 200, "body": b'{"access_token":"\xff\xfe\xc3("}'},
        "Retry-After of 400 digits": {"status": 429, "headers": {"Retry-After": "9" * 400}},
        "drips": {"kind": "drip", "status": 200, "body": make_token_response(), "seconds": 1},
    }  # fmt: skip


def use_new_identity(harness: AttackHarness, name: str) -> None:
    """Create a class and a SecretSync of that name with an identity that has no token yet."""
    space = harness.attacked
    manifest = space.provider_class("a", name=name, clientID=str(uuid.uuid4()))
    path = KIND_PATHS["secretproviderclass"].format(space.name)
    status, text = harness.plane.request("POST", path, manifest)
    assert status == 201, text
    status, text = harness.plane.request(
        "POST", KIND_PATHS["secretsync"].format(space.name), space.sync(name, {"k": "a"}, secretProviderClassName=name)
    )
    assert status == 201, text


def run_exchange(harness: AttackHarness, name: str, /, **fault: Any) -> None:
    """Create a new identity, and wait until an exchange has this fault. It may be a retry for a former identity."""
    harness.emulator.clear_faults()
    harness.emulator.fail(where="entra", **fault)
    before = count_exchanges(harness)
    use_new_identity(harness, name)
    eventually(lambda: count_exchanges(harness), lambda found: found > before, every=0.02)


def count_exchanges(harness: AttackHarness) -> int:
    return sum(count for name, count in harness.emulator.counters().items() if name.startswith("entra/"))


def test_known_attacks_of_entra_harm_no_neighbour(harness: AttackHarness) -> None:
    """Check that neighbours with valid tokens get new values while Entra issues no valid token."""
    faults = make_known_faults(harness)
    foreign_calls = harness.count_foreign_calls()
    waits = []
    for number, fault in enumerate(faults.values()):
        run_exchange(harness, f"entra-{number}", **fault)
        if number % 4 == 3:
            waits += harness.measure_arrivals()
    harness.emulator.clear_faults()
    assert max(waits) < 12, waits
    for number, name in enumerate(faults):
        message = harness.wait_status(f"entra-{number}")
        assert len(message) < 2_000, name
    assert harness.count_foreign_calls() == foreign_calls


TOKENS = st.fixed_dictionaries(
    {"access_token": mostly("a.b.c", JSONS)},
    optional={
        "expires_in": NUMBERS | JSONS,
        "token_type": JSONS,
        "refresh_in": JSONS,
        "ext_expires_in": NUMBERS,
        "claims": JSONS,
    },
)
ERRORS = st.fixed_dictionaries(
    {"error": mostly("invalid_client", JSONS)},
    optional={"error_description": TEXTS, "error_codes": JSONS, "suberror": JSONS, "claims": JSONS},
)
BODIES = st.one_of(TOKENS.map(json.dumps), ERRORS.map(json.dumps), JSONS.map(json.dumps), TEXTS, st.binary(max_size=60))


def test_drawn_responses_of_entra_harm_no_neighbour(harness: AttackHarness) -> None:
    names: list[str] = []

    def attack(drawn: tuple[int, Any, dict[str, str]]) -> None:
        status, body, headers = drawn
        names.append(f"drawn-{len(names)}")
        run_exchange(harness, names[-1], status=status, body=body, headers=headers)

    draw_attacks("entra", st.tuples(STATUSES, BODIES, HEADERS), attack)
    for name in names:
        harness.wait_status(name)
