"""Parsing of PEM and PFX: the leaf, the order of its issuers, complete chains, and damaged input."""

import base64
import contextlib
import itertools
import ssl
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.domain.certificates import CertificateBundle, parse_bundle
from controller.errors import ObjectError
from tests.support.certificates import (
    NOON,
    IssuedCertificate,
    encode_pfx,
    encode_private_key,
    generate_key,
    issue_certificate,
)
from tests.support.messages import NEITHER_PEM_NOR_PFX

OPENSSL = Path(__file__).parent / "openssl"
WHAT = "secret web in Key Vault shop"
ROOT = issue_certificate("root", ca=True)
MIDDLE = issue_certificate("middle", ROOT, ca=True)
ISSUING = issue_certificate("issuing", MIDDLE, ca=True)
LEAF = issue_certificate("web", ISSUING)
STRANGER = issue_certificate("stranger", issue_certificate("elsewhere", ca=True))
RSA_LEAF = issue_certificate("rsa", ISSUING, key=generate_key("RSA"))
# Another CA with the same name.
NAMESAKE = issue_certificate("issuing", ROOT, ca=True)
BARE_NAMESAKE = issue_certificate("issuing", ROOT, ca=True, identifiers=False)
BARE_LEAF = issue_certificate("web", ISSUING, key=LEAF.key, identifiers=False)
# Later certificates with the same names and keys.
RENEWED_CA = issue_certificate("issuing", MIDDLE, ca=True, key=ISSUING.key, days=60)
RENEWED_LEAF = issue_certificate("web", ISSUING, key=LEAF.key, start=NOON + timedelta(days=1))
SELF_SIGNED = issue_certificate("web", key=LEAF.key, start=NOON + timedelta(days=2))
NAMES = {item.certificate: name for name, item in list(globals().items()) if isinstance(item, IssuedCertificate)}


def pem_of(items: Sequence[IssuedCertificate]) -> str:
    return "".join(item.pem for item in items)


def read(text: str | bytes) -> CertificateBundle:
    return parse_bundle(text.encode() if isinstance(text, str) else text, WHAT)


def read_error(text: str | bytes) -> str:
    with pytest.raises(ObjectError) as caught:
        read(text)
    assert caught.value.message.startswith(WHAT)
    return caught.value.message


CHAINS = [
    pytest.param([LEAF], ["LEAF"], False, id="leaf only"),
    pytest.param([LEAF, ISSUING], ["LEAF", "ISSUING"], True, id="without the root"),
    pytest.param([LEAF, ISSUING, MIDDLE, ROOT], ["LEAF", "ISSUING", "MIDDLE", "ROOT"], True, id="whole chain"),
    pytest.param([LEAF, MIDDLE, ROOT], ["LEAF"], False, id="first CA missing"),
    pytest.param([LEAF, ISSUING, ROOT], ["LEAF", "ISSUING"], False, id="second CA missing"),
    pytest.param([LEAF, STRANGER, ISSUING], ["LEAF", "ISSUING"], True, id="unrelated certificate"),
    pytest.param([LEAF, NAMESAKE, ISSUING], ["LEAF", "ISSUING"], True, id="CA with the same name"),
    pytest.param([BARE_LEAF, BARE_NAMESAKE, ISSUING], ["BARE_LEAF", "ISSUING"], True, id="only the signature differs"),
    pytest.param([LEAF, NAMESAKE], ["LEAF"], False, id="only a CA with the same name"),
    pytest.param([LEAF, ISSUING, RENEWED_CA], ["LEAF", "RENEWED_CA"], True, id="renewed CA"),
    pytest.param([RENEWED_LEAF, LEAF, ISSUING], ["RENEWED_LEAF", "ISSUING"], True, id="renewed leaf"),
    pytest.param([LEAF, SELF_SIGNED, ISSUING], ["LEAF", "ISSUING"], True, id="self-signed certificate of the same key"),
    pytest.param([SELF_SIGNED], ["SELF_SIGNED"], True, id="self-signed"),
]


@pytest.mark.parametrize("form", ["key first", "key last", "pfx", "pfx in DER"])
@pytest.mark.parametrize(("items", "chain", "complete"), CHAINS)
def test_bundle_has_leaf_then_issuers_then_other_certificates(
    form: str, items: list[IssuedCertificate], chain: list[str], complete: bool
) -> None:
    for mixed in itertools.permutations(items):
        if form.startswith("pfx"):  # without a key id, the PFX does not say which certificate belongs to the key
            text = encode_pfx(LEAF.key, mixed, key_id=False).encode()
            bundle = read(base64.b64decode(text) if form.endswith("DER") else text)
        else:
            parts = [LEAF.key_pem, pem_of(mixed)]
            bundle = read("".join(parts if form == "key first" else reversed(parts)))
            assert bundle.in_order == (bundle.all_certificates().decode() == pem_of(mixed))
        found = [NAMES[item] for item in bundle.chain]
        rest = [item for item in mixed if NAMES[item.certificate] not in chain]
        assert (found, bundle.complete) == (chain, complete)
        assert bundle.all_certificates().decode() == pem_of([globals()[name] for name in chain] + rest)
        assert bundle.key.decode() == LEAF.key_pem


