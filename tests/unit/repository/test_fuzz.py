"""The fuzz's inputs hold without the fuzzer, as do some of their neighbours; and what it checks can fail."""

import random
from pathlib import Path

import pytest

from controller.domain.certificates import CertificateBundle, take_apart
from controller.errors import ObjectError
from tests.fuzz import splitter
from tests.fuzz.mutation import mutate

CORPUS = sorted((Path(__file__).parents[3] / "tests" / "fuzz" / "corpus").iterdir())
NEIGHBOURS = 20


def flip(data: bytes, most: int, rng: random.Random) -> bytes:
    """Return the least that a fuzzer would do."""
    at = rng.randrange(len(data)) if data else 0
    return (data[:at] + rng.randbytes(1) + data[at + rng.randrange(2) :])[:most]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_an_input_and_its_neighbours_hold(path: Path) -> None:
    data, rng = path.read_bytes(), random.Random(path.name)
    splitter.check(data)
    for _ in range(NEIGHBOURS):
        seed = rng.getrandbits(32)
        near = mutate(data, splitter.MOST_BYTES, seed, lambda part, most: flip(part, most, rng))
        assert len(near) <= splitter.MOST_BYTES
        splitter.check(near)


def test_a_message_with_a_piece_of_the_value_does_not_hold() -> None:
    value = b"MC4CAQAwBQYDK2VwBCIEIBH8wVLWH"
    with pytest.raises(AssertionError, match="piece of the value"):
        splitter.told(ObjectError(f"{splitter.WHAT}: {value.decode()} cannot be read"), value)


def test_a_bundle_that_comes_apart_otherwise_does_not_hold() -> None:
    pem = next(path for path in CORPUS if path.name == "out-of-order.pem").read_bytes()[2:]
    found = take_apart(pem, splitter.WHAT)
    splitter.whole(found)
    wrong = CertificateBundle(key=found.key, chain=found.chain[::-1], loose=found.loose, complete=True, in_order=True)
    with pytest.raises(AssertionError):
        splitter.whole(wrong)
