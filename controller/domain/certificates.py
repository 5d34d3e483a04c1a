"""Parse PEM and PFX from a vault into private key, chain, and other parts. Pure.

Source: RFC 7468 (PEM), RFC 7292 (PFX), RFC 5280 section 6 (the definition of a chain); Azure Key Vault, "Get started
with Key Vault certificates".

The leaf is the certificate of the private key. Without a private key, it is the one that issued none of the others. Its
issuer follows, then the issuer's issuer and so on, matched by name and signature. Certificates outside the chain come
last, in their original order.

A chain is complete when it ends in a self-signed certificate, or in a CA certificate whose issuer is missing: roots are
usually left out because verifiers have them. It is incomplete when a leaf comes without its issuer, or when there is a
root that the chain does not reach.
"""

import base64
import binascii
import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat, pkcs12

from controller.errors import ObjectError, UnopenedPfx

_BEGIN = b"-----BEGIN "
_END = b"-----END "
_DASHES = b"-----"
# Key Vault stores values of up to 25 KB. The cost of parsing grows with the square of the number of certificates.
MAX_BUNDLE_BYTES = 64 * 1024
MAX_CERTIFICATES = 100
MAX_KEYS = 20
# OpenSSL tests the primes of a Diffie-Hellman key when it loads one. With 10,000 bits this takes a minute, in which no
# other thread of the process runs. No server certificate has such a key. (RFC 3279, 2.3.3; PKCS #3.)
_DH_ALGORITHMS = {
    "1.2.840.113549.1.3.1": bytes.fromhex("06092a864886f70d010301"),
    "1.2.840.10046.2.1": bytes.fromhex("06072a8648ce3e0201"),
}
# The latest end of the algorithm in a PKCS#8 private key (RFC 5208, 5): it follows a header of at most four bytes, the
# version, another header and an identifier.
_ALGORITHM_ENDS = 32
# A PFX is a SEQUENCE that begins with its version, the INTEGER 3 (RFC 7292, 4).
_PFX_VERSION = b"\x02\x01\x03"
T = TypeVar("T")
OpenPfx = Callable[[bytes], bytes]