@pytest.mark.parametrize(
    ("items", "chain"),
    [
        ([LEAF, ISSUING, ROOT], ["LEAF", "ISSUING"]),
        ([ROOT, ISSUING, MIDDLE, LEAF], ["LEAF", "ISSUING", "MIDDLE", "ROOT"]),
        ([ROOT], ["ROOT"]),
        ([ROOT, STRANGER], ["ROOT"]),
    ],
)
def test_certificates_without_a_private_key_form_a_chain(items: list[IssuedCertificate], chain: list[str]) -> None:
    for text in (pem_of(items), encode_pfx(None, items, key_id=False)):
        bundle = read(text)
        assert [NAMES[item] for item in bundle.chain] == chain
        assert bundle.key == b""


def test_private_key_without_certificates_is_a_complete_bundle() -> None:
    bundle = read(LEAF.key_pem)
    assert (bundle.key.decode(), bundle.all_certificates(), bundle.complete) == (LEAF.key_pem, b"", True)


def test_duplicate_certificate_is_kept_once() -> None:
    bundle = read(LEAF.key_pem + pem_of([LEAF, ISSUING, LEAF]))
    assert bundle.all_certificates().decode() == pem_of([LEAF, ISSUING])
    assert not bundle.in_order


@pytest.mark.parametrize("leaf", [LEAF, RSA_LEAF], ids=["EC", "RSA"])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_tls_key_is_pkcs1_or_sec1_and_other_keys_are_unchanged(leaf: IssuedCertificate, form: PrivateFormat) -> None:
    text = encode_private_key(leaf.key, form)
    bundle = read(pem_of([ISSUING, leaf]) + "a comment\n" + text)
    assert bundle.key.decode() == text
    assert bundle.tls_key(WHAT).decode() == encode_private_key(leaf.key, PrivateFormat.TraditionalOpenSSL)
    opened = read(encode_pfx(leaf.key, [leaf, ISSUING]))
    assert opened.key.decode() == leaf.key_pem
    assert opened.tls_key(WHAT) == bundle.tls_key(WHAT)
    assert opened.all_certificates().decode() == pem_of([leaf, ISSUING])


def test_ed25519_key_of_a_tls_secret_is_pkcs8() -> None:
    text = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert read(text).tls_key(WHAT) == text


def test_files_of_openssl_are_read() -> None:
    files = [parse_bundle((OPENSSL / name).read_bytes(), WHAT) for name in ("aes.pfx", "rc2.pfx", "bag.pem")]
    assert len({item.all_certificates() for item in files}) == len({item.tls_key(WHAT) for item in files}) == 1
    assert all(len(item.chain) == 1 and item.complete for item in files)


CUT = LEAF.pem[: len(LEAF.pem) // 2]
PASSWORD = "swordfish"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", [NEITHER_PEM_NOR_PFX, "import it again"], id="empty"),
        pytest.param("hello", [NEITHER_PEM_NOR_PFX], id="text"),
        pytest.param(base64.b64encode(b"hello").decode(), [NEITHER_PEM_NOR_PFX], id="base64 of something else"),
        pytest.param(b"\x30\x82\xff\xff" * 5, [NEITHER_PEM_NOR_PFX], id="DER of something else"),
        pytest.param("-----BEGIN ", ["neither a certificate nor a private key"], id="first bytes of a PEM"),
        pytest.param(CUT, ["neither a certificate nor a private key"], id="cut off"),
        pytest.param(
            "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
            ["certificate 1 of its PEM cannot be read", "import it"],
            id="invalid certificate in a PEM",
        ),
        pytest.param(
            "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n",
            ["private key cannot be read", "import it"],
            id="invalid key in a PEM",
        ),
        pytest.param(encode_private_key(LEAF.key, password=PASSWORD), ["private key has a password"], id="encrypted"),
        pytest.param(
            encode_private_key(RSA_LEAF.key, PrivateFormat.TraditionalOpenSSL, PASSWORD),
            ["private key has a password", "without one"],
            id="encrypted in the old form",
        ),
        pytest.param(
            pem_of([ISSUING]) + LEAF.key_pem, ["none of its certificates belongs to its private key"], id="no leaf"
        ),
        pytest.param(
            encode_pfx(LEAF.key, [LEAF], PASSWORD), ["PFX has a password", "import it"], id="PFX with a password"
        ),
        pytest.param(
            base64.b64decode(encode_pfx(LEAF.key, [LEAF]))[:-9],
            ["PFX has a password, or is damaged"],
            id="damaged PFX",
        ),
    ],
)
def test_unreadable_input_is_reported_with_its_cause(text: str | bytes, words: list[str]) -> None:
    message = read_error(text)
    for word in words:
        assert word in message
    assert PASSWORD not in message


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (encode_private_key(LEAF.key, password=PASSWORD), "private key has a password"),
        (encode_private_key(RSA_LEAF.key, PrivateFormat.TraditionalOpenSSL, PASSWORD), "private key has a password"),
        ("-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n", "private key cannot be read"),
    ],
    ids=["encrypted", "encrypted in the old form", "invalid"],
)
def test_unusable_key_does_not_prevent_reading_the_certificates(key: str, problem: str) -> None:
    bundle = read(key + pem_of([ISSUING, LEAF]))
    assert bundle.all_certificates().decode() == pem_of([LEAF, ISSUING])
    assert bundle.key == b""
    assert problem in bundle.key_problem
    assert PASSWORD not in bundle.key_problem


