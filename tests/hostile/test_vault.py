"""Test a hostile server under the name of an editor's vault."""

import json
import time
from typing import Any

from hypothesis import strategies as st

from tests.hostile.answers import BOMB_MIB, HEADERS, STATUSES, make_bomb
from tests.hostile.attack_harness import AttackHarness
from tests.hostile.drawing import draw_attacks
from tests.hostile.texts import HOSTILE, JSONS, NUMBERS, TEXTS, mostly
from tests.support.cluster.harness import TENANT, eventually

SECONDS = 6.0
CHALLENGE = 'Bearer authorization="https://evil.example/x", resource="https://evil.example"'
YEAR_1 = {"created": -62135596800, "updated": -(10**30)}
TEXT = "".join(HOSTILE)
SLOW = ("drip", "hang")


def make_value_response(version: str, **fields: Any) -> str:
    """Return a vault's response for this version of the secret `a`."""
    return json.dumps(
        {"value": "x", "id": f"https://x.vault.azure.net/secrets/a/{version}", "attributes": {}, **fields}
    )


def make_known_faults(harness: AttackHarness) -> dict[str, dict[str, Any]]:
    """Return the attacks by their names, as arguments for the emulator's `fail`."""
    victim = f"{harness.emulator.url}/{harness.neighbours[0].vault}/secrets"
    nested = "[" * 100_000
    return {
        "a compression bomb": {"status": 200, "body": make_bomb(BOMB_MIB), "headers": {"Content-Encoding": "deflate"}},
        "a bomb as an error": {"status": 400, "body": make_bomb(BOMB_MIB), "headers": {"Content-Encoding": "deflate"}},
        "100 MB": {"kind": "huge"},
        "drips": {"kind": "drip", "status": 200, "body": make_value_response("1"), "seconds": 1},
        "hangs": {"kind": "hang", "seconds": 20},
        "a version of 1.5 MB": {"status": 200, "body": make_value_response("v" * 1_500_000)},
        "a version with escape sequences": {"status": 200, "body": make_value_response("\x1b[2J\u202e")},
        "a link to the victim's vault": {"status": 200, "body": json.dumps({"value": [], "nextLink": victim})},
        "a redirect to the victim's vault": {"status": 302, "headers": {"Location": f"{victim}/a?api-version=7.4"}},
        "a number of 400 digits": {"status": 200, "body": '{"value":"x","id":' + "4" * 400 + "}"},
        "times of year 1": {"status": 200, "body": make_value_response("1", attributes=YEAR_1)},
        "deeply nested": {"status": 200, "body": '{"value":"x","tags":' + nested},
        "invalid UTF-8": {"status": 200, "body": b'{"value":"\xff\xfe\xc3("}'},
        "an error with hostile texts": {"status": 403, "body": json.dumps({"error": {"code": TEXT, "message": TEXT}})},
        "a challenge for another audience": {
            "status": 401,
            "headers": {"WWW-Authenticate": CHALLENGE},
        },
        "Retry-After of 400 digits": {"status": 429, "headers": {"Retry-After": "9" * 400}},
    }  # fmt: skip


def test_known_attacks_of_a_vault_harm_no_neighbour(harness: AttackHarness) -> None:
    """Run each attack with its own vault, all of them together. Each SecretSync gets a status."""
    space = harness.attacked
    foreign_calls = harness.count_foreign_calls()
    faults = make_known_faults(harness)
    manifests = []
    for number, fault in enumerate(faults.values()):
        vault = f"{space.vault}-{number}"
        harness.emulator.add_vault(vault, TENANT)
        harness.emulator.fail(where=vault, **fault)
        name = f"attack-{number}"
        manifests.append(space.provider_class("a", name=name, keyvaultName=vault))
        manifests.append(space.sync(name, {"k": "a"}, secretProviderClassName=name))

    def attack() -> None:
        space.apply(*manifests)
        time.sleep(SECONDS)

    harness.run_beside_neighbours(attack)
    for number, name in enumerate(faults):
        if faults[name].get("kind") in SLOW:
            continue  # a request lasts for half a minute
        message = harness.wait_status(f"attack-{number}")
        assert len(message) < 2_000, name
    assert {f"{space.vault}-{number}" for number in range(len(faults))} <= harness.list_called_vaults()
    assert harness.count_foreign_calls() == foreign_calls


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


def test_drawn_responses_of_a_vault_harm_no_neighbour(harness: AttackHarness) -> None:
    """Give each response to a new vault, and some of them to a SecretSync that has a value already.

    A new vault is necessary, because after most hostile responses the controller does not call a vault for a time.
    """
    space = harness.attacked
    space.set_secret("a", "mine")
    space.apply(space.provider_class("a"), space.sync("s", {"k": "a"}))
    space.wait_secret("s", {"k": "mine"})
    before = space.count_calls()
    vaults: dict[str, str] = {}

    def attack(drawn: tuple[int, Any, dict[str, str]]) -> None:
        status, body, headers = drawn
        name = f"drawn-{len(vaults)}"
        vaults[name] = vault = f"{space.vault}-{name}"
        harness.emulator.add_vault(vault, TENANT)
        for where in (vault, space.vault):
            harness.emulator.fail(status, where=where, body=body, headers=headers)
        harness.force_sync("s")
        space.apply(
            space.provider_class("a", name=name, keyvaultName=vault),
            space.sync(name, {"k": "a"}, secretProviderClassName=name),
        )

    draw_attacks("vault", st.tuples(STATUSES, BODIES, HEADERS), attack)
    for name in vaults:
        harness.wait_status(name)
    assert set(vaults.values()) <= harness.list_called_vaults()
    eventually(space.count_calls, lambda found: found > before)
    harness.emulator.clear_faults()
    harness.wait_status("s")
    assert set(space.secret_values("s")) == {"k"}
