"""Encode a value in the forms in which other software can quote it, and find these forms in a text."""

import base64
import binascii
import gzip
import json
import quopri
from collections.abc import Callable
from urllib.parse import quote

from hypothesis import strategies as st

CANARY = "kanarek-7d1f <pass&word>"


def _go_json(text: str) -> str:
    """Return the JSON text that Go's encoding/json writes."""
    escaped = json.dumps(text, ensure_ascii=False)
    return escaped.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


FORMS: dict[str, Callable[[str], str]] = {
    "text": str,
    "base64": lambda text: _b64(text.encode()),
    "base64 without padding": lambda text: _b64(text.encode()).rstrip("="),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 that begins one byte earlier": lambda text: _b64(b":" + text.encode()),
    "base64 that begins two bytes earlier": lambda text: _b64(b"u:" + text.encode()),
    "base64 of base64": lambda text: _b64(_b64(text.encode()).encode()),
    "base64 of the whole object": lambda text: _b64(json.dumps({"data": {"k": _b64(text.encode())}}).encode()),
    "auth of a dockerconfig": lambda text: json.dumps({"auths": {"r": {"auth": _b64(f"user:{text}".encode())}}}),
    "Go's JSON": _go_json,
    "Go's JSON in JSON": lambda text: _go_json(_go_json(text)),
    "Python's bytes": lambda text: repr(text.encode()),
    "hex": lambda text: text.encode().hex(),
    "HEX with colons": lambda text: text.encode().hex(":").upper(),
    "base32": lambda text: base64.b32encode(text.encode()).decode(),
    "base85": lambda text: base64.b85encode(text.encode()).decode(),
    "percent": quote,
    "quoted-printable": lambda text: quopri.encodestring(text.encode()).decode(),
    "uuencode": lambda text: binascii.b2a_uu(text.encode()[:45]).decode(),
    "backwards": lambda text: text[::-1],
    "one letter a line": "\n".join,
    "numbers": lambda text: " ".join(str(byte) for byte in text.encode()),
    "gzip": lambda text: _b64(gzip.compress(text.encode())),
    "the first half": lambda text: text[: len(text) // 2],
    "the second half": lambda text: text[len(text) // 2 :],
}

# The forms for tests over HTTP, because requests with all forms would take too long.
SOME_FORMS = [FORMS[name] for name in ("text", "base64", "Go's JSON", "hex")]


def draw_quotation(text: str = CANARY) -> st.SearchStrategy[str]:
    """Draw the text in one of the forms, or in two forms, one inside the other."""
    form = st.sampled_from(list(FORMS.values()))
    return st.builds(lambda outer, inner: outer(inner(text)), form, form) | form.map(lambda one: one(text))


_FORMS_OF_CANARY = {name: form(CANARY) for name, form in FORMS.items()}


def find_forms(text: str) -> list[str]:
    """Return the names of the forms of the canary that the text contains."""
    return [name for name, form in _FORMS_OF_CANARY.items() if form in text]
