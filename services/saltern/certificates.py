"""Certificates of the fleet's Redis servers, all derived from one secret: the same at every look, and kept nowhere.

Ed25519 keys and signatures have no chance in them (RFC 8032), so a certificate is a function of the fleet's seed, the
machine's id and its address. A new seed in `secrets.json` ends all of them at once.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import hmac
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

# A private authority ends with its seed, not by a date that somebody would have to remember.
FROM = datetime.datetime(2025, 1, 1, tzinfo=datetime.timezone.utc)
UNTIL = datetime.datetime(2075, 1, 1, tzinfo=datetime.timezone.utc)
AUTHORITY = "saltern redis authority"


def authority(seed: str) -> str:
    """The certificate, in PEM, that every client checks a server's against.

    :param seed: the fleet's secret, in hex
    """
    return _made(seed, AUTHORITY, "").decode()


def server(seed: str, machine: str, address: str) -> tuple[str, str]:
    """Certificate and private key of one machine, in PEM; it proves the machine's id and its IPv4 address."""
    key = _key(seed, machine).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return _made(seed, machine, address).decode(), key.decode()


def _derived(seed: str, purpose: str) -> bytes:
    return hmac.new(bytes.fromhex(seed), purpose.encode(), hashlib.sha256).digest()


def _key(seed: str, name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(_derived(seed, f"key of {name}"))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


@functools.lru_cache(maxsize=64)
def _made(seed: str, name: str, address: str) -> bytes:
    """A certificate signed by the authority, or the authority's own when no address is given."""
    own, parent, is_authority = _key(seed, name), _key(seed, AUTHORITY), not address
    # RFC 5280 allows 20 octets, positive.
    serial = int.from_bytes(_derived(seed, f"serial of {name} at {address}")[:16], "big") | 1
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"), False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(AUTHORITY))
        .public_key(own.public_key())
        .serial_number(serial)
        .not_valid_before(FROM)
        .not_valid_after(UNTIL)
        .add_extension(
            x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority, **usage
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(parent.public_key()), critical=False
        )
    )
    if not is_authority:
        names = [x509.DNSName(name), x509.IPAddress(ipaddress.IPv4Address(address))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(parent, None).public_bytes(Encoding.PEM)
