"""What is ours of a value is overwritten: seen through a view of it, for nobody can look at freed memory."""

from controller.fetched import Hidden
from controller.wiped import Wiped, wipe


def test_it_is_overwritten_when_nobody_has_it_any_more() -> None:
    owned = Wiped(b"canary")
    view = memoryview(owned)
    owned.__del__()  # a view keeps it, so this is the one way to see what comes after
    assert bytes(view) == bytes(6)


def test_a_part_of_it_is_as_large_as_it_was() -> None:
    data = bytearray(b"canary")
    with memoryview(data):  # that could not be resized
        wipe(data)
    assert data == bytes(6)


def test_a_hidden_value_is_a_copy_and_shows_copies() -> None:
    """So nobody's bytes change under them when another is done with his."""
    given = b"canary"
    one, other = Hidden(given), Hidden(given)
    shown = one.reveal()
    del one
    assert shown == other.reveal() == given