@pytest.mark.parametrize(
    "others", [[RSA_LEAF.key_pem], [RSA_LEAF.key_pem, encode_private_key(LEAF.key, password=PASSWORD)]]
)
def test_key_that_fits_a_certificate_is_used_of_several(others: list[str]) -> None:
    for keys in itertools.permutations([LEAF.key_pem, *others]):
        bundle = read("".join(keys) + pem_of([ISSUING, LEAF]))
        assert (bundle.key.decode(), bundle.key_problem) == (LEAF.key_pem, "")
        assert [NAMES[item] for item in bundle.chain] == ["LEAF", "ISSUING"]


def test_other_blocks_survive_reordering() -> None:
    others = [f"-----BEGIN {label}-----\naGVsbG8=\n-----END {label}-----\n" for label in ("X509 CRL", "DH PARAMETERS")]
    bundle = read(others[0] + pem_of([ISSUING, LEAF]) + others[1] + LEAF.key_pem)
    assert not bundle.in_order
    assert bundle.reordered_pem().decode() == LEAF.key_pem + pem_of([LEAF, ISSUING]) + "".join(others)


@pytest.mark.parametrize("form", ["pss.pem", "pss.pfx"])
def test_rsa_pss_key_of_a_tls_secret_loads_in_a_tls_server(form: str, tmp_path: Path) -> None:
    """OpenSSL refuses a certificate for RSASSA-PSS with a key for plain RSA. PKCS#1 is always plain RSA."""
    bundle = parse_bundle((OPENSSL / form).read_bytes(), WHAT)
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_bytes(bundle.all_certificates())
    key.write_bytes(bundle.tls_key(WHAT))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    assert key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_plain_rsa_key_next_to_a_pss_certificate_becomes_pss() -> None:
    bundle = parse_bundle((OPENSSL / "pss.pem").read_bytes(), WHAT)
    plain = serialization.load_pem_private_key(bundle.key, None).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    again = parse_bundle(plain + bundle.all_certificates(), WHAT)
    assert again.tls_key(WHAT) != plain
    assert again.tls_key(WHAT).startswith(b"-----BEGIN PRIVATE KEY-----")


def test_repr_of_a_bundle_shows_only_its_size() -> None:
    bundle = read(LEAF.key_pem + LEAF.pem)
    assert repr(bundle) == "CertificateBundle(1 + 0 certificates)"


WHOLE = (LEAF.key_pem + pem_of([LEAF, ISSUING, ROOT])).encode()
WHOLE_PFX = base64.b64decode(encode_pfx(LEAF.key, [LEAF, ISSUING, ROOT]))


@settings(max_examples=300, deadline=None)
@given(
    whole=st.sampled_from([WHOLE, WHOLE_PFX, base64.b64encode(WHOLE_PFX)]),
    edits=st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 40), st.binary(max_size=8)), max_size=6),
)
def test_damaged_input_yields_a_bundle_or_an_object_error(whole: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    for start, length, new in edits:
        whole = whole[:start] + new + whole[start + length :]
    assert_read_or_rejected(whole)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([b"-----BEGIN ", b"-----END ", b"-----", b"CERTIFICATE", b"PRIVATE KEY", b"EC ", b"\n"]),
            st.sampled_from([LEAF.pem.encode(), LEAF.key_pem.encode(), ISSUING.pem.encode(), WHOLE_PFX[:20]]),
            st.binary(max_size=20),
        )
    ).map(b"".join)
)
def test_random_pieces_yield_a_bundle_or_an_object_error(text: bytes) -> None:
    assert_read_or_rejected(text)


def assert_read_or_rejected(text: bytes) -> None:
    with contextlib.suppress(ObjectError):
        bundle = read(text)
        bundle.all_certificates()
        if bundle.key:
            bundle.tls_key(WHAT)


def test_cas_that_issued_each_other_form_a_finite_chain() -> None:
    one, other = issue_certificate("one", ca=True), issue_certificate("other", ca=True)
    crossed = [
        issue_certificate("one", other, ca=True, key=one.key),
        issue_certificate("other", one, ca=True, key=other.key),
    ]
    bundle = read(one.key_pem + pem_of(crossed))
    assert list(bundle.chain) == [item.certificate for item in crossed]


def test_unrelated_key_after_the_fitting_one_is_ignored() -> None:
    assert read(LEAF.key_pem + STRANGER.key_pem + LEAF.pem).key.decode() == LEAF.key_pem
