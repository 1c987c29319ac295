"""Certificates: what an organisation's TLS accepts, and what ``start`` refuses."""

import shutil
import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.heads import HeadBook
from server.ops.certs import check_server_certificate, make_server_certificate, read_certificate
from server.ops.folder import Folder, read_address
from shared.errors import ConfigError, RunError
from tests.server_ops.operating import ended, make_folder

LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
HOSTS = st.one_of(NAMES, st.ip_addresses().map(str))


def now() -> datetime:
    return datetime.now(UTC)


def verify(folder: Folder, host: str, at: datetime) -> None:
    """As an organisation's TLS does it, by another implementation."""
    store = Store([x509.load_pem_x509_certificate(folder.ca_certificate.read_bytes())])
    certificate = x509.load_pem_x509_certificate((folder.tls / "server.crt").read_bytes())
    try:
        subject: x509.GeneralName = x509.IPAddress(ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    builder = PolicyBuilder().store(store).time(at)
    builder.build_server_verifier(subject).verify(certificate, [])  # type: ignore[arg-type]


@given(hosts=st.lists(HOSTS, min_size=1, max_size=4), other=HOSTS)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_chain_verifies_for_each_host_and_for_no_other(
    tmp_path_factory: pytest.TempPathFactory, hosts: list[str], other: str
) -> None:
    folder = make_folder(tmp_path_factory.mktemp("fed"), *hosts)
    for host in (*hosts, "localhost", "127.0.0.1"):
        verify(folder, host, now())
    if other not in (*hosts, "localhost", "127.0.0.1", "::1"):
        with pytest.raises(VerificationError):
            verify(folder, other, now())


def test_an_expired_certificate_is_accepted_by_nobody(folder: Folder) -> None:
    verify(folder, "localhost", now() + timedelta(days=364))
    with pytest.raises(VerificationError):
        verify(folder, "localhost", now() + timedelta(days=366))


def test_another_authoritys_certificate_is_accepted_by_nobody(
    folder: Folder, tmp_path: Path
) -> None:
    other = make_folder(tmp_path / "other")
    shutil.copy(other.tls / "server.crt", folder.tls / "server.crt")
    with pytest.raises(VerificationError):
        verify(folder, "localhost", now())


def handshake(folder: Folder, server_name: str) -> None:
    """OpenSSL on both sides."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.tls / "server.crt", folder.tls / "server.key")
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            context.wrap_socket(far, server_side=True).close()
        except ssl.SSLError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    trusting = ssl.create_default_context(cafile=folder.ca_certificate)
    try:
        with trusting.wrap_socket(near, server_hostname=server_name):
            pass
    finally:
        near.close()
        thread.join()


def test_openssl_accepts_the_host_and_refuses_another(folder: Folder) -> None:
    handshake(folder, "federation.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        handshake(folder, "elsewhere.example.org")


def test_a_renewed_certificate_is_accepted_under_the_same_authority(folder: Folder) -> None:
    before, authority = (folder.tls / "server.crt").read_bytes(), folder.ca_certificate.read_bytes()
    old_key = (folder.tls / "server.key").read_bytes()
    assert ended("certs", str(folder.root), "--renew", "--days", "30").returncode == 0
    assert (folder.tls / "server.crt").read_bytes() != before
    assert (folder.tls / "server.key").read_bytes() != old_key
    assert folder.ca_certificate.read_bytes() == authority
    handshake(folder, "federation.example.org")
    assert 29 < read_certificate(folder.tls / "server.crt").days_left(now()) <= 30


def test_a_renewed_certificate_may_be_for_another_host(folder: Folder) -> None:
    assert ended("certs", str(folder.root), "--renew", "--host", "new.example.org").returncode == 0
    handshake(folder, "new.example.org")


def test_certs_overwrites_nothing(folder: Folder) -> None:
    before = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}
    finished = ended("certs", str(folder.root), "--host", "federation.example.org")
    assert finished.returncode == 2
    assert "nothing was overwritten" in finished.stderr
    assert {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()} == before


def made_by_command(tmp_path: Path) -> tuple[Folder, subprocess.CompletedProcess[str]]:
    finished = ended("certs", str(tmp_path / "FED"), "--host", "192.0.2.7")
    assert finished.returncode == 0, finished.stderr
    return Folder(tmp_path / "FED"), finished


def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    folder, _ = made_by_command(tmp_path)
    for key in (folder.tls / "ca.key", folder.tls / "server.key", folder.server / "server.pem"):
        assert key.stat().st_mode & 0o777 == 0o600
    assert folder.root.stat().st_mode & 0o777 == 0o700


def test_certs_prints_the_key_that_organisations_approve(tmp_path: Path) -> None:
    folder, finished = made_by_command(tmp_path)
    key = HeadBook(folder.server).key.public
    assert f"tacit client approve ORG --federation {key}" in finished.stdout


def test_flowers_configuration_names_the_superlink_and_the_authority(tmp_path: Path) -> None:
    folder, _ = made_by_command(tmp_path)
    assert read_address(folder) == "127.0.0.1:9092"
    assert str(folder.ca_certificate) in (folder.flower / "config.toml").read_text()


@pytest.mark.parametrize(
    "host", ["", "https://x.org", "x.org:9092", "x_y.org", "*.x.org", "1.2.3", "256.1.1.1", "a..b"]
)
def test_what_is_no_host_is_refused_before_anything_is_made(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="neither a name nor an address"):
        make_folder(tmp_path / "FED", host)
    assert not (tmp_path / "FED").exists()


def test_certs_asks_for_the_host(tmp_path: Path) -> None:
    finished = ended("certs", str(tmp_path / "FED"))
    assert finished.returncode == 2
    assert "--host is missing" in finished.stderr


def test_a_sound_certificate_gives_no_warning(folder: Folder) -> None:
    found, warnings = check_server_certificate(folder, now())
    assert warnings == []
    assert str(IPv4Address("127.0.0.1")) in found.hosts


@pytest.mark.parametrize(("days_left", "warned"), [(13.0, True), (15.0, False)])
def test_the_last_fourteen_days_are_warned_of(
    folder: Folder, days_left: float, warned: bool
) -> None:
    ends = read_certificate(folder.tls / "server.crt").ends
    _, warnings = check_server_certificate(folder, ends - timedelta(days=days_left))
    assert any("--renew" in warning for warning in warnings) == warned


def test_an_expired_certificate_is_refused_with_the_cure(folder: Folder) -> None:
    with pytest.raises(RunError, match=r"server\.crt: expired on .*--renew"):
        check_server_certificate(folder, now() + timedelta(days=366))


def test_a_clock_before_the_certificate_is_refused(folder: Folder) -> None:
    with pytest.raises(RunError, match="clock"):
        check_server_certificate(folder, now() - timedelta(days=1))


def test_a_key_of_another_certificate_is_refused(folder: Folder) -> None:
    key = (folder.tls / "server.key").read_bytes()
    make_server_certificate(folder, ("localhost",), 30)
    (folder.tls / "server.key").write_bytes(key)
    with pytest.raises(RunError, match="does not belong to"):
        check_server_certificate(folder, now())


def test_a_certificate_of_another_authority_is_refused(folder: Folder, tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other")
    for name in ("server.crt", "server.key"):
        shutil.copy(other.tls / name, folder.tls / name)
    with pytest.raises(RunError, match="was not issued by"):
        check_server_certificate(folder, now())


@pytest.mark.parametrize("name", ["server.crt", "server.key"])
@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_a_missing_or_damaged_file_is_refused_by_name(
    folder: Folder, name: str, content: bytes | None
) -> None:
    path = folder.tls / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        check_server_certificate(folder, now())


def test_a_key_that_others_can_read_is_warned_of(folder: Folder) -> None:
    (folder.tls / "server.key").chmod(0o644)
    _, warnings = check_server_certificate(folder, now())
    assert any("chmod 600" in warning for warning in warnings)
