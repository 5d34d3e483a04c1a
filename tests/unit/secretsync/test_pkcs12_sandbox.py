"""Test the results of the process that opens PFX files, and that it is stopped when a file takes too long."""

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


def test_sandbox_has_the_same_result_as_a_conversion_in_process() -> None:
    for text in (encode_pfx(LEAF.key, [LEAF, ROOT]), encode_pfx(None, [ROOT, LEAF], key_id=False)):
        data = base64.b64decode(text)
        assert pkcs12_sandbox.pfx_to_pem(data) == certificates.pfx_to_pem(data) != b""


@pytest.mark.parametrize("text", [encode_pfx(LEAF.key, [LEAF], "swordfish"), encode_pfx(LEAF.key, [LEAF])[:-8], "MAA="])
def test_pfx_that_cannot_be_opened_is_reported(text: str) -> None:
    with pytest.raises(ValueError, match=r"^$"):
        pkcs12_sandbox.pfx_to_pem(base64.b64decode(text))
    with pytest.raises(ObjectError, match=r"neither PEM nor PFX|has a password, or is damaged"):
        certificates.parse_bundle(text.encode(), WHAT, pkcs12_sandbox.pfx_to_pem)


def test_pfx_that_takes_too_long_is_stopped_and_blocks_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = make_slow_pfx()
    gaps, done = [], threading.Event()

    def watch() -> None:
        last = time.monotonic()
        while not done.wait(0.02):
            gaps.append(-(last - (last := time.monotonic())))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with pytest.raises(ObjectError, match="takes too long to open"):
            certificates.parse_bundle(slow.encode(), WHAT, pkcs12_sandbox.pfx_to_pem)
    finally:
        done.set()
        watcher.join()
    assert max(gaps) < 1
    monkeypatch.setattr("subprocess.run", None)  # the file is not opened again
    with pytest.raises(TimeoutError):
        pkcs12_sandbox.pfx_to_pem(base64.b64decode(slow))


def test_same_pfx_with_few_iterations_only_has_a_wrong_password() -> None:
    """With few iterations, the same file only has a wrong password. So the iterations cause the timeout."""
    with pytest.raises(ObjectError, match="has a password, or is damaged"):
        certificates.parse_bundle(make_slow_pfx(2048).encode(), WHAT, pkcs12_sandbox.pfx_to_pem)
