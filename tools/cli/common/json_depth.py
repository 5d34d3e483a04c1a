"""Measure the nesting of JSON without recursion. Pure.

Text that is written back must not be cut. `controller.runtime.json_decoding` cuts text that is only read.
"""

import re

# A whole string, because brackets in it do not count; or one bracket.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[][{}]', re.DOTALL)


def is_deeper_than(text: bytes | bytearray, limit: int) -> bool:
    """Return whether arrays and objects are nested in more than `limit` levels."""
    depth = 0
    for found in _TOKEN.finditer(text):
        if found[0] in (b"[", b"{"):
            depth += 1
            if depth > limit:
                return True
        elif found[0] in (b"]", b"}"):
            depth -= 1
    return False
