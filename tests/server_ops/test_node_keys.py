"""Which files ``register`` takes for a SuperNode's public key."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from server.ops.nodes import LONGEST_NAME, read_public_key
from shared.errors import ConfigError
from tests.server_ops.operating import ended, make_folder, make_node_key

OPENSSH = (Encoding.OpenSSH, PublicFormat.OpenSSH)
PEM = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_nodes_key_is_read_with_its_name(tmp_path: Path) -> None:
    pem, name = read_public_key(make_node_key(tmp_path, "cinema"))
    key = load_pem_public_key(pem)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp384r1"
    assert name == "cinema"


@pytest.mark.parametrize(
    ("comment", "name"),
    [
        ("", "north"),
        ("a cinema in town", "a cinema in town"),
        ("\x1b[31mred", "[31mred"),
        ("x" * 500, "x" * LONGEST_NAME),
    ],
)
def test_the_name_is_the_comment_or_the_files(tmp_path: Path, comment: str, name: str) -> None:
    path = make_node_key(tmp_path, "north")
    kind, key, _ = path.read_text().split()
    path.write_text(f"{kind} {key} {comment}\n")
    assert read_public_key(path)[1] == name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            rsa.generate_private_key(65537, 2048).public_key().public_bytes(*OPENSSH),
            "of the kind ssh-rsa",
        ),
        (
            ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*OPENSSH),
            "of the kind ssh-ed25519",
        ),
        (
            ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(*OPENSSH),
            "of the kind secp256r1",
        ),
        (
            ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(*PEM),
            "no public key in OpenSSH form",
        ),
        (b"nonsense", "no public key in OpenSSH form"),
        (b"", "no public key in OpenSSH form"),
    ],
    ids=["rsa", "ed25519", "p256", "pem", "nonsense", "empty"],
)
def test_another_kind_of_key_is_refused_with_how_to_make_one(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "key.pub"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{words}.*ssh-keygen -t ecdsa -b 384"):
        read_public_key(path)


def test_a_private_key_is_refused_as_one(tmp_path: Path) -> None:
    public = make_node_key(tmp_path, "cinema")
    with pytest.raises(ConfigError, match="is a private key"):
        read_public_key(public.with_suffix(""))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.pub: cannot be read"):
        read_public_key(tmp_path / "absent.pub")


def test_one_wrong_key_stops_the_command_before_any_is_registered(tmp_path: Path) -> None:
    """The SuperLink is down: an attempt to register the good key would say so."""
    folder = make_folder(tmp_path / "FED")
    good, wrong = make_node_key(tmp_path, "good"), tmp_path / "wrong.pub"
    wrong.write_text("nonsense")
    finished = ended("register", str(folder.root), str(good), str(wrong))
    assert finished.returncode == 2
    assert "wrong.pub" in finished.stderr
    assert "does not answer" not in finished.stderr
