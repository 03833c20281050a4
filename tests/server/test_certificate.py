from __future__ import annotations

import hashlib
import ssl
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from knothole.server.certificate import CertificateError, load_certificate, own_certificate


def test_it_is_made_once_and_its_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    made = own_certificate(tmp_path)
    assert made.pinned
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert own_certificate(tmp_path).key_hash == made.key_hash
    assert {path.name for path in tmp_path.iterdir()} == {"server-cert.pem", "server-key.pem"}


def test_the_pin_is_the_hash_of_the_public_key(tmp_path: Path) -> None:
    made = own_certificate(tmp_path)
    key = load_pem_private_key(made.key.read_bytes(), None).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert made.key_hash == hashlib.sha256(info).digest()


def test_a_start_that_was_cut_short_between_the_files_is_made_good(tmp_path: Path) -> None:
    (tmp_path / "server-key.pem").write_text("half")
    assert own_certificate(tmp_path).pinned


def test_a_certificate_without_its_key_is_an_error_and_nothing_is_overwritten(
    tmp_path: Path,
) -> None:
    made = own_certificate(tmp_path)
    made.key.unlink()
    with pytest.raises(CertificateError, match=r"server-key.pem cannot be read"):
        own_certificate(tmp_path)
    assert not made.key.exists()


def test_files_that_do_not_fit_each_other_are_named(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
    one, other = own_certificate(tmp_path / "1"), own_certificate(tmp_path / "2")
    with pytest.raises(CertificateError) as caught:
        load_certificate(one.chain, other.key, pinned=False)
    assert str(caught.value) == f"{other.key} is not the key of the certificate in {one.chain}"
    with pytest.raises(CertificateError, match="is not a certificate in PEM form"):
        load_certificate(one.key, one.key, pinned=False)
    with pytest.raises(CertificateError, match="is not a private key in PEM form"):
        load_certificate(one.chain, one.chain, pinned=False)


def test_a_key_with_a_pass_phrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    made = own_certificate(tmp_path)
    key = ec.generate_private_key(ec.SECP256R1())
    locked = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    made.key.write_bytes(locked)
    with pytest.raises(CertificateError, match="without a pass phrase"):
        load_certificate(made.chain, made.key, pinned=False)


def test_it_serves_tls_1_2_and_better(tmp_path: Path) -> None:
    context = own_certificate(tmp_path).context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
