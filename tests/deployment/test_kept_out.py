"""Who has no business in a federation: kept out, with a sentence on both sides that says why."""

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from lab.federation import PORT, Federation
from lab.goods import Shop
from lab.house import House

from client.node_key import create_node_key
from server.ops.certs import make_authority
from server.ops.folder import Folder

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
OTHER_PORT = PORT + 1


@pytest.fixture(scope="module")
def stranger(empty_federation: Federation) -> House:
    """A SuperNode with a key that nobody has registered, in a namespace of its own."""
    at = empty_federation
    made = House(
        "stranger",
        Shop("films", 1),
        at.lab,
        at.network.add("stranger"),
        at.folder / "stranger",
        at.folder,
        at.environment(),
    )
    made.node_folder.mkdir(parents=True)
    create_node_key(made.node_folder, "stranger")
    return made


def refused(house: House, address: str, certificates: Path) -> str:
    """What ``tacit client node`` prints before it ends."""
    started = house.start_node(address, "--root-certificates", str(certificates))
    assert started.wait() != 0
    return " ".join(started.text().split())


def turned_away(house: House, address: str, certificates: Path) -> str:
    """What Flower's own SuperNode prints, which looks at nothing before it connects."""
    command = [
        str(BIN / "flower-supernode"),
        *("--superlink", address, "--root-certificates", str(certificates)),
        *("--auth-supernode-private-key", str(house.node_folder / "key"), "--max-retries", "1"),
    ]
    environment = house.environment | flower_environment(house.folder / "flwr")
    started = house.lab.start(house.name, "raw", house.host.command(*command), environment)
    assert started.wait() != 0
    assert "SuperNode ID" not in started.text()
    return " ".join(started.text().split())


def flower_environment(home: Path) -> dict[str, str]:
    """Of Flower's own commands."""
    return {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }


def log_of(federation: Federation) -> str:
    """What the SuperLink has printed."""
    return (federation.fed / "superlink" / "superlink.log").read_text()


def test_a_supernode_that_is_not_registered_is_refused(
    stranger: House, empty_federation: Federation
) -> None:
    at = empty_federation
    said = refused(stranger, at.address, at.ca)
    assert "the federation has not registered this SuperNode's key" in said
    assert "tacit server register" in said
    before = len(log_of(at))
    said = turned_away(stranger, at.address, at.ca)
    assert "Failed to activate SuperNode" in said
    assert stranger.host.address in log_of(at)[before:]
    assert '/v1/fleet/activate-node HTTP/1.1" 4' in log_of(at)[before:]
    assert "stranger" not in at.nodes()


def test_a_supernode_that_trusts_another_authority_does_not_connect(
    stranger: House, empty_federation: Federation, tmp_path: Path
) -> None:
    at = empty_federation
    other = Folder(tmp_path)
    make_authority(other, ("elsewhere",))
    said = refused(stranger, at.address, other.ca_certificate)
    assert "was not signed by" in said
    assert "ask the federation for its ca.crt" in said
    assert "CERTIFICATE_VERIFY_FAILED" in turned_away(stranger, at.address, other.ca_certificate)


@pytest.fixture
def expired(empty_federation: Federation) -> Iterator[Path]:
    """The federation's folder with a server certificate that ended yesterday."""
    folder = Folder(empty_federation.fed)
    path = folder.tls / "server.crt"
    good = path.read_bytes()
    path.write_bytes(ended_yesterday(folder, good))
    yield path
    path.write_bytes(good)


def ended_yesterday(folder: Folder, good: bytes) -> bytes:
    """The same certificate, by the same authority, over."""
    old = x509.load_pem_x509_certificate(good)
    key = load_pem_private_key((folder.tls / "ca.key").read_bytes(), password=None)
    day = timedelta(days=1)
    builder = x509.CertificateBuilder(
        issuer_name=old.issuer,
        subject_name=old.subject,
        public_key=old.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=datetime.now(UTC) - 2 * day,
        not_valid_after=datetime.now(UTC) - day,
        extensions=list(old.extensions),
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_superlink_with_an_expired_certificate_is_neither_started_nor_believed(
    stranger: House, empty_federation: Federation, expired: Path
) -> None:
    at = empty_federation
    started = at.tacit("expired", "server", "start", str(at.fed), "--port", str(OTHER_PORT))
    assert started.wait() == 2
    assert "expired" in started.text()
    assert "--renew" in started.text()

    # Started past that check, by Flower's own command: the SuperNode does not believe it.
    command = [
        str(BIN / "flower-superlink"),
        *("--ssl-ca-certfile", str(at.ca)),
        *("--ssl-certfile", str(expired)),
        *("--ssl-keyfile", str(expired.with_suffix(".key"))),
        *("--enable-supernode-auth", "--port", str(OTHER_PORT), "--host", "0.0.0.0"),
        "--disable-runtime-dependency-installation",
    ]
    environment = at.environment() | flower_environment(at.folder / "flwr-expired")
    superlink = at.lab.start("server", "expired-link", at.host.command(*command), environment)
    superlink.wait_for("Uvicorn running")
    address = f"{at.host.address}:{OTHER_PORT}"
    said = refused(stranger, address, at.ca)
    assert "expired" in said
    assert "tacit server certs" in said
    assert "expired" in turned_away(stranger, address, at.ca)
    superlink.terminate()


def test_another_machine_can_neither_see_nor_submit_runs(
    stranger: House, empty_federation: Federation
) -> None:
    at = empty_federation
    home = at.folder / "flwr-stranger"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "tacit"\n[superlink.tacit]\naddress = "{at.address}"\n'
        f'root-certificates = "{at.ca}"\n'
    )
    command = stranger.host.command(str(BIN / "flwr"), "list", "tacit")
    started = at.lab.start("stranger", "flwr", command, at.environment() | flower_environment(home))
    assert started.wait() != 0
    assert '/v1/control/list-runs HTTP/1.1" 403' in log_of(at)
    # The machine of the SuperLink itself may look.
    assert isinstance(at.flower_runs(), list)
