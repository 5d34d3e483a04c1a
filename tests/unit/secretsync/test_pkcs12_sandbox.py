"""A PFX is opened elsewhere: what comes is the same, and one that would take for ever takes nobody else's time."""

import base64
import threading
import time

import pytest

from controller.domain import certificates
from controller.errors import ObjectError
from controller.secretsync import pkcs12_sandbox
from tests.support.certificates import encode_pfx, generate_key, issue_certificate, make_slow_pfx

ROOT = issue_certificate("root", ca=True)
LEAF = issue_certificate("web", ROOT, key=generate_key("RSA"))
WHAT = "secret web in Key Vault shop"


def test_it_makes_of_a_pfx_what_would_be_made_of_it_here() -> None:
    for text in (encode_pfx(LEAF.key, [LEAF, ROOT]), encode_pfx(None, [ROOT, LEAF], key_id=False)):
        data = base64.b64decode(text)
        assert pkcs12_sandbox.pfx_to_pem(data) == certificates.pfx_to_pem(data) != b""


@pytest.mark.parametrize("text", [encode_pfx(LEAF.key, [LEAF], "swordfish"), encode_pfx(LEAF.key, [LEAF])[:-8], "MAA="])
def test_what_cannot_be_opened_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        pkcs12_sandbox.pfx_to_pem(base64.b64decode(text))
    with pytest.raises(ObjectError, match=r"neither PEM nor PFX|has a password, or is damaged"):
        certificates.take_apart(text.encode(), WHAT, pkcs12_sandbox.pfx_to_pem)


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
            certificates.take_apart(make_slow_pfx().encode(), WHAT, pkcs12_sandbox.pfx_to_pem)
    finally:
        done.set()
        watcher.join()
    assert max(gaps) < 1


def test_what_was_given_up_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = base64.b64decode(make_slow_pfx(2**31 - 2))
    with pytest.raises(TimeoutError):
        pkcs12_sandbox.pfx_to_pem(data)
    monkeypatch.setattr("subprocess.run", None)
    with pytest.raises(TimeoutError):
        pkcs12_sandbox.pfx_to_pem(data)


def test_the_same_pfx_with_little_to_do_opens() -> None:
    """So it is the number alone that the test above fails on: here the password is only found to be wrong."""
    with pytest.raises(ObjectError, match="has a password, or is damaged"):
        certificates.take_apart(make_slow_pfx(2048).encode(), WHAT, pkcs12_sandbox.pfx_to_pem)
