"""Test the parser of PEM and PFX: the leaf, the order of its issuers, complete chains, and damaged input."""

import base64
import contextlib
import itertools
import ssl
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import cast

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.domain.certificates import CertificateBundle, parse_bundle, pfx_to_pem
from controller.errors import ObjectError, UnopenedPfx
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
SUBJECT = "secret web in Key Vault shop"
ROOT = issue_certificate("root", ca=True)
MIDDLE = issue_certificate("middle", ROOT, ca=True)
ISSUING = issue_certificate("issuing", MIDDLE, ca=True)
LEAF = issue_certificate("web", ISSUING)
UNRELATED = issue_certificate("stranger", issue_certificate("elsewhere", ca=True))
RSA_LEAF = issue_certificate("rsa", ISSUING, key=generate_key("RSA"))
# Other CAs with the same name. The BARE certificates have no key identifiers.
SAME_NAME_CA = issue_certificate("issuing", ROOT, ca=True)
BARE_SAME_NAME_CA = issue_certificate("issuing", ROOT, ca=True, identifiers=False)
BARE_LEAF = issue_certificate("web", ISSUING, key=LEAF.key, identifiers=False)
# Later certificates with the same names and keys.
RENEWED_CA = issue_certificate("issuing", MIDDLE, ca=True, key=ISSUING.key, days=60)
RENEWED_LEAF = issue_certificate("web", ISSUING, key=LEAF.key, start=NOON + timedelta(days=1))
RENEWED_ROOT = issue_certificate("root", ca=True, key=ROOT.key, days=60)
SHORT_LEAF = issue_certificate("web", ROOT, key=LEAF.key)
SELF_SIGNED = issue_certificate("web", key=LEAF.key, start=NOON + timedelta(days=2))
NAMES = {item.certificate: name for name, item in list(globals().items()) if isinstance(item, IssuedCertificate)}


def join_pem(items: Sequence[IssuedCertificate]) -> str:
    return "".join(item.pem for item in items)


def parse_text(text: str | bytes) -> CertificateBundle:
    return parse_bundle(text.encode() if isinstance(text, str) else text, SUBJECT)


def get_parse_error(text: str | bytes) -> str:
    with pytest.raises(ObjectError) as caught:
        parse_text(text)
    assert caught.value.message.startswith(SUBJECT)
    return caught.value.message


CHAINS = [
    pytest.param([LEAF], ["LEAF"], False, id="leaf only"),
    pytest.param([LEAF, ISSUING], ["LEAF", "ISSUING"], True, id="without the root"),
    pytest.param([LEAF, ISSUING, MIDDLE, ROOT], ["LEAF", "ISSUING", "MIDDLE", "ROOT"], True, id="whole chain"),
    pytest.param([LEAF, MIDDLE, ROOT], ["LEAF"], False, id="first CA missing"),
    pytest.param([LEAF, ISSUING, ROOT], ["LEAF", "ISSUING"], False, id="second CA missing"),
    pytest.param([LEAF, UNRELATED, ISSUING], ["LEAF", "ISSUING"], True, id="unrelated certificate"),
    pytest.param([LEAF, SAME_NAME_CA, ISSUING], ["LEAF", "ISSUING"], True, id="CA with the same name"),
    pytest.param(
        [BARE_LEAF, BARE_SAME_NAME_CA, ISSUING], ["BARE_LEAF", "ISSUING"], True, id="only the signature differs"
    ),
    pytest.param([LEAF, SAME_NAME_CA], ["LEAF"], False, id="only a CA with the same name"),
    pytest.param([LEAF, ISSUING, RENEWED_CA], ["LEAF", "RENEWED_CA"], True, id="renewed CA"),
    pytest.param([RENEWED_LEAF, LEAF, ISSUING], ["RENEWED_LEAF", "ISSUING"], True, id="renewed leaf"),
    pytest.param([LEAF, SELF_SIGNED, ISSUING], ["LEAF", "ISSUING"], True, id="self-signed certificate of the same key"),
    pytest.param([SELF_SIGNED], ["SELF_SIGNED"], True, id="self-signed"),
    pytest.param([SHORT_LEAF, ROOT, RENEWED_ROOT], ["SHORT_LEAF", "RENEWED_ROOT"], True, id="renewed root"),
]