class CertificateBundle(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The parts of a PEM or PFX. `chain` begins with the leaf; `unrelated` are the certificates outside the chain.

    `key` is the private key as PEM: unchanged from PEM, or PKCS#8 from a PFX. `key_problem` says why an existing key is
    unusable; then `key` is empty. `validity` are the leaf's dates: not before, and not after. `complete` means that the
    chain is complete, as defined above. `in_order` says whether the certificates were already in this order. `others`
    are all other PEM blocks, such as CRLs and DH parameters. The bundle contains a private key, so its users drop it
    after use.
    """

    key: bytes
    key_problem: str
    validity: tuple[datetime, datetime] | None
    others: Sequence[bytes]
    chain: Sequence[x509.Certificate]
    unrelated: Sequence[x509.Certificate]
    complete: bool
    in_order: bool

    def __repr__(self) -> str:
        return f"CertificateBundle({len(self.chain)} + {len(self.unrelated)} certificates)"

    def all_certificates(self) -> bytes:
        """Return all certificates in PEM."""
        return b"".join(item.public_bytes(Encoding.PEM) for item in (*self.chain, *self.unrelated))

    def issuer_chain(self, noun: str) -> bytes:
        """Return the chain without the leaf, in PEM. Raise `ObjectError` with the cause if there is none."""
        if not self.chain:
            raise ObjectError(f"{noun} holds no certificate; import one there, or correct the sourcePath")
        if len(self.chain) > 1:
            return b"".join(item.public_bytes(Encoding.PEM) for item in self.chain[1:])
        leaf = self.chain[0]
        if _is_issuer(leaf, leaf):
            why = "its certificate is self-signed and has no issuer; use tls.crt as the CA's certificate, or"
        elif self.unrelated:
            why = f"none of its other {len(self.unrelated)} certificate(s) issued its leaf;"
        else:
            why = "it holds the leaf alone, without the certificate of its issuer;"
        raise ObjectError(f"{noun} has no chain for ca.crt: {why} import the certificate again with its whole chain")

    def reordered_pem(self) -> bytes:
        """Return everything as PEM: the private key, all certificates from the leaf on, the other blocks."""
        return self.key + self.all_certificates() + b"".join(self.others)

    def private_key(self) -> bytes:
        """Return the private key as a PEM block in its own form, with Unix line ends and 64 characters a line.

        So does the CSI provider with `name.key`. The value as a whole keeps its line ends.
        """
        label = self.key.split(_DASHES)[1].removeprefix(b"BEGIN ")
        has_headers = b":" in self.key
        return self.key if has_headers else _encode_pem(label, _block_der(self.key))

    def tls_key(self, noun: str) -> bytes:
        """Return the private key in upstream's form for a TLS Secret: PKCS#1 for RSA, SEC 1 for EC, else PKCS#8.

        RSASSA-PSS (RFC 4055) stays PKCS#8: PKCS#1 cannot express it, and a TLS server refuses a certificate for it with
        any other type of key.
        """
        return _run_parser(self._tls_key, f"{noun}: its private key cannot be read")

    def _tls_key(self) -> bytes:
        key, is_pss = _load_key(self.key), _is_pss_key(self.key)
        needs_pss = _has_pss(self.chain[0]) if self.chain else is_pss
        if needs_pss:
            return self.key if is_pss else _as_pss(key)
        return _private_pem(key, traditional=True)


def is_pem(data: bytes) -> bool:
    """Return whether the data contains the beginning of a PEM block."""
    return _BEGIN in data


def pfx_to_pem(data: bytes) -> bytes:
    """Return private key and certificates of a PFX (DER) without a password as PEM.

    OpenSSL can raise any error, and can take any time: `pkcs12_sandbox` limits both.
    """
    found = pkcs12.load_pkcs12(data, None)
    key = _private_pem(found.key) if found.key else b""
    certificates = [item.certificate for item in (found.cert, *found.additional_certs) if item]
    return key + b"".join(item.public_bytes(Encoding.PEM) for item in certificates)


def parse_bundle(
    data: bytes, noun: str, open_pfx: OpenPfx = pfx_to_pem, advice: str = "import it again"
) -> CertificateBundle:
    """Parse a PEM, or a PFX in DER or base64. Raise `ObjectError` about `noun`, such as `secret web in Key Vault shop`.

    `open_pfx` acts like `pfx_to_pem`. It may also raise `TimeoutError` if a PFX takes too long, or another `OSError` if
    it could not finish. `advice` is the next step if the value cannot be read.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise ObjectError(
            f"{noun} has {len(data)} bytes, and {MAX_BUNDLE_BYTES} bytes of PEM or PFX at most are read; map it by its"
            " name alone in an Opaque Secret, or split it"
        )
    found = _read_pem(data if is_pem(data) else _read_pfx(data, noun, open_pfx, advice), noun)
    if not found.keys and not found.locked and not found.certificates:
        raise ObjectError(f"{noun} holds neither a certificate nor a private key; {advice}")
    return _run_parser(lambda: _build_bundle(found, noun), f"{noun} holds a certificate that cannot be read")


def _run_parser(attempt: Callable[[], T], failure: str) -> T:
    """Run a parser. Raise `ObjectError` for all its errors, because each means that the value is unreadable."""
    try:
        return attempt()
    except ObjectError:
        raise
    except Exception as error:
        raise ObjectError(f"{failure}; import it into the vault again") from error


def pem_blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield label and text of each PEM block, in time that grows linearly with the size.

    A block reaches from a BEGIN to the first END with the same label. Text between blocks, and a BEGIN without its END,
    count as comments.
    """
    ends: defaultdict[bytes, deque[int]] = defaultdict(deque)
    for position, label in _find_marks(data, _END):
        ends[label].append(position)
    done = 0
    for start, label in _find_marks(data, _BEGIN):
        if start < done or b"\n" in label:
            continue
        line = ends.get(label, deque())
        while line and line[0] < start:
            line.popleft()
        if line:
            done = line.popleft() + len(_END) + len(label) + len(_DASHES)
            yield label, data[start:done] + b"\n"


def _find_marks(data: bytes, mark: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield position and label of each BEGIN, or END, that has dashes after its label."""
    start = data.find(mark)
    while start >= 0:
        first = start + len(mark)
        after = data.find(_DASHES, first)
        if after < 0:
            return
        yield start, data[first:after]
        start = data.find(mark, first)


class _PemContents(NamedTuple):
    """The blocks of a PEM in their order. `locked` are private keys with a password."""

    keys: list[bytes]
    locked: list[bytes]
    certificates: list[x509.Certificate]
    others: list[bytes]


def _read_pem(data: bytes, noun: str) -> _PemContents:
    found = _PemContents([], [], [], [])
    for label, block in pem_blocks(data):
        if label.endswith(b"PRIVATE KEY"):
            is_locked = b"ENCRYPTED" in label or b",ENCRYPTED" in block
            (found.locked if is_locked else found.keys).append(block)
        elif label in (b"CERTIFICATE", b"X509 CERTIFICATE"):
            if len(found.certificates) == MAX_CERTIFICATES:
                raise ObjectError(
                    f"{noun} holds more than {MAX_CERTIFICATES} certificates; split it into several objects"
                )
            failure = f"{noun}: certificate {len(found.certificates) + 1} of its PEM cannot be read"
            found.certificates.append(_run_parser(partial(_load_certificate, block), failure))
        else:
            found.others.append(block)
    if len(found.keys) > MAX_KEYS:
        raise ObjectError(f"{noun} holds more than {MAX_KEYS} private keys; split it into several objects")
    return found


def _read_pfx(data: bytes, noun: str, open_pfx: OpenPfx, advice: str) -> bytes:
    # A PFX in DER cannot be base64: its version has bytes outside the alphabet.
    with contextlib.suppress(binascii.Error):
        data = base64.b64decode(b"".join(data.split()), validate=True)
    if not data.startswith(b"\x30") or _PFX_VERSION not in data[:10]:
        raise ObjectError(f"{noun} is neither PEM nor PFX; {advice}")
    try:
        return open_pfx(data)
    except TimeoutError as error:
        raise UnopenedPfx(
            f"{noun}: its PFX takes too long to open; export it with the usual number of iterations, and {advice}"
        ) from error
    except OSError as error:
        raise UnopenedPfx(f"{noun}: the process that opens its PFX was stopped; the controller tries again") from error
    except Exception as error:
        raise ObjectError(
            f"{noun}: its PFX has a password, or is damaged; export it without a password, and {advice}"
        ) from error


def _private_pem(key: Any, *, traditional: bool = False) -> bytes:
    """Return a private key as PKCS#8, or with `traditional` in OpenSSL's form: PKCS#1 for RSA, SEC 1 for EC."""
    is_traditional = traditional and isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    form = PrivateFormat.TraditionalOpenSSL if is_traditional else PrivateFormat.PKCS8
    text: bytes = key.private_bytes(Encoding.PEM, form, serialization.NoEncryption())
    return text


def _load_key(text: bytes) -> Any:
    """Load a private key (PEM). Raise `ValueError` for a Diffie-Hellman key, or any error of the parser."""
    data = _block_der(text)
    if any(algorithm in data[:_ALGORITHM_ENDS] for algorithm in _DH_ALGORITHMS.values()):
        raise ValueError("a Diffie-Hellman key")
    # Checking the primes of an RSA key takes a quarter of a second. The workload that uses the key checks them.
    return serialization.load_der_private_key(data, None, unsafe_skip_rsa_key_validation=True)


def _load_certificate(text: bytes) -> x509.Certificate:
    """Load a certificate (PEM), also with blank lines, which `load_pem_x509_certificate` refuses and Go accepts."""
    return x509.load_der_x509_certificate(_block_der(text))


def _block_der(text: bytes) -> bytes:
    """Return the DER in one PEM block, without the headers that RFC 1421 allows before it."""
    lines = [line.strip() for line in text.split(_DASHES)[2].strip().split(b"\n")]
    if any(b":" in line for line in lines):
        lines = lines[lines.index(b"") :]
    return base64.b64decode(b"".join(b"".join(lines).split()), validate=True)


# The AlgorithmIdentifier of an RSASSA-PSS key without parameters (RFC 4055, section 1.2; OID 1.2.840.113549.1.1.10). It
# follows the INTEGER 0 of a PrivateKeyInfo (RFC 5958).
_PSS = bytes.fromhex("06092a864886f70d01010a")
_PSS_ALGORITHM = b"\x02\x01\x00\x30" + bytes([len(_PSS)]) + _PSS


def _is_pss_key(pem: bytes) -> bool:
    """Return whether a private key in PEM is PKCS#8 for RSASSA-PSS."""
    return pem.startswith(b"-----BEGIN PRIVATE KEY-----") and _PSS in _block_der(pem)[:_ALGORITHM_ENDS]


def _has_pss(certificate: x509.Certificate) -> bool:
    return certificate.public_key_algorithm_oid == x509.PublicKeyAlgorithmOID.RSASSA_PSS


def _as_pss(key: rsa.RSAPrivateKey) -> bytes:
    """Return an RSA key as PKCS#8 for RSASSA-PSS, which `cryptography` reads but does not write."""
    inner = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    der = _encode_der(0x30, _PSS_ALGORITHM + _encode_der(0x04, inner))
    return _encode_pem(b"PRIVATE KEY", der)


def _encode_pem(label: bytes, der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([_BEGIN + label + _DASHES, *lines, _END + label + _DASHES, b""])


def _encode_der(tag: int, content: bytes) -> bytes:
    """Return a DER value of 256 to 65,535 bytes. X.690, section 8.1.3, defines the length."""
    return bytes([tag, 0x82]) + len(content).to_bytes(2) + content


def _build_bundle(read: _PemContents, noun: str) -> CertificateBundle:
    found = list(dict.fromkeys(read.certificates))
    publics = {key: _public_of(key) for key in read.keys}
    readable = [key for key, public in publics.items() if public]
    key = next((key for key in readable if any(_has_key(item, publics[key]) for item in found)), b"")
    key = key or next(iter(readable), b"")
    problem = ""
    if not key and read.keys:
        problem = f"{noun}: its private key cannot be read; import it into the vault again"
    elif not key and read.locked:
        problem = f"{noun}: its private key has a password; put it into the vault without one"
    if problem and not found:
        raise ObjectError(problem)
    leaf = _find_leaf(found, publics.get(key, b""))
    if found and leaf is None:
        raise ObjectError(f"{noun}: none of its certificates belongs to its private key; import the two that do")
    chain = _build_chain(leaf, found) if leaf else []
    unrelated = [item for item in found if item not in chain]
    return CertificateBundle(
        key=key,
        key_problem=problem,
        # Not later, because Python cannot represent every date that a certificate can have.
        validity=(leaf.not_valid_before_utc, leaf.not_valid_after_utc) if leaf else None,
        chain=chain,
        unrelated=unrelated,
        others=read.others,
        complete=_is_complete(chain, unrelated),
        in_order=[*chain, *unrelated] == list(read.certificates),
    )


def _public_of(key: bytes) -> bytes:
    """Return the public half of a private key, or an empty value if the key cannot be read."""
    try:
        return _public_key(_load_key(key).public_key())
    except Exception:  # all errors of a parser mean the same
        return b""


def _public_key(key: Any) -> bytes:
    text: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return text


def _find_leaf(found: Sequence[x509.Certificate], public: bytes) -> x509.Certificate | None:
    if not public:
        others = (item for item in found if not any(_is_issuer(item, other) for other in found if other is not item))
        return next(others, found[0])
    ours = [item for item in found if _has_key(item, public)]
    # Several certificates of one key are renewals. A CA's certificate replaces a self-signed one.
    return max(ours, key=lambda item: (not _is_issuer(item, item), item.not_valid_before_utc), default=None)


def _is_comparable(certificate: x509.Certificate) -> bool:
    """Return whether its public key is safe to load."""
    return certificate.public_key_algorithm_oid.dotted_string not in _DH_ALGORITHMS


def _has_key(certificate: x509.Certificate, public: bytes) -> bool:
    if not _is_comparable(certificate):
        return False
    try:
        return _public_key(certificate.public_key()) == public
    except Exception:  # an unknown type of key, which cannot match
        return False


def _build_chain(leaf: x509.Certificate, found: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    chain = [leaf]
    while not _is_issuer(chain[-1], chain[-1]):
        issuers = [item for item in found if item not in chain and _is_issuer(item, chain[-1])]
        if not issuers:
            break
        # The same CA with the same key can occur several times: renewed, or signed by several roots.
        chain.append(max(issuers, key=lambda item: item.not_valid_after_utc))
    return chain


def _is_issuer(issuer: x509.Certificate, subject: x509.Certificate) -> bool:
    """Return whether `issuer` signed `subject`."""
    if issuer.subject != subject.issuer:
        return False
    if not _is_comparable(issuer):  # no signature uses such a key
        return False
    try:
        subject.verify_directly_issued_by(issuer)
    except InvalidSignature:
        return False
    except Exception:  # this code cannot check the algorithm, so the names decide
        return True
    return True


def _is_complete(chain: Sequence[x509.Certificate], unrelated: Sequence[x509.Certificate]) -> bool:
    if not chain or _is_issuer(chain[-1], chain[-1]):
        return True
    return (len(chain) > 1 or _is_ca(chain[0])) and not any(
        _is_ca(item) and _is_issuer(item, item) for item in unrelated
    )


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False
