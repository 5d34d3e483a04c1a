"""Search the memory of a process for values, as root on the node can."""

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.certificates import IssuedCertificate

_REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw")


def list_encodings(value: bytes) -> list[bytes]:
    """Return the encodings in which a program may keep a value: plain, in wide characters and in base64."""
    return [
        value,
        *(value.decode("latin-1").encode(wide) for wide in ("utf-16-le", "utf-32-le")),
        # Base64 at each alignment, without the characters that depend on neighbouring bytes.
        *(base64.b64encode(b"x" * shift + value)[4 if shift else 0 : -4] for shift in range(3)),
    ]


def key_fragment(leaf: IssuedCertificate) -> bytes:
    """Return bytes from the middle of a private key's number (EC) or first prime (RSA): all encodings have them."""
    numbers = leaf.key.private_numbers()
    number = numbers.p if isinstance(numbers, rsa.RSAPrivateNumbers) else numbers.private_value
    data = number.to_bytes(-(-number.bit_length() // 8), "big")
    return data[len(data) // 2 - 12 :][:24]


def count_copies(pid: int, values: Mapping[str, bytes]) -> dict[str, int]:
    """Return how often each of these values is in the memory of a process, in any encoding."""
    needles = {name: list_encodings(value) for name, value in values.items()}
    found = dict.fromkeys(values, 0)
    for region in read_regions(pid):
        for name, each in needles.items():
            found[name] += sum(map(region.count, each))
    return found


def read_regions(pid: int) -> Iterator[bytes]:
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
            except OSError:  # the process has released the rest meanwhile
                pass
            yield region