@pytest.mark.parametrize("form", ["key first", "key last", "pfx", "pfx in DER"])
@pytest.mark.parametrize(("items", "chain", "complete"), CHAINS)
def test_bundle_has_leaf_then_issuers_then_other_certificates(
    form: str, items: list[IssuedCertificate], chain: list[str], complete: bool
) -> None:
    for mixed in itertools.permutations(items):
        if form.startswith("pfx"):  # without a key id, the PFX does not say which certificate belongs to the key
            text = encode_pfx(LEAF.key, mixed, key_id=False).encode()
            bundle = parse_text(base64.b64decode(text) if form.endswith("DER") else text)
        else:
            parts = [LEAF.key_pem, join_pem(mixed)]
            bundle = parse_text("".join(parts if form == "key first" else reversed(parts)))
            assert bundle.in_order == (bundle.all_certificates().decode() == join_pem(mixed))
        found = [NAMES[item] for item in bundle.chain]
        rest = [item for item in mixed if NAMES[item.certificate] not in chain]
        assert (found, bundle.complete) == (chain, complete)
        assert bundle.all_certificates().decode() == join_pem([globals()[name] for name in chain] + rest)
        assert bundle.key.decode() == LEAF.key_pem


@pytest.mark.parametrize(
    ("items", "chain", "complete"),
    [
        ([LEAF, ISSUING, ROOT], ["LEAF", "ISSUING"], False),
        ([ROOT, ISSUING, MIDDLE, LEAF], ["LEAF", "ISSUING", "MIDDLE", "ROOT"], True),
        ([ROOT], ["ROOT"], True),
        ([ROOT, UNRELATED], ["ROOT"], True),
        ([LEAF], ["LEAF"], False),
        ([ISSUING], ["ISSUING"], True),
        ([ISSUING, ROOT], ["ISSUING"], False),
    ],
)
def test_certificates_without_a_private_key_form_a_chain(
    items: list[IssuedCertificate], chain: list[str], complete: bool
) -> None:
    for text in (join_pem(items), encode_pfx(None, items, key_id=False)):
        bundle = parse_text(text)
        assert ([NAMES[item] for item in bundle.chain], bundle.complete) == (chain, complete)
        assert (bundle.key, bundle.key_problem) == (b"", "")


def test_private_key_without_certificates_is_a_complete_bundle() -> None:
    bundle = parse_text(LEAF.key_pem)
    assert (bundle.key.decode(), bundle.all_certificates(), bundle.complete) == (LEAF.key_pem, b"", True)


def test_duplicate_certificate_is_kept_once() -> None:
    bundle = parse_text(LEAF.key_pem + join_pem([LEAF, ISSUING, LEAF]))
    assert bundle.all_certificates().decode() == join_pem([LEAF, ISSUING])
    assert not bundle.in_order


@pytest.mark.parametrize("leaf", [LEAF, RSA_LEAF], ids=["EC", "RSA"])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_tls_key_is_pkcs1_or_sec1_and_other_keys_are_unchanged(leaf: IssuedCertificate, form: PrivateFormat) -> None:
    text = encode_private_key(leaf.key, form)
    bundle = parse_text(join_pem([ISSUING, leaf]) + "a comment\n" + text)
    assert bundle.key.decode() == text
    assert bundle.tls_key(SUBJECT).decode() == encode_private_key(leaf.key, PrivateFormat.TraditionalOpenSSL)
    opened = parse_text(encode_pfx(leaf.key, [leaf, ISSUING]))
    assert opened.key.decode() == leaf.key_pem
    assert opened.tls_key(SUBJECT) == bundle.tls_key(SUBJECT)
    assert opened.all_certificates().decode() == join_pem([leaf, ISSUING])


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize(
    "change_layout",
    [
        str,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("KEY-----\nMII", "KEY-----\nM I\tI", 1),
        lambda text: f"text\n{text}text",
    ],
    ids=["unchanged", "Windows line ends", "spaces in a line", "text around it"],
)
def test_private_key_is_a_block_of_its_own_form_with_unix_line_ends(
    form: PrivateFormat, change_layout: Callable[[str], str]
) -> None:
    text = encode_private_key(RSA_LEAF.key, form)
    assert parse_text(change_layout(text)).private_key().decode() == text


