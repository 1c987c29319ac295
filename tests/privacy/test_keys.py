"""Keys are made once, kept from others, and sign as the standard says."""

import multiprocessing
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from shared.errors import PrivacyError
from shared.keys import SigningKey, create_secret_file, load_or_create_secret, verify

# RFC 8032, section 7.1, test 2.
SECRET = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
PUBLIC = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
MESSAGE = bytes.fromhex("72")
SIGNATURE = (
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_signatures_are_those_of_the_standard() -> None:
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SECRET)))
    assert (key.public, key.sign(MESSAGE)) == (PUBLIC, SIGNATURE)
    assert verify(PUBLIC, MESSAGE, SIGNATURE)


@pytest.mark.parametrize(
    ("public", "message", "signature"),
    [
        (PUBLIC, b"other", SIGNATURE),
        (PUBLIC, MESSAGE, SIGNATURE[:-1] + "1"),
        (PUBLIC, MESSAGE, SIGNATURE[:-2]),
        (PUBLIC, MESSAGE, ""),
        (PUBLIC, MESSAGE, "no digits"),
        (PUBLIC[:-1] + "d", MESSAGE, SIGNATURE),
        ("", MESSAGE, SIGNATURE),
        ("None", MESSAGE, SIGNATURE),
    ],
)
def test_what_does_not_fit_is_not_verified(public: str, message: bytes, signature: str) -> None:
    assert not verify(public, message, signature)


@pytest.mark.parametrize(
    ("public", "signature"),
    [
        (PUBLIC.upper(), SIGNATURE),
        (PUBLIC, SIGNATURE.upper()),
        (PUBLIC, SIGNATURE[:64] + " " + SIGNATURE[64:]),
    ],
)
def test_another_spelling_of_a_key_or_a_signature_is_not_verified(
    public: str, signature: str
) -> None:
    assert not verify(public, MESSAGE, signature)


def test_a_signature_with_its_scalar_out_of_range_is_not_verified() -> None:
    # RFC 8032, section 5.1.7: S below the group's order, or one signature could have two forms.
    order = 2**252 + 27742317777372353535851937790883648493
    made = bytes.fromhex(SIGNATURE)
    scalar = int.from_bytes(made[32:], "little") + order
    assert not verify(PUBLIC, MESSAGE, (made[:32] + scalar.to_bytes(32, "little")).hex())


def test_a_key_is_made_once_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "organisation.pem"
    assert SigningKey.load_or_create(path).public == SigningKey.load_or_create(path).public


def test_only_the_owner_can_read_a_key_or_a_secret(tmp_path: Path) -> None:
    SigningKey.load_or_create(tmp_path / "key.pem")
    load_or_create_secret(tmp_path / "secret")
    for name in ("key.pem", "secret"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_secret_has_32_bytes_and_stays(tmp_path: Path) -> None:
    secret = load_or_create_secret(tmp_path / "secret")
    assert len(secret) == 32
    assert load_or_create_secret(tmp_path / "secret") == secret
    assert load_or_create_secret(tmp_path / "other") != secret


def test_a_secret_of_another_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"short")
    with pytest.raises(PrivacyError, match="5 bytes"):
        load_or_create_secret(tmp_path / "secret")


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(b"no key")
    with pytest.raises(PrivacyError, match="signing key"):
        SigningKey.load_or_create(path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    other = generate_private_key(SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(PrivacyError, match="not an Ed25519 key"):
        SigningKey.load_or_create(path)


def test_an_encrypted_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    locked = BestAvailableEncryption(b"password")
    path.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    )
    with pytest.raises(PrivacyError, match="signing key"):
        SigningKey.load_or_create(path)


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    create_secret_file(tmp_path / "secret", b"first")
    create_secret_file(tmp_path / "secret", b"second")
    assert (tmp_path / "secret").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_processes_that_start_together_get_one_key(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        keys = pool.map(_public_of, [tmp_path / "key.pem"] * 8)
    assert len(set(keys)) == 1


def _public_of(path: Path) -> str:
    return SigningKey.load_or_create(path).public
