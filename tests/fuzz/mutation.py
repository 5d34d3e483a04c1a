"""Mutate PEM files: change the DER below the base64, and exchange blocks."""

import base64
import binascii
import random
import re
from collections.abc import Callable

_BLOCK = re.compile(rb"-----BEGIN ([^\n-]{0,40})-----\n([^-]*)-----END [^\n-]{0,40}-----\n?")
_PIECES = [
    b"-----BEGIN CERTIFICATE-----\n",
    b"-----END CERTIFICATE-----\n",
    b"-----BEGIN PRIVATE KEY-----\n",
    b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
    b"-----BEGIN X509 CERTIFICATE-----\n",
    b"-----",
    b"\r\n",
    b"Proc-Type: 4,ENCRYPTED\n",
    b"friendlyName: x\n",
    b"\xef\xbb\xbf",
]
Mutate = Callable[[bytes, int], bytes]


def mutate(data: bytes, most: int, seed: int, bytewise: Mutate) -> bytes:
    """Return a mutation of `data` of at most this many bytes. `bytewise` is the fuzzer's own mutation."""
    rng = random.Random(seed)
    blocks = list(_BLOCK.finditer(data))
    way = rng.randrange(4 if blocks else 2)
    if way == 0:
        return bytewise(data, most)
    if way == 1 and not blocks and (der := _decoded(data[2:])):  # a PFX in base64
        return (data[:2] + base64.b64encode(bytewise(der, most * 3 // 4)))[:most]
    if way == 1:
        at = rng.randrange(len(data) + 1)
        return (data[:at] + rng.choice(_PIECES) + data[at:])[:most]
    one = rng.choice(blocks)
    if way == 2:
        at = rng.choice(blocks).start()
        return (data[:at] + one.group() + data[at:])[:most]
    der = bytewise(_decoded(one.group(2)) or b"\x30\x00", most * 3 // 4)
    text = b"-----BEGIN %b-----\n%b-----END %b-----\n" % (one.group(1), base64.encodebytes(der), one.group(1))
    return (data[: one.start()] + text + data[one.end() :])[:most]


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        return b""
