"""Certificates that are derived, not kept: judged by OpenSSL through Python's own ssl module."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading

import pytest
from cryptography import x509
from saltern import certificates

SEED, OTHER = "11" * 32, "22" * 32


def test_the_same_seed_makes_the_same_certificates_and_another_seed_others():
    first = (certificates.authority(SEED), *certificates.server(SEED, "redis1", "127.0.0.1"))
    certificates._made.cache_clear()
    assert (certificates.authority(SEED), *certificates.server(SEED, "redis1", "127.0.0.1")) == first
    others = {
        certificates.authority(OTHER),
        *certificates.server(OTHER, "redis1", "127.0.0.1"),
        *certificates.server(SEED, "redis2", "127.0.0.1"),
    }
    assert not others & set(first)
    moved, key = certificates.server(SEED, "redis1", "127.0.0.2")
    assert moved != first[1]
    assert key == first[2]


def test_a_certificate_is_valid_now_and_its_serial_is_positive():
    for text in (certificates.authority(SEED), certificates.server(SEED, "redis1", "127.0.0.1")[0]):
        read = x509.load_pem_x509_certificate(text.encode())
        now = datetime.datetime.now(datetime.timezone.utc)
        assert read.not_valid_before_utc < now < read.not_valid_after_utc
        assert 0 < read.serial_number < 1 << 159


def shake(ca: str, name: str, tmp_path) -> str:
    """What a strict client says to redis1's certificate when it calls it `name`."""
    certificate, key = certificates.server(SEED, "redis1", "127.0.0.1")
    (tmp_path / "both.pem").write_text(certificate + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "both.pem")
    client = ssl.create_default_context(cadata=ca)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(far, server_side=True).close()
        except OSError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=name):
            return ""
    except ssl.SSLError as error:
        return str(error)
    finally:
        near.close()
        thread.join()


@pytest.mark.parametrize(
    ("seed", "name", "refusal"),
    [
        (SEED, "127.0.0.1", ""),
        (SEED, "redis1", ""),
        (SEED, "127.0.0.2", "IP address mismatch"),
        (SEED, "redis2", "Hostname mismatch"),
        (OTHER, "127.0.0.1", "verify failed"),
    ],
)
def test_a_client_believes_its_own_fleets_machine_at_its_own_address(seed, name, refusal, tmp_path):
    said = shake(certificates.authority(seed), name, tmp_path)
    assert refusal in said if refusal else said == ""
