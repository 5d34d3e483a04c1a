"""Test that the time to parse hostile PEM texts grows only with their size, and that OpenSSL tests no primes."""

import base64
from collections.abc import Callable, Iterator, Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import example, given
from hypothesis import strategies as st

from controller.domain import certificates
from controller.domain.certificates import parse_bundle, pem_blocks
from controller.errors import ObjectError
from tests.support.certificates import encode_der, issue_certificate
from tests.support.process_stats import thread_seconds

SUBJECT = "secret web in Key Vault shop"
# Seconds. Without the checks, the attacks below take 6 s to minutes. Accepted texts take a hundredth of the limit.
TIME_LIMIT = 1.0
# A prime of 4,423 bits. OpenSSL tests whether it is a prime each time it loads a DH key.
PRIME = 2**4423 - 1
DH, X942_DH = "2a864886f70d010301", "2a8648ce3e0201"
LEAF = issue_certificate("web")


def encode_integer(number: int) -> bytes:
    return encode_der(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def encode_algorithm(oid: str, *parameters: int) -> bytes:
    return encode_der(0x30, encode_der(6, bytes.fromhex(oid)), encode_der(0x30, *map(encode_integer, parameters)))


def encode_pem(label: str, content: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(content) + f"-----END {label}-----\n".encode()


def encode_dh_algorithm(oid: str) -> bytes:
    return encode_algorithm(oid, PRIME, 2) if oid == DH else encode_algorithm(oid, PRIME, 2, (PRIME - 1) // 2)


def make_dh_key(oid: str, label: str = "PRIVATE KEY") -> bytes:
    return encode_pem(
        label, encode_der(0x30, encode_integer(0), encode_dh_algorithm(oid), encode_der(4, encode_integer(PRIME // 3)))
    )


def forge_certificate(key_algorithm: bytes, extensions: Sequence[bytes] = ()) -> bytes:
    """Return a certificate for this type of key, with an invalid signature. Subject and issuer are empty."""
    public = encode_der(0x30, key_algorithm, encode_der(3, b"\0" + encode_integer(PRIME // 3)))
    signature = encode_der(0x30, encode_der(6, bytes.fromhex("2a864886f70d01010b")), encode_der(5))
    dates = encode_der(0x30, encode_der(0x17, b"200101000000Z"), encode_der(0x17, b"300101000000Z"))
    body = [encode_integer(5), signature, encode_der(0x30), dates, encode_der(0x30), public]
    if extensions:
        body = [encode_der(0xA0, encode_integer(2)), *body, encode_der(0xA3, encode_der(0x30, *extensions))]
    return encode_pem(
        "CERTIFICATE", encode_der(0x30, encode_der(0x30, *body), signature, encode_der(3, b"\0" + bytes(64)))
    )


def forge_dh_certificate(oid: str) -> bytes:
    return forge_certificate(encode_dh_algorithm(oid))


# The algorithm of a public key that no parser supports.
UNKNOWN_KEY = encode_der(0x30, encode_der(6, bytes.fromhex("2a0304")))


def encode_basic_constraints(value: bytes) -> bytes:
    return encode_der(0x30, encode_der(6, bytes.fromhex("551d13")), encode_der(4, value))


@pytest.mark.parametrize("label", ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DH PRIVATE KEY"])
@pytest.mark.parametrize("oid", [DH, X942_DH])
def test_dh_key_is_refused_before_its_prime_is_tested(oid: str, label: str) -> None:
    key = make_dh_key(oid, label)

    def read() -> None:
        assert "its private key cannot be read" in parse_bundle(key + LEAF.pem.encode(), SUBJECT).key_problem

    assert thread_seconds(read) < TIME_LIMIT


@pytest.mark.parametrize("header", [b"", b"Comment: AAAA\n\n", b"A: B\nC: DDDD\n\n", b"\n\n", b" \t\r\n"])
def test_dh_key_with_a_header_is_refused_before_its_prime_is_tested(header: bytes) -> None:
    first, _, rest = make_dh_key(DH).partition(b"\n")

    def read() -> None:
        with pytest.raises(ObjectError, match="private key"):
            parse_bundle(first + b"\n" + header + rest, SUBJECT)

    assert thread_seconds(read) < TIME_LIMIT


@pytest.mark.parametrize("oid", [DH, X942_DH])
@pytest.mark.parametrize("key", ["", LEAF.key_pem], ids=["no key", "key"])
def test_certificate_of_a_dh_key_is_not_loaded_for_comparison(oid: str, key: str) -> None:
    text = key.encode() + forge_dh_certificate(oid) * 2 + LEAF.pem.encode()

    def read() -> None:
        bundle = parse_bundle(text, SUBJECT)
        # Without a key, the first certificate that issued no other one is the leaf.
        assert (bundle.chain[0] == LEAF.certificate) is bool(key)
        assert (len(bundle.chain), len(bundle.unrelated), bundle.complete) == (1, 1, bool(key))

    assert thread_seconds(read) < TIME_LIMIT


def test_certificate_of_an_unknown_key_does_not_fit_a_private_key() -> None:
    bundle = parse_bundle(LEAF.key_pem.encode() + forge_certificate(UNKNOWN_KEY) + LEAF.pem.encode(), SUBJECT)
    assert list(bundle.chain) == [LEAF.certificate]
    assert len(bundle.unrelated) == 1
    with pytest.raises(ObjectError, match="none of its certificates belongs to its private key"):
        parse_bundle(LEAF.key_pem.encode() + forge_certificate(UNKNOWN_KEY), SUBJECT)


def test_names_decide_where_a_signature_cannot_be_checked() -> None:
    bundle = parse_bundle(forge_certificate(UNKNOWN_KEY), SUBJECT)
    assert (len(bundle.chain), bundle.complete) == (1, True)


@pytest.mark.parametrize("value", [b"\xff", b""], ids=["invalid", "empty"])
def test_certificate_with_an_unreadable_extension_is_no_ca(value: bytes) -> None:
    text = forge_certificate(encode_dh_algorithm(DH), [encode_basic_constraints(value)])
    assert parse_bundle(text, SUBJECT).complete is False


def test_certificate_that_cannot_be_read_in_detail_is_refused() -> None:
    constraints = encode_basic_constraints(encode_der(0x30))
    text = forge_certificate(encode_dh_algorithm(DH), [constraints, constraints])
    with pytest.raises(ObjectError) as caught:
        parse_bundle(text, SUBJECT)
    assert caught.value.message == f"{SUBJECT} holds a certificate that cannot be read; import it into the vault again"


@pytest.mark.parametrize("oid", [DH, X942_DH])
def test_key_that_only_contains_the_bytes_of_a_dh_algorithm_is_read(oid: str) -> None:
    """Put the bytes into a seed, where they end at byte 33. The controller searches only the first 32 bytes."""
    algorithm_bytes = encode_der(6, bytes.fromhex(oid))
    seed = (bytes(17 - len(algorithm_bytes)) + algorithm_bytes).ljust(32, b"\1")
    key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert parse_bundle(text, SUBJECT).key == text


# The shapes of a PEM for which a naive scan searches to the end from each line.
SHAPES: dict[str, Callable[[int], bytes]] = {
    "begins without ends": lambda count: b"-----BEGIN X-----\n" * count,
    "begins of many labels": lambda count: b"".join(b"-----BEGIN %d-----\n" % number for number in range(count)),
    "ends without begins": lambda count: b"-----END X-----\n" * count,
    "begins, then ends of another": lambda count: b"-----BEGIN X-----\n" * count + b"-----END Y-----\n" * count,
    "ends before begins": lambda count: b"-----END X-----\n" * count + b"-----BEGIN X-----\n" * count,
    "nested": lambda count: (
        b"".join(b"-----BEGIN %d-----\n" % number for number in range(count))
        + b"".join(b"-----END %d-----\n" % number for number in reversed(range(count)))
    ),
    "one long label": lambda count: b"-----BEGIN " + b"X" * 18 * count,
    "no closing dashes": lambda count: b"-----BEGIN " * count,
    "dashes": lambda count: b"-" * 18 * count,
    "one label, many lines": lambda count: b"-----BEGIN \n" * count + b"-----",
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_scan_time_grows_linearly_with_the_size(shape: Callable[[int], bytes]) -> None:
    """Detect a scan that searches for an end from each beginning: its time is quadratic in the size."""
    small, large = shape(8_000), shape(64_000)

    def measure_fastest(data: bytes) -> float:
        return min(thread_seconds(lambda: list(pem_blocks(data))) for _ in range(3))

    # For eight times the text, a linear scan takes 8 times as long, and a quadratic one 64 times.
    assert measure_fastest(large) < max(0.02, 24 * measure_fastest(small))


def find_blocks_naively(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the blocks by their definition: search the rest of the text for the end of each block."""
    begin, dashes, end_mark = b"-----BEGIN ", b"-----", b"-----END "
    start = data.find(begin)
    while start >= 0:
        after = data.find(dashes, start + len(begin))
        label = data[start + len(begin) : after]
        end = data.find(end_mark + label + dashes, after) if after > 0 and b"\n" not in label else -1
        if end >= 0:
            end += len(end_mark) + len(label) + len(dashes)
            yield label, data[start:end] + b"\n"
        start = data.find(begin, max(end, start + len(begin)))


PIECES = st.sampled_from(
    [b"-----BEGIN ", b"-----END ", b"-----", b"-", b"A", b"B", b"A-----", b"B-----\n", b"\n", b" ", b"BEGIN ", b"x"]
)


@given(st.lists(PIECES, max_size=40).map(b"".join))
@example(b"-----BEGIN A-----END A-----")
@example(b"-----BEGIN A-----\n-----BEGIN B-----\n-----END B-----\n-----END A-----")
@example(b"-----BEGIN A------END A-----\n-----END A-----")
@example(b"-----BEGIN A-----\n-----END A----------BEGIN B-----\n-----END B-----")
@example(b"-----END A-----BEGIN A-----\n-----END A-----")
@example(b"-----BEGIN A-----\n-----END AB")
@example(b"-----BEGIN A\n-----\n-----END A\n-----\n-----BEGIN A-----\n-----END A-----")
def test_scan_finds_the_blocks_of_the_definition(data: bytes) -> None:
    assert list(pem_blocks(data)) == list(find_blocks_naively(data))


def test_text_above_the_size_limit_is_refused() -> None:
    text = LEAF.pem.encode().ljust(65_536, b"#")
    assert parse_bundle(text, SUBJECT).all_certificates().decode() == LEAF.pem
    with pytest.raises(ObjectError) as caught:
        parse_bundle(text + b"#", SUBJECT)
    assert caught.value.message == (
        f"{SUBJECT} has 65537 bytes, and 65536 bytes of PEM or PFX at most are read; map it by its name alone in an"
        " Opaque Secret, or split it"
    )


@pytest.mark.parametrize(
    ("block", "maximum", "noun"), [(LEAF.pem, 100, "certificates"), (LEAF.key_pem, 20, "private keys")]
)
def test_blocks_above_the_maximum_number_are_refused(
    block: str, maximum: int, noun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "MAX_BUNDLE_BYTES", 2**20)
    parse_bundle(block.encode() * maximum, SUBJECT)
    with pytest.raises(ObjectError) as caught:
        parse_bundle(block.encode() * (maximum + 1), SUBJECT)
    assert caught.value.message == f"{SUBJECT} holds more than {maximum} {noun}; split it into several objects"
