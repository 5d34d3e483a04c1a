"""Test that secret bytes are zeroed. The tests read a view of them, because they cannot read freed memory."""

from controller.domain.values import SecretBytes
from controller.runtime.zeroize import ZeroizedBytes, zeroize


def test_released_bytes_are_zeroed() -> None:
    owned = ZeroizedBytes(b"canary")
    view = memoryview(owned)
    owned.__del__()  # The view keeps the object alive, so the test calls the finalizer.
    assert bytes(view) == bytes(6)


def test_zeroed_bytes_keep_their_length() -> None:
    data = bytearray(b"canary")
    with memoryview(data):  # a buffer with a view cannot be resized
        zeroize(data)
    assert data == bytes(6)


def test_secret_bytes_are_copied_in_and_out() -> None:
    """Copy the bytes, so that zeroing one value does not change another."""
    given = b"canary"
    one, other = SecretBytes(given), SecretBytes(given)
    shown = one.reveal()
    del one
    assert shown == other.reveal() == given
