"""An Entra endpoint that answers what it likes: each exchange of a new identity gets another answer."""

import json
import time
import uuid
from typing import Any

from hypothesis import strategies as st

from tests.hostile.answers import BOMB_MIB, HEADERS, STATUSES, bomb
from tests.hostile.arena import Arena
from tests.hostile.drawing import draw_attacks
from tests.hostile.texts import HOSTILE, JSONS, NUMBERS, TEXTS, mostly
from tests.support.cluster.harness import KIND_PATHS

TEXT = "".join(HOSTILE)
LONG = "AADSTS" + "7" * 2**20


def token(**fields: Any) -> str:
    """Return Entra's answer with a token, but for these fields."""
    return json.dumps({"token_type": "Bearer", "expires_in": 3599, "access_token": "a.b.c", **fields})


def known_faults(arena: Arena) -> dict[str, dict[str, Any]]:
    """Return what Entra answers, by the attack's name: arguments for the emulator's `fail`."""
    victim = f"{arena.emulator.url}/{arena.neighbours[0].vault}/secrets/a?api-version=7.4"
    return {
        "a token with line breaks": {"status": 200, "body": token(access_token="a\r\nX-Injected: b")},
        "a token that is no ASCII": {"status": 200, "body": token(access_token=TEXT)},
        "a token of 1 MB": {"status": 200, "body": token(access_token="a" * 2**20)},
        "no token": {"status": 200, "body": token(access_token=None)},
        "a lifetime of 400 digits": {"status": 200, "body": token().replace("3599", "9" * 400)},
        "a negative lifetime": {"status": 200, "body": token(expires_in=-1, refresh_in="x")},
        "an error with hostile texts": {"status": 400, "body": json.dumps({"error": TEXT, "error_description": TEXT})},
        "an error of 1 MB": {"status": 400, "body": json.dumps({"error": "x", "error_description": LONG})},
        "a compression bomb": {"status": 200, "body": bomb(BOMB_MIB), "headers": {"Content-Encoding": "deflate"}},
        "a redirect to the victim's vault": {"status": 302, "headers": {"Location": victim}},
        "deeply nested": {"status": 200, "body": "[" * 100_000},
        "no UTF-8": {"status": 200, "body": b'{"access_token":"\xff\xfe\xc3("}'},
        "Retry-After of 400 digits": {"status": 429, "headers": {"Retry-After": "9" * 400}},
        "drips": {"kind": "drip", "status": 200, "body": token(), "seconds": 1},
    }  # fmt: skip


def new_identity(arena: Arena, name: str) -> None:
    """Have the SecretSync of that name use an identity that has no token yet."""
    space = arena.attacked
    manifest = space.provider_class("a", name=name, clientID=str(uuid.uuid4()))
    path = KIND_PATHS["secretproviderclass"].format(space.name)
    status, text = arena.plane.request("POST", path, manifest)
    assert status == 201, text
    status, text = arena.plane.request(
        "POST", KIND_PATHS["secretsync"].format(space.name), space.sync(name, {"k": "a"}, secretProviderClassName=name)
    )
    assert status == 201, text


def exchange(arena: Arena, name: str, patience: float, /, **fault: Any) -> None:
    """Let one exchange meet that answer."""
    asked = exchanges(arena)
    arena.emulator.clear_faults()
    arena.emulator.fail(where="entra", **fault)
    new_identity(arena, name)
    until = time.monotonic() + patience
    while exchanges(arena) == asked and time.monotonic() < until:
        time.sleep(0.02)


def exchanges(arena: Arena) -> int:
    return sum(count for what, count in arena.emulator.counters().items() if what.startswith("entra/"))


def test_known_attacks(arena: Arena) -> None:
    """Neighbours, whose tokens are still valid, get their values while no new token is to be had."""
    faults = known_faults(arena)
    waits = []
    for number, fault in enumerate(faults.values()):
        exchange(arena, f"entra-{number}", 3, **fault)
        if number % 4 == 3:
            waits += arena.arrivals()
    arena.emulator.clear_faults()
    assert max(waits) < 12, waits
    for number, name in enumerate(faults):
        message = arena.wait_answer(f"entra-{number}")
        assert len(message) < 2_000, name


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


def test_drawn_answers(arena: Arena) -> None:
    before = exchanges(arena)
    names: list[str] = []

    def attack(drawn: tuple[int, Any, dict[str, str]]) -> None:
        status, body, headers = drawn
        names.append(f"drawn-{len(names)}")
        exchange(arena, names[-1], 0.5, status=status, body=body, headers=headers)

    draw_attacks("entra", st.tuples(STATUSES, BODIES, HEADERS), attack)
    assert exchanges(arena) > before
    for name in names:
        arena.wait_answer(name)