@pytest.mark.parametrize("header", ["Comment: AAAA\n\n", "A: B\nC: DDDD\n\n", "A: B\r\n\r\n"])
def test_private_key_with_headers_is_read_and_unchanged(header: str) -> None:
    first, _, rest = RSA_LEAF.key_pem.partition("\n")
    bundle = parse_text(f"{first}\n{header}{rest}")
    assert bundle.private_key().decode() == f"{first}\n{header}{rest}"
    assert bundle.tls_key(SUBJECT).decode() == encode_private_key(RSA_LEAF.key, PrivateFormat.TraditionalOpenSSL)


def test_rsa_key_whose_numbers_do_not_fit_is_read() -> None:
    """Check that the controller leaves the check of the numbers to the workload that uses the key."""
    numbers = cast("rsa.RSAPrivateKey", RSA_LEAF.key).private_numbers()
    wrong = rsa.RSAPrivateNumbers(
        numbers.p, numbers.q, numbers.d + 2, numbers.dmp1, numbers.dmq1, numbers.iqmp, numbers.public_numbers
    ).private_key(unsafe_skip_rsa_key_validation=True)
    assert parse_text(encode_private_key(wrong)).key.decode() == encode_private_key(wrong)


def test_unreadable_key_of_a_tls_secret_is_reported() -> None:
    bundle = msgspec.structs.replace(parse_text(LEAF.key_pem), key=b"-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(ObjectError) as caught:
        bundle.tls_key(SUBJECT)
    assert caught.value.message == f"{SUBJECT}: its private key cannot be read; import it into the vault again"


@pytest.mark.parametrize(
    ("text", "chain"),
    [
        (join_pem([LEAF, ISSUING]), [ISSUING]),
        (join_pem([LEAF, ISSUING, MIDDLE, ROOT]), [ISSUING, MIDDLE, ROOT]),
        (LEAF.key_pem, "holds no certificate; import one there, or correct the sourcePath"),
        (
            join_pem([ROOT]),
            "has no chain for ca.crt: its certificate is self-signed and has no issuer; use tls.crt as the CA's"
            " certificate, or import the certificate again with its whole chain",
        ),
        (
            LEAF.key_pem + join_pem([LEAF, ROOT, MIDDLE]),
            "has no chain for ca.crt: none of its other 2 certificate(s) issued its leaf; import the certificate again"
            " with its whole chain",
        ),
        (
            join_pem([LEAF]),
            "has no chain for ca.crt: it holds the leaf alone, without the certificate of its issuer; import the"
            " certificate again with its whole chain",
        ),
    ],
)
def test_chain_of_issuers_is_returned_or_its_absence_explained(text: str, chain: list[IssuedCertificate] | str) -> None:
    bundle = parse_text(text)
    if not isinstance(chain, str):
        assert bundle.issuer_chain(SUBJECT).decode() == join_pem(chain)
        return
    with pytest.raises(ObjectError) as caught:
        bundle.issuer_chain(SUBJECT)
    assert caught.value.message == f"{SUBJECT} {chain}"


def test_certificate_with_the_older_label_is_read() -> None:
    older = LEAF.pem.replace("CERTIFICATE", "X509 CERTIFICATE")
    assert parse_text(older).all_certificates().decode() == LEAF.pem


@pytest.mark.parametrize("key", [LEAF.key, None], ids=["key", "no key"])
def test_opened_pfx_is_key_and_certificates_in_pem(key: ec.EllipticCurvePrivateKey | None) -> None:
    opened = pfx_to_pem(base64.b64decode(encode_pfx(key, [LEAF, ISSUING], key_id=bool(key))))
    assert opened.decode() == (LEAF.key_pem if key else "") + join_pem([LEAF, ISSUING])


def test_pfx_in_several_lines_is_read() -> None:
    text = base64.encodebytes(base64.b64decode(encode_pfx(LEAF.key, [LEAF])))
    assert parse_text(text).all_certificates().decode() == LEAF.pem


@pytest.mark.parametrize(
    ("error", "kind", "fault"),
    [
        (
            TimeoutError,
            UnopenedPfx,
            "its PFX takes too long to open; export it with the usual number of iterations, and renew it in the vault",
        ),
        (OSError, UnopenedPfx, "the process that opens its PFX was stopped; the controller tries again"),
        (
            ValueError,
            ObjectError,
            "its PFX has a password, or is damaged; export it without a password, and renew it in the vault",
        ),
    ],
)
def test_pfx_that_is_not_opened_is_reported_with_its_cause(
    error: type[Exception], kind: type[ObjectError], fault: str
) -> None:
    def open_pfx(data: bytes) -> bytes:
        raise error

    with pytest.raises(ObjectError) as caught:
        parse_bundle(encode_pfx(LEAF.key, [LEAF]).encode(), SUBJECT, open_pfx, "renew it in the vault")
    assert (type(caught.value), caught.value.message) == (kind, f"{SUBJECT}: {fault}")


def test_ed25519_key_of_a_tls_secret_is_pkcs8() -> None:
    text = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert parse_text(text).tls_key(SUBJECT) == text


def test_files_of_openssl_are_read() -> None:
    files = [parse_bundle((OPENSSL / name).read_bytes(), SUBJECT) for name in ("aes.pfx", "rc2.pfx", "bag.pem")]
    assert len({item.all_certificates() for item in files}) == len({item.tls_key(SUBJECT) for item in files}) == 1
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
        pytest.param(
            base64.b64encode(b"\x31\x82\xff\xff\2\1\3" * 5), [NEITHER_PEM_NOR_PFX], id="version in something else"
        ),
        pytest.param(encode_pfx(LEAF.key, [LEAF]) + "!", [NEITHER_PEM_NOR_PFX], id="PFX in invalid base64"),
        pytest.param(b"\x30" + bytes(6) + b"\2\1\3", ["PFX has a password, or is damaged"], id="late version of a PFX"),
        pytest.param(b"\x30" + bytes(7) + b"\2\1\3", [NEITHER_PEM_NOR_PFX], id="too late version of a PFX"),
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
        pytest.param(
            LEAF.key_pem.replace("KEY-----\n", "KEY-----\n!", 1),
            ["private key cannot be read"],
            id="invalid base64 in a key",
        ),
        pytest.param(encode_private_key(LEAF.key, password=PASSWORD), ["private key has a password"], id="encrypted"),
        pytest.param(
            encode_private_key(RSA_LEAF.key, PrivateFormat.TraditionalOpenSSL, PASSWORD),
            ["private key has a password", "without one"],
            id="encrypted in the old form",
        ),
        pytest.param(
            join_pem([ISSUING]) + LEAF.key_pem, ["none of its certificates belongs to its private key"], id="no leaf"
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
    message = get_parse_error(text)
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
    bundle = parse_text(key + join_pem([ISSUING, LEAF]))
    assert bundle.all_certificates().decode() == join_pem([LEAF, ISSUING])
    assert bundle.key == b""
    assert problem in bundle.key_problem
    assert PASSWORD not in bundle.key_problem


@pytest.mark.parametrize(
    "others", [[RSA_LEAF.key_pem], [RSA_LEAF.key_pem, encode_private_key(LEAF.key, password=PASSWORD)]]
)
def test_key_that_fits_a_certificate_is_used_of_several(others: list[str]) -> None:
    for keys in itertools.permutations([LEAF.key_pem, *others]):
        bundle = parse_text("".join(keys) + join_pem([ISSUING, LEAF]))
        assert (bundle.key.decode(), bundle.key_problem) == (LEAF.key_pem, "")
        assert [NAMES[item] for item in bundle.chain] == ["LEAF", "ISSUING"]


def test_reordering_keeps_the_other_blocks() -> None:
    others = [f"-----BEGIN {label}-----\naGVsbG8=\n-----END {label}-----\n" for label in ("X509 CRL", "DH PARAMETERS")]
    bundle = parse_text(others[0] + join_pem([ISSUING, LEAF]) + others[1] + LEAF.key_pem)
    assert not bundle.in_order
    assert bundle.reordered_pem().decode() == LEAF.key_pem + join_pem([LEAF, ISSUING]) + "".join(others)


def relabel_as_rsa(key: bytes) -> bytes:
    return key.replace(b"PRIVATE KEY", b"RSA PRIVATE KEY")


@pytest.mark.parametrize("form", ["pss.pem", "pss.pfx"])
def test_rsa_pss_key_of_a_tls_secret_loads_in_a_tls_server(form: str, tmp_path: Path) -> None:
    """OpenSSL refuses a certificate for RSASSA-PSS with a key for plain RSA. PKCS#1 is always plain RSA."""
    bundle = parse_bundle((OPENSSL / form).read_bytes(), SUBJECT)
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_bytes(bundle.all_certificates())
    key.write_bytes(bundle.tls_key(SUBJECT))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    assert key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_plain_rsa_key_next_to_a_pss_certificate_becomes_pss(form: PrivateFormat, tmp_path: Path) -> None:
    bundle = parse_bundle((OPENSSL / "pss.pem").read_bytes(), SUBJECT)
    plain = serialization.load_pem_private_key(bundle.key, None).private_bytes(Encoding.PEM, form, NoEncryption())
    again = parse_bundle(plain + bundle.all_certificates(), SUBJECT)
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    certificate.write_bytes(again.all_certificates())
    key.write_bytes(again.tls_key(SUBJECT))
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    assert key.read_bytes() != plain
    assert key.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_pss_key_without_a_certificate_is_unchanged() -> None:
    key = parse_bundle((OPENSSL / "pss.pem").read_bytes(), SUBJECT).key
    for text in (key, key.rstrip().replace(b"\n", b" \r\n") + b"\n"):
        assert parse_text(text).tls_key(SUBJECT) == text


def test_pss_key_with_another_label_is_pkcs8() -> None:
    bundle = parse_bundle((OPENSSL / "pss.pem").read_bytes(), SUBJECT)
    relabelled = parse_text(relabel_as_rsa(bundle.key) + bundle.all_certificates())
    assert relabelled.tls_key(SUBJECT).startswith(b"-----BEGIN PRIVATE KEY-----")


def test_key_of_a_leaf_decides_its_form_and_not_the_key_of_the_ca() -> None:
    bundle = parse_bundle((OPENSSL / "pss.pem").read_bytes(), SUBJECT)
    key = cast("rsa.RSAPrivateKey", serialization.load_pem_private_key(bundle.key, None))
    leaf = issue_certificate("web", IssuedCertificate(bundle.chain[0], key), key=RSA_LEAF.key)
    whole = parse_text(leaf.key_pem.encode() + leaf.pem.encode() + bundle.all_certificates())
    assert len(whole.chain) == 2
    assert whole.tls_key(SUBJECT).decode() == encode_private_key(leaf.key, PrivateFormat.TraditionalOpenSSL)


def test_repr_of_a_bundle_shows_only_its_size() -> None:
    bundle = parse_text(LEAF.key_pem + LEAF.pem)
    assert repr(bundle) == "CertificateBundle(1 + 0 certificates)"


WHOLE = (LEAF.key_pem + join_pem([LEAF, ISSUING, ROOT])).encode()
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
        bundle = parse_text(text)
        bundle.all_certificates()
        if bundle.key:
            bundle.tls_key(SUBJECT)


def test_cas_that_issued_each_other_form_a_finite_chain() -> None:
    one, other = issue_certificate("one", ca=True), issue_certificate("other", ca=True)
    cross_signed = [
        issue_certificate("one", other, ca=True, key=one.key),
        issue_certificate("other", one, ca=True, key=other.key),
    ]
    for key in (one.key_pem, ""):
        bundle = parse_text(key + join_pem(cross_signed))
        assert list(bundle.chain) == [item.certificate for item in cross_signed]


def test_unrelated_key_after_the_fitting_one_is_ignored() -> None:
    assert parse_text(LEAF.key_pem + UNRELATED.key_pem + LEAF.pem).key.decode() == LEAF.key_pem
