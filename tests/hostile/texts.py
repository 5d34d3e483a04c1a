"""Draw hostile names, texts and numbers, as strategies of hypothesis."""

from typing import Any

from hypothesis import strategies as st

# Escape sequences, C1 controls, bidi controls, Markdown, HTML, shells, YAML, JSON, paths, and numbers out of range.
HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07", "\u009b2J", "\u202ename\u202c", "\u2066x\u2069", "a\nb", "a\r\n::error::b", "a\x00b",
    "$(touch pwned)", "`touch pwned`", "db; touch pwned", "'; touch pwned; '", "-rf", "--all", "~/x", "${IFS}",
    "```\ntouch pwned\n```console", "[x](https://evil.example)", "<script>alert(1)</script>", "| a | b |",
    "../../etc/passwd", "a/b/../c", "*a", "&a [*a]", "!!python/object:os.system x", "{{ .Values.x }}", "%s%n",
    "9" * 400, "1e400", "-1", "NaN", "\ud7ff", "é", "x" * 300, "", " ", "null", "true", "a.vault.azure.net",
    "a@evil.example", "//evil.example", "a#", "a?b=c", "a%2f..%2f", "evil.example/x", "127.0.0.1:1",
)  # fmt: skip
TEXTS = st.sampled_from(HOSTILE) | st.text(max_size=40)
# Names in references. Objects with the short names exist.
NAMES = st.sampled_from(["a", "b", "shop", "drawn-0", "theirs", "s"]) | TEXTS
NUMBERS = st.integers(-(10**30), 10**30) | st.sampled_from([0, 1, 2**31, 2**63, -1])
JSONS = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)


def mostly(usual: Any, odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw the usual value in three of four cases, because objects with one odd field pass more checks."""
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), odd)
