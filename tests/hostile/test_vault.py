"""A vault: the host that answers to the name of an editor's vault, and answers what it likes."""

import json
import time
from typing import Any

from hypothesis import strategies as st

from tests.hostile.answers import BOMB_MIB, HEADERS, STATUSES, bomb
from tests.hostile.arena import Arena
from tests.hostile.drawing import draw_attacks
from tests.hostile.texts import HOSTILE, JSONS, NUMBERS, TEXTS, mostly
from tests.support.cluster.harness import TENANT

SECONDS = 6.0
CHALLENGE = 'Bearer authorization="https://evil.example/x", resource="https://evil.example"'
YEAR_1 = {"created": -62135596800, "updated": -(10**30)}
TEXT = "".join(HOSTILE)
SLOW = ("drip", "hang")


def value_of(version: str, **fields: Any) -> str:
    """Return a vault's answer for the secret `a` with that version."""
    return json.dumps(
        {"value": "x", "id": f"https://x.vault.azure.net/secrets/a/{version}", "attributes": {}, **fields}
    )


def known_faults(arena: Arena) -> dict[str, dict[str, Any]]:
    """Return what a vault answers, by the attack's name: arguments for the emulator's `fail`."""
    victim = f"{arena.emulator.url}/{arena.neighbours[0].vault}/secrets"
    nested = "[" * 100_000
    return {
        "a compression bomb": {"status": 200, "body": bomb(BOMB_MIB), "headers": {"Content-Encoding": "deflate"}},
        "a bomb as an error": {"status": 400, "body": bomb(BOMB_MIB), "headers": {"Content-Encoding": "deflate"}},
        "100 MB": {"kind": "huge"},
        "drips": {"kind": "drip", "status": 200, "body": value_of("1"), "seconds": 1},
        "hangs": {"kind": "hang", "seconds": 20},
        "a version of 1.5 MB": {"status": 200, "body": value_of("v" * 1_500_000)},
        "a version with escape sequences": {"status": 200, "body": value_of("\x1b[2J\u202e")},
        "a link to the victim's vault": {"status": 200, "body": json.dumps({"value": [], "nextLink": victim})},
        "a redirect to the victim's vault": {"status": 302, "headers": {"Location": f"{victim}/a?api-version=7.4"}},
        "a number of 400 digits": {"status": 200, "body": '{"value":"x","id":' + "4" * 400 + "}"},
        "times of year 1": {"status": 200, "body": value_of("1", attributes=YEAR_1)},
        "deeply nested": {"status": 200, "body": '{"value":"x","tags":' + nested},
        "no UTF-8": {"status": 200, "body": b'{"value":"\xff\xfe\xc3("}'},
        "an error with hostile texts": {"status": 403, "body": json.dumps({"error": {"code": TEXT, "message": TEXT}})},
        "a challenge for another audience": {
            "status": 401,
            "headers": {"WWW-Authenticate": CHALLENGE},
        },
        "Retry-After of 400 digits": {"status": 429, "headers": {"Retry-After": "9" * 400}},
    }  # fmt: skip


def test_known_attacks(arena: Arena) -> None:
    """A vault for each attack, all of them at once; each SecretSync is answered."""
    space = arena.attacked
    faults = known_faults(arena)
    manifests = []
    for number, fault in enumerate(faults.values()):
        vault = f"{space.vault}-{number}"
        arena.emulator.add_vault(vault, TENANT)
        arena.emulator.fail(where=vault, **fault)
        name = f"attack-{number}"
        manifests.append(space.provider_class("a", name=name, keyvaultName=vault))
        manifests.append(space.sync(name, {"k": "a"}, secretProviderClassName=name))

    def attack() -> None:
        space.apply(*manifests)
        time.sleep(SECONDS)

    arena.endure(attack)
    for number, name in enumerate(faults):
        if faults[name].get("kind") in SLOW:
            continue  # a request lasts for half a minute
        message = arena.wait_answer(f"attack-{number}")
        assert len(message) < 2_000, name


ATTRIBUTES = st.dictionaries(
    st.sampled_from(["enabled", "updated", "created", "exp", "nbf"]), NUMBERS | JSONS, max_size=3
)
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "id": mostly("https://x/secrets/a/v1", JSONS | st.builds("https://x/secrets/a/{}".format, TEXTS)),
        "kid": JSONS,
        "value": mostly("x", JSONS),
        "attributes": ATTRIBUTES | JSONS,
        "contentType": mostly("application/x-pkcs12", JSONS),
        "managed": JSONS,
    },
)
ANSWERS = st.one_of(
    ITEMS, JSONS, st.fixed_dictionaries({"value": st.lists(ITEMS, max_size=3) | JSONS}, optional={"nextLink": JSONS})
)
ERRORS = st.fixed_dictionaries(
    {"error": st.fixed_dictionaries({}, optional={"code": TEXTS, "message": TEXTS, "innererror": JSONS}) | JSONS}
)
BODIES = st.one_of(ANSWERS.map(json.dumps), ERRORS.map(json.dumps), TEXTS, st.binary(max_size=60))


def test_drawn_answers(arena: Arena) -> None:
    """One vault that gives another answer to each request, while a SecretSync is forced again and again."""
    space = arena.attacked
    space.set_secret("a", "mine")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "mine"})
    before = space.count_calls()

    def attack(drawn: tuple[int, Any, dict[str, str]]) -> None:
        status, body, headers = drawn
        asked = space.count_calls()
        arena.emulator.clear_faults()
        arena.emulator.fail(status, where=space.vault, body=body, headers=headers)
        arena.force("s")
        until = time.monotonic() + 0.5
        while space.count_calls() == asked and time.monotonic() < until:
            time.sleep(0.02)

    draw_attacks("vault", st.tuples(STATUSES, BODIES, HEADERS), attack)
    assert space.count_calls() > before
    arena.emulator.clear_faults()
    arena.wait_answer("s")
    assert set(space.secret_values("s")) == {"k"}
