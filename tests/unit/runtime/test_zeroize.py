"""What is ours of a value is overwritten: seen through a view of it, for nobody can look at freed memory."""

from controller.domain.values import SecretBytes
from controller.runtime.zeroize import ZeroizedBytes, zeroize


def test_it_is_overwritten_when_nobody_has_it_any_more() -> None:
    owned = ZeroizedBytes(b"canary")
    view = memoryview(owned)
    owned.__del__()  # a view keeps it, so this is the one way to see what comes after
    assert bytes(view) == bytes(6)


def test_a_part_of_it_is_as_large_as_it_was() -> None:
    data = bytearray(b"canary")
    with memoryview(data):  # that could not be resized
        zeroize(data)
    assert data == bytes(6)


def test_a_hidden_value_is_a_copy_and_shows_copies() -> None:
    """So nobody's bytes change under them when another is done with his."""
    given = b"canary"
    one, other = SecretBytes(given), SecretBytes(given)
    shown = one.reveal()
    del one
    assert shown == other.reveal() == given
