"""A PFX is opened elsewhere: what comes is the same, and one that would take for ever takes nobody else's time."""

import base64
import threading
import time

import pytest

from controller import certificates, confined
from controller.errors import ObjectError
from tests.unit.issuing import issue, new_key, pfx, slow_pfx

ROOT = issue("root", ca=True)
LEAF = issue("web", ROOT, key=new_key("RSA"))
WHAT = "secret web in Key Vault shop"


def test_it_makes_of_a_pfx_what_would_be_made_of_it_here() -> None:
    for text in (pfx(LEAF.key, [LEAF, ROOT]), pfx(None, [ROOT, LEAF], key_id=False)):
        data = base64.b64decode(text)
        assert confined.pem_of_pfx(data) == certificates.pem_of_pfx(data) != b""


@pytest.mark.parametrize("text", [pfx(LEAF.key, [LEAF], "swordfish"), pfx(LEAF.key, [LEAF])[:-8], "MAA="])
def test_what_cannot_be_opened_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        confined.pem_of_pfx(base64.b64decode(text))
    with pytest.raises(ObjectError, match=r"neither PEM nor PFX|has a password, or is damaged"):
        certificates.take_apart(text.encode(), WHAT, confined.pem_of_pfx)


def test_one_that_would_take_for_ever_is_given_up_and_holds_nobody_up() -> None:
    gaps, done = [], threading.Event()

    def watch() -> None:
        last = time.monotonic()
        while not done.wait(0.02):
            gaps.append(-(last - (last := time.monotonic())))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with pytest.raises(ObjectError, match="takes too long to open"):
            certificates.take_apart(slow_pfx().encode(), WHAT, confined.pem_of_pfx)
    finally:
        done.set()
        watcher.join()
    assert max(gaps) < 1


def test_what_was_given_up_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = base64.b64decode(slow_pfx(2**31 - 2))
    with pytest.raises(TimeoutError):
        confined.pem_of_pfx(data)
    monkeypatch.setattr("subprocess.run", None)
    with pytest.raises(TimeoutError):
        confined.pem_of_pfx(data)


def test_the_same_pfx_with_little_to_do_opens() -> None:
    """So it is the number alone that the test above fails on: here the password is only found to be wrong."""
    with pytest.raises(ObjectError, match="has a password, or is damaged"):
        certificates.take_apart(slow_pfx(2048).encode(), WHAT, confined.pem_of_pfx)
