"""What a process holds in its memory at a moment, searched as somebody would who is root on the node."""

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from tests.unit.issuing import Issued

_REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw")


def forms(value: bytes) -> list[bytes]:
    """The ways in which a program may hold what is looked for: as it is, in wide characters, and in base64."""
    return [
        value,
        *(value.decode("latin-1").encode(wide) for wide in ("utf-16-le", "utf-32-le")),
        # At each of its alignments, without the characters that what stands beside it changes.
        *(base64.b64encode(b"x" * shift + value)[4 if shift else 0 : -4] for shift in range(3)),
    ]


def piece(leaf: Issued) -> bytes:
    """Of a private key a part that no form of it cuts: from the middle of its number (EC), or of its first prime."""
    numbers = leaf.key.private_numbers()
    number = numbers.p if isinstance(numbers, rsa.RSAPrivateNumbers) else numbers.private_value
    data = number.to_bytes(-(-number.bit_length() // 8), "big")
    return data[len(data) // 2 - 12 :][:24]


def copies(pid: int, values: Mapping[str, bytes]) -> dict[str, int]:
    """How often each of these values is in a process's memory, in any form."""
    needles = {name: forms(value) for name, value in values.items()}
    found = dict.fromkeys(values, 0)
    for region in _regions(pid):
        for name, each in needles.items():
            found[name] += sum(map(region.count, each))
    return found


def _regions(pid: int) -> Iterator[bytes]:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if not (found := _REGION.match(line)):
                continue
            start, end = (int(number, 16) for number in found.groups())
            region = b""
            try:
                while start + len(region) < end:
                    memory.seek(start + len(region))
                    region += memory.read(end - start - len(region))
            except OSError:  # the rest is gone meanwhile
                pass
            yield region
