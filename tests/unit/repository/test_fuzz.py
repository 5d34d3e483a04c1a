"""Test that the inputs of the fuzzing corpus and mutations of them pass the checks, and that the checks can fail."""

import random
from pathlib import Path

import msgspec
import pytest

from controller.domain.certificates import parse_bundle
from controller.errors import ObjectError
from tests.fuzz import checks
from tests.fuzz.mutation import mutate

CORPUS = sorted((Path(__file__).parents[3] / "tests" / "fuzz" / "corpus").iterdir())
MUTATIONS = 20


def change_byte(data: bytes, max_bytes: int, rng: random.Random) -> bytes:
    """Replace or insert one byte, which is the smallest change of a fuzzer."""
    at = rng.randrange(len(data)) if data else 0
    return (data[:at] + rng.randbytes(1) + data[at + rng.randrange(2) :])[:max_bytes]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_corpus_input_and_its_mutations_pass_the_checks(path: Path) -> None:
    data, rng = path.read_bytes(), random.Random(path.name)
    checks.check_input(data)
    for _ in range(MUTATIONS):
        seed = rng.getrandbits(32)
        mutated = mutate(data, checks.MAX_BYTES, seed, lambda part, part_max: change_byte(part, part_max, rng))
        assert len(mutated) <= checks.MAX_BYTES
        checks.check_input(mutated)


def test_message_with_a_part_of_the_value_fails_the_check() -> None:
    value = b"MC4CAQAwBQYDK2VwBCIEIBH8wVLWH"
    with pytest.raises(AssertionError, match="part of the value"):
        checks.check_message(ObjectError(f"{checks.SUBJECT}: {value.decode()} cannot be read"), value)


def test_bundle_that_is_parsed_differently_fails_the_check() -> None:
    pem = next(path for path in CORPUS if path.name == "out-of-order.pem").read_bytes()[2:]
    found = parse_bundle(pem, checks.SUBJECT)
    checks.check_bundle(found)
    wrong = msgspec.structs.replace(found, chain=found.chain[::-1], complete=True, in_order=True)
    with pytest.raises(AssertionError):
        checks.check_bundle(wrong)
