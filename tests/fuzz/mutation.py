"""Mutate PEM and PFX files for the fuzzer: insert texts, repeat blocks, and change the DER that base64 encodes."""

import base64
import binascii
import random
import re
from collections.abc import Callable

_BLOCK = re.compile(rb"-----BEGIN ([^\n-]{0,40})-----\n([^-]*)-----END [^\n-]{0,40}-----\n?")
# Texts that change how a PEM file is parsed.
_INSERTED_TEXTS = [
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
BytesMutator = Callable[[bytes, int], bytes]
"""A function that returns a mutation of its first argument with at most so many bytes as its second argument says."""


def mutate(data: bytes, max_bytes: int, seed: int, mutate_bytes: BytesMutator) -> bytes:
    """Return a mutation of `data` with at most `max_bytes`. `mutate_bytes` is the fuzzer's own mutation.

    The first two bytes of `data` choose how it is read (`checks.check_input`).
    """
    rng = random.Random(seed)
    blocks = list(_BLOCK.finditer(data))
    kind = rng.randrange(4 if blocks else 2)
    if kind == 0:  # any bytes
        return mutate_bytes(data, max_bytes)
    if kind == 1 and not blocks and (der := _decode_base64(data[2:])):  # the DER of a PFX
        return (data[:2] + base64.b64encode(mutate_bytes(der, max_bytes * 3 // 4)))[:max_bytes]
    if kind == 1:  # a text at any position
        at = rng.randrange(len(data) + 1)
        return (data[:at] + rng.choice(_INSERTED_TEXTS) + data[at:])[:max_bytes]
    block = rng.choice(blocks)
    if kind == 2:  # the same block again, before any block
        at = rng.choice(blocks).start()
        return (data[:at] + block.group() + data[at:])[:max_bytes]
    # the DER of a block
    der = mutate_bytes(_decode_base64(block.group(2)) or b"\x30\x00", max_bytes * 3 // 4)
    text = b"-----BEGIN %b-----\n%b-----END %b-----\n" % (block.group(1), base64.encodebytes(der), block.group(1))
    return (data[: block.start()] + text + data[block.end() :])[:max_bytes]


def _decode_base64(text: bytes) -> bytes:
    """Return the decoded bytes, or no bytes if the text is not base64."""
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        return b""
