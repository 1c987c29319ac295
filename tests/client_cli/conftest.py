"""A small organisation made by the command, copied for each test; certificates and a TLS server."""

import datetime
import ipaddress
import os
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from shared.assets import resolve_base
from shared.config import load_config
from shared.errors import AssetError
from shared.settings import shared_settings
from simulations.cli import main

USERS, LENGTH, ITEMS = 12, 6, 20
DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Finished:
    """What a command left: exit status and what it printed."""

    status: int
    out: str
    err: str


Tacit = Callable[..., Finished]


@dataclass(frozen=True)
class Made:
    """Folders of an organisation and of its SuperNode."""

    org: Path
    node: Path


@dataclass(frozen=True)
class Authority:
    """A made-up certificate authority."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    path: Path


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """These tests stay out of the user's home, and share two cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TACIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TACIT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("COLUMNS", "200")
        yield


def call(*arguments: str) -> int:
    """Run ``tacit`` in this process; returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tacit", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
    code = caught.value.code
    return code if isinstance(code, int) else 0


@pytest.fixture(scope="session")
def call_tacit() -> Callable[..., int]:
    """``call``, for what many tests share."""
    return call


@pytest.fixture
def tacit(capsys: pytest.CaptureFixture[str]) -> Tacit:
    """Run ``tacit`` with some arguments."""

    def run(*arguments: str) -> Finished:
        capsys.readouterr()
        status = call(*arguments)
        printed = capsys.readouterr()
        return Finished(status, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up data: twelve users, twenty items, and one user whose history is too short."""
    folder = tmp_path_factory.mktemp("shop")
    items = [
        f"i{item},Thing number {item},{'red' if item % 2 else 'blue'}" for item in range(ITEMS)
    ]
    (folder / "items.csv").write_text("\n".join(["item,title,colour", *items]) + "\n")
    chosen = np.random.default_rng(0)
    rows = [
        f"u{user},i{item},{1_700_000_000 + 86_400 * place}"
        for user in range(USERS)
        for place, item in enumerate(chosen.choice(ITEMS, LENGTH, replace=False))
    ]
    rows.append("short,i0,1700000000")
    (folder / "interactions.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    return folder


@pytest.fixture(scope="session")
def first_made(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """An organisation made by ``tacit client init`` over the real MiniLM; not to be changed."""
    try:
        resolve_base("minilm")
    except AssetError as error:
        pytest.skip(f"needs the real MiniLM: {error}")
    org = tmp_path_factory.mktemp("made") / "org"
    options = ["--name", "House", "--users", "10", "--data", str(shop)]
    assert call("client", "init", str(org), *options, "--set", "machine.threads=1") == 0
    return Made(org, org.with_name("org-node"))


@pytest.fixture
def made(first_made: Made, tmp_path: Path) -> Made:
    """A copy of the organisation, of this test's own."""
    copy = Made(tmp_path / "org", tmp_path / "org-node")
    shutil.copytree(first_made.org, copy.org)
    shutil.copytree(first_made.node, copy.node)
    return copy


def make_authority(path: Path, name: str = "made-up authority") -> Authority:
    """An authority whose certificate is written to ``path``."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 400 * DAY)
        .not_valid_after(now + 400 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return Authority(key, certificate, path)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The federation's."""
    return make_authority(tmp_path / "ca.crt")


@pytest.fixture
def other_authority(tmp_path: Path) -> Authority:
    """Somebody else's, with the same name."""
    return make_authority(tmp_path / "other.crt")


@pytest.fixture
def serve_tls(authority: Authority, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Start a TLS server with a certificate of the authority; returns its port."""
    running: list[ThreadingHTTPServer] = []

    def start(
        starts: datetime.timedelta = -DAY,
        ends: datetime.timedelta = 100 * DAY,
        host: str = "127.0.0.1",
        seconds_ahead: float = 0.0,
    ) -> int:
        class Quiet(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(404)
                self.end_headers()

            def date_time_string(self, timestamp: float | None = None) -> str:
                now = datetime.datetime.now(datetime.UTC).timestamp()
                return super().date_time_string(int(now + seconds_ahead))

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(authority, tmp_path, starts, ends, host))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return int(server.server_address[1])

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def _certificate(
    authority: Authority,
    folder: Path,
    starts: datetime.timedelta,
    ends: datetime.timedelta,
    host: str,
) -> Path:
    key = ec.generate_private_key(ec.SECP384R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "made-up server")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    return path


Started = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_tacit(tmp_path: Path) -> Iterator[Started]:
    """Start ``tacit`` as a process of its own, which ends with the test."""
    yield from _starting(tmp_path)


@pytest.fixture(scope="module")
def start_tacit_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """The same for a whole module."""
    yield from _starting(tmp_path_factory.mktemp("logs"))


def _starting(logs: Path) -> Iterator[Started]:
    running: list[subprocess.Popen[str]] = []
    tacit = Path(sys.executable).with_name("tacit")

    def start(*arguments: str) -> "subprocess.Popen[str]":
        log = logs / f"process-{len(running)}.log"
        with log.open("w") as file:
            process = subprocess.Popen(
                [str(tacit), *arguments], stdout=file, stderr=file, text=True, env=os.environ
            )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def delivered(
    shop: Path, call_tacit: Callable[..., int], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What a federation over the same data delivers, as an agent keeps it."""
    run = tmp_path_factory.mktemp("runs") / "shop"
    small = ["run.threads=1", "run.noise_free_twin=false", "evaluation.bootstrap_samples=100"]
    options = ["--data", str(shop), "--orgs", "1", "--rounds", "1", "--out", str(run)]
    assert (
        call_tacit("simulate", *options, *(part for one in small for part in ("--set", one))) == 0
    )
    folder = run / "organisations" / "0001" / "delivered"
    (folder / "settings.json").write_text(shared_settings(load_config(run / "config.toml")))
    return folder


@pytest.fixture
def served(made: Made, delivered: Path) -> Made:
    """An organisation that has a delivery."""
    shutil.copytree(delivered, made.org / "delivered")
    return made
