"""Names and texts as an attacker writes them."""

from hypothesis import strategies as st

# Characters that must never reach a terminal: C0, DEL, C1, bidi controls, zero width, line separators, tags, and lone
# surrogates.
FORBIDDEN = [
    *map(chr, range(0x20)), "\x7f", *map(chr, range(0x80, 0xA0)), "\u00ad", "\u061c", "\u180e",
    *map(chr, range(0x200B, 0x2010)), *map(chr, range(0x2028, 0x202F)), *map(chr, range(0x2060, 0x2070)),
    "\ufeff", "\ufe0f", "\u115f", "\u3164", "\u2800", "\ufff9", "\ud800", "\udfff", "\ue000",
    *map(chr, range(0xE0000, 0xE0080)), "\U000e0101", "\U0010ffff",
]  # fmt: skip
# Hostile names: any characters, also lone surrogates. Characters with a special meaning are drawn often.
HOSTILE = st.text(
    st.one_of(
        st.sampled_from([*FORBIDDEN, *"\\`*_[]<>|~&#$@.:/!-+;'\" \t\n(){}=?"]),
        st.characters(codec=None, exclude_categories=()),
    ),
    max_size=40,
)


# Names with commands that a reader of the report would run if the tools did not quote them.
INJECTIONS = (
    "db; touch pwned", "$(touch pwned)", "`touch pwned`", "db\ntouch pwned", "db | touch pwned", "db && touch pwned",
    "-rf", "--all", "'; touch pwned; '", '"; touch pwned; "', "x\n```\ntouch pwned\n```console", "~/x", "*", "${IFS}",
    "db#", "db\rtouch pwned", "db\x1b[2Jx", "db\u202ex", "db\u2028touch pwned", "../../pwned", "a/b", "<(touch pwned)",
    "db\\", "a=b", "{a,b}", "!!", "\x00", "é", "DB", "d" * 254,
)  # fmt: skip
FOREIGN = st.sampled_from(INJECTIONS) | HOSTILE


# Inputs for which decoders of JSON raise different errors: UnicodeDecodeError, RecursionError, msgspec's errors.
HOSTILE_JSON = {
    "no UTF-8 in a value": b'{"a":"\xff"}',
    "no UTF-8 in a name": b'{"\xff":{}}',
    "a lone surrogate": b'{"a":"\\ud800"}',
    "lists in lists": b"[" * 100_000 + b"]" * 100_000,
    "objects in objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a number of 5,000 digits": b'{"a":%s}' % (b"9" * 5_000),
    "cut off": b'{"a":',
    "nothing": b"",
    "a NUL": b"\0",
}
