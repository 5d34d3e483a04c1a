"""What of an API server's error text may reach a person: everything but what could quote a Secret's values.

An admission webhook or policy sees the whole object, also where a request changes a label alone, and may quote it in
any form, in parts or cut off. So the controller does not remove values from such a text. It passes the text on only
where it knows all values of the object, and the text shares no piece with any of them; else it names who refused.
"""

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# What is passed on at the most.
MAX_TEXT = 1000
# A text is not passed on if it shares so many characters with a value, or the whole of a shorter one.
MAX_SHARED = 11
# What the search compares: of a shared piece of `MAX_SHARED` characters, one block of this length lies in the value at
# a multiple of it.
_BLOCK = (MAX_SHARED + 1) // 2
_MAX_NAME = 253
_WHO = (
    (
        re.compile(r"ValidatingAdmissionPolicy '([-.a-z0-9]+)' with binding '[-.a-z0-9]+'"),
        "ValidatingAdmissionPolicy '{}'",
    ),
    (re.compile(r"webhook \\*\"([-.a-z0-9]+)\\*\""), 'admission webhook "{}"'),
)
_FOREIGN = re.compile(r"webhook|AdmissionPolicy", re.IGNORECASE)
_HIDDEN = (
    "{} refused the Secret; the message is not shown, because it can quote values: the log of that component or the API"
    " server's audit log has it"
)


def passable(text: str, method: str, path: str, body: Any, known: Iterable[str]) -> str:
    """Return what may be passed on of the error text that a request was answered with.

    `known` are the parts of texts that the controller itself looks for, and that quote nothing.
    """
    short = text[:MAX_TEXT]
    if not _is_about_secret(path):
        return short
    values = list(_values(body))
    # A create carries all values of the object; a patch of an object that exists does not.
    may_quote_others = method != "POST" and _FOREIGN.search(text)
    if not may_quote_others and not _shares(short, values):
        return short
    found = next((part for part in known if part in text), "")
    return f"{_refuser(text)}: {found}" if found else _HIDDEN.format(_refuser(text))


def _is_about_secret(path: str) -> bool:
    return "secrets" in path.split("/")


def _refuser(text: str) -> str:
    for pattern, shown in _WHO:
        if (found := pattern.search(text)) and len(found[1]) <= _MAX_NAME:
            return shown.format(found[1])
    if "AdmissionPolicy" in text:
        return "an admission policy"
    return "an admission webhook" if "webhook" in text else "the API server"


def _values(body: Any) -> Iterator[str]:
    """The forms in which the values of a Secret can be quoted."""
    data = body.get("data") if isinstance(body, Mapping) else None
    for encoded in (data or {}).values():
        if not isinstance(encoded, str):
            continue
        yield encoded
        try:
            raw = base64.b64decode(encoded)
        except ValueError:
            continue
        # As text, and as JSON, Go or Python escape it.
        yield raw.decode(errors="replace")
        yield raw.decode(errors="replace").encode("unicode_escape").decode()
        for line in raw.splitlines():
            # A part begins where the whole's base64 has no boundary.
            yield base64.b64encode(line).decode()


def _shares(text: str, values: Iterable[str]) -> bool:
    """Return whether the text shares a piece with one of the values."""
    plain = _normalized(text)
    blocks = {plain[start : start + _BLOCK] for start in range(len(plain) - _BLOCK + 1)}
    for value in values:
        form = _normalized(value)
        if len(form) < MAX_SHARED:
            if value.strip() and re.search(rf"(?<![A-Za-z0-9]){re.escape(value.strip())}(?![A-Za-z0-9])", text):
                return True
            if len(form) >= _BLOCK - 1 and form in plain:
                return True
        elif any(form[start : start + _BLOCK] in blocks for start in range(0, len(form) - _BLOCK + 1, _BLOCK)):
            return True
    return False


def _normalized(text: str) -> str:
    """Without what the forms differ in: URL-safe letters, padding, escapes, quotes and white space."""
    return re.sub(r"\\[nrt]|[\\\"'=\s]", "", text).replace("-", "+").replace("_", "/")
