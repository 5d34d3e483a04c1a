"""No form of a value passes in an error's text, whoever wrote the text, and harmless texts do."""

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from controller.foreign_text import MAX_SHARED, MAX_TEXT, passable
from tests.unit.issuing import issue

SECRET = "/api/v1/namespaces/team/secrets"
KNOWN = ("field is immutable",)
LEAF = issue("web")
VALUES = [
    b"canary-51c0-value",
    'pa"ss\\word\nline two \u00e4'.encode(),
    b"\xff\x00\xfecanary",
    (LEAF.key_pem + LEAF.pem).encode(),
]
FORMS: dict[str, Callable[[bytes], str]] = {
    "text": lambda value: value.decode(errors="replace"),
    "base64": lambda value: base64.b64encode(value).decode(),
    "unpadded": lambda value: base64.b64encode(value).decode().rstrip("="),
    "url-safe": lambda value: base64.urlsafe_b64encode(value).decode(),
    "url-safe, unpadded": lambda value: base64.urlsafe_b64encode(value).decode().rstrip("="),
    "JSON": lambda value: json.dumps(value.decode(errors="replace")),
    "JSON within JSON": lambda value: json.dumps(json.dumps(value.decode(errors="replace"))),
    "one line": lambda value: max(value.decode(errors="replace").splitlines(), key=len),
    "base64 of one line": lambda value: base64.b64encode(max(value.splitlines(), key=len)).decode(),
    "cut off": lambda value: base64.b64encode(value).decode()[:15],
    "a middle part": lambda value: base64.b64encode(value).decode()[4:20],
}
WEBHOOK = 'admission webhook "guard.example.com" denied the request: '
POLICY = "secrets \"s\" is forbidden: ValidatingAdmissionPolicy 'guard' with binding 'guard-binding' denied request: "


def body(value: bytes) -> dict[str, object]:
    return {"kind": "Secret", "data": {"k": base64.b64encode(value).decode(), "other": "eA=="}}


@pytest.mark.parametrize("before", [WEBHOOK, POLICY, "Secret is invalid: "], ids=["webhook", "policy", "API server"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", VALUES, ids=["word", "escapes", "bytes", "pem"])
def test_no_form_of_a_value_passes(value: bytes, form: str, before: str) -> None:
    quoted = FORMS[form](value)
    text = passable(f"{before}{{{quoted}}}", "POST", SECRET, body(value), KNOWN)
    assert "its values" not in text
    assert quoted[:MAX_SHARED] not in text
    assert "the message is not shown" in text


@given(value=st.binary(min_size=MAX_SHARED), start=st.integers(0, 50))
def test_any_part_of_a_value_hides_the_text(value: bytes, start: int) -> None:
    encoded = base64.b64encode(value).decode().rstrip("=")
    part = encoded[start : start + MAX_SHARED]
    assume(len(part) == MAX_SHARED)
    assert part not in passable(WEBHOOK + part, "POST", SECRET, body(value), KNOWN)


@pytest.mark.parametrize(
    ("before", "who"),
    [(WEBHOOK, 'admission webhook "guard.example.com"'), (POLICY, "ValidatingAdmissionPolicy 'guard'")],
)
def test_a_patch_passes_nothing_of_a_webhook_because_the_object_holds_more_than_was_sent(before: str, who: str) -> None:
    """Even a patch without data: admission sees the whole object."""
    for sent in ({}, {"metadata": {"labels": {"a": "b"}}}, body(b"other")):
        text = passable(before + "canary-51c0", "PATCH", f"{SECRET}/s", sent, KNOWN)
        assert "canary" not in text
        assert text.startswith(f"{who} refused the Secret")
    failed = 'Internal error occurred: failed calling webhook "guard.example.com": canary-51c0'
    assert "canary" not in passable(failed, "PATCH", f"{SECRET}/s", {}, KNOWN)


def test_what_the_controller_looks_for_passes() -> None:
    text = passable(f"{POLICY}field is immutable canary-51c0", "PATCH", f"{SECRET}/s", {}, KNOWN)
    assert text == "ValidatingAdmissionPolicy 'guard': field is immutable"


@pytest.mark.parametrize("value", [b"1", b"abc", b"abcde"])
def test_a_short_value_hides_the_text_where_it_is_a_word_of_it(value: bytes) -> None:
    assert "the message" in passable(f"{WEBHOOK}k is {value.decode()}!", "POST", SECRET, body(value), KNOWN)


def test_harmless_texts_pass() -> None:
    for text in (WEBHOOK + "secrets are not for this namespace", 'secrets "s" is forbidden: exceeded quota: q'):
        assert passable(text, "POST", SECRET, body(b"canary-51c0-value"), KNOWN) == text
    quota = 'secrets "s" is forbidden: User "x" cannot patch resource'
    assert passable(quota, "PATCH", f"{SECRET}/s", {}, KNOWN) == quota
    other = WEBHOOK + "no"
    assert passable(other, "PATCH", "/apis/secret-sync.x-k8s.io/v1alpha1/namespaces/t/secretsyncs/s", {}, ()) == other


def test_length_is_bounded() -> None:
    assert len(passable("x" * 10**5, "POST", SECRET, body(b"1"), KNOWN)) == MAX_TEXT
