"""Whether a federation's SuperLink lets this organisation in: address, TLS, clock, key.

Each is tried the way Flower's own SuperNode will do it, and nothing is changed on the other side.
"""

import socket as sockets
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from client.node_key import load_node_key, node_key_path
from client.outcomes import FAILED, OK, SKIPPED, WARNING, Outcome
from shared.errors import ConfigError, RunError

TIMEOUT_S = 10.0
FEW_DAYS = 14
# Flower refuses a signature from more than 5 seconds in the future, and one older than 305.
MOST_AHEAD_S = 5.0
MOST_BEHIND_S = 60.0
SECONDS_A_DAY = 86_400
# OpenSSL's X509_V_ERR codes (x509_vfy.h).
NOT_YET_VALID, EXPIRED = 9, 10
OTHER_HOST = (62, 64)
# Below the least that Flower takes, so that it names the fault only after it has found the key.
NO_HEARTBEAT = 0.0

ADDRESS, TLS, CLOCK, KEY = "SuperLink", "TLS", "clock", "node key registered"


@dataclass(frozen=True)
class Link:
    """Where a SuperLink is said to be, and whose certificates it is known by. Public."""

    address: str
    root_certificates: Path

    @property
    def host(self) -> str:
        """Name or number of the host."""
        return self._split()[0]

    @property
    def port(self) -> int:
        """TCP port."""
        return self._split()[1]

    def _split(self) -> tuple[str, int]:
        parts = urlsplit(f"//{self.address}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or not port or parts.path:
            raise ConfigError(
                f"--superlink {self.address}: expected HOST:PORT, such as "
                "federation.example.org:9092"
            )
        return host, port


def link_outcomes(link: Link, node: Path) -> Iterator[Outcome]:
    """Each step of joining, in order; those that need an earlier one are left out after a failure.

    Args:
        link: to the federation.
        node: folder of the SuperNode, whose key is asked about.

    Raises:
        ConfigError: if the address is none.
    """
    reached = reach(link)
    yield reached
    if reached.state == FAILED:
        return
    secured = secure(link)
    yield secured
    if secured.state == FAILED:
        return
    yield clock(link)
    yield registered(link, node)


def first_look(link: Link, node: Path) -> list[Outcome]:
    """What is worth saying before a SuperNode starts.

    Raises:
        RunError: for what Flower's own tries would not mend: a wrong certificate, a wrong clock, a
            key that is missing or not registered. A SuperLink that cannot be reached is no error,
            for Flower goes on trying.
    """
    load_node_key(node)
    found = list(link_outcomes(link, node))
    for outcome in found:
        if outcome.state == FAILED and outcome.name != ADDRESS:
            raise RunError(f"{outcome.name}: {outcome.sentence}; {outcome.cure}")
    return [outcome for outcome in found if outcome.state != OK]


def reach(link: Link) -> Outcome:
    """Whether something listens at the address."""
    try:
        sockets.create_connection((link.host, link.port), TIMEOUT_S).close()
    except OSError as error:
        return Outcome(
            ADDRESS,
            FAILED,
            f"{link.address} cannot be reached ({error})",
            "ask the federation whether its SuperLink runs (tacit server status) and at which "
            "address; let outgoing TCP to it through the firewall",
        )
    return Outcome(ADDRESS, OK, f"{link.address} can be reached")


def secure(link: Link) -> Outcome:
    """Whether the SuperLink proves to be the federation's."""
    try:
        context = _context(link)
    except RunError as error:
        return Outcome(TLS, FAILED, str(error), "ask the federation for its ca.crt")
    try:
        with (
            sockets.create_connection((link.host, link.port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=link.host) as secured,
        ):
            certificate = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return _distrusted(link, error)
    except OSError as error:
        return Outcome(
            TLS,
            FAILED,
            f"{link.address} does not speak TLS ({error})",
            "check the port; a federation's SuperLink is started with: tacit server start",
        )
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    days = int((ends - time.time()) // SECONDS_A_DAY)
    until = datetime.fromtimestamp(ends, UTC).date().isoformat()
    if days < FEW_DAYS:
        return Outcome(
            TLS,
            WARNING,
            f"the certificate of {link.address} ends in {days} days, on {until}",
            "ask the federation to renew it: tacit server certs --renew",
        )
    return Outcome(TLS, OK, f"the certificate is the federation's, until {until} ({days} days)")


def clock(link: Link) -> Outcome:
    """This machine's clock against the SuperLink's; Flower refuses signatures of another time."""
    try:
        with httpx.Client(verify=_context(link), timeout=TIMEOUT_S) as client:
            before = time.time()
            answer = client.get(f"https://{link.address}/")
            after = time.time()
        there = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (httpx.HTTPError, KeyError, ValueError) as error:
        return Outcome(
            CLOCK,
            WARNING,
            f"{link.address} did not say what time it is ({type(error).__name__})",
            "compare the two clocks by hand, or run NTP on both sides",
        )
    # The header counts whole seconds, so the time there is up to one second later.
    ahead, behind = before - there - 1.0, there - after
    cure = "set the clocks by NTP (timedatectl set-ntp true) on both sides"
    if ahead > MOST_AHEAD_S:
        return Outcome(
            CLOCK,
            FAILED,
            f"this clock is {ahead:.0f} s ahead of the SuperLink's; Flower takes no message from "
            f"more than {MOST_AHEAD_S:g} s ahead",
            cure,
        )
    if behind > MOST_AHEAD_S:
        state = FAILED if behind > MOST_BEHIND_S else WARNING
        return Outcome(CLOCK, state, f"this clock is {behind:.0f} s behind the SuperLink's", cure)
    return Outcome(CLOCK, OK, "the two clocks agree")


def registered(link: Link, node: Path) -> Outcome:
    """Whether the federation has registered this SuperNode's key.

    Asks to be activated with a heartbeat that Flower never takes. Flower looks the key up first, so
    its refusal says whether it is there, and nobody is activated.
    """
    # Only here: they take half a second, and the other checks need none of them.
    from flwr.proto.fleet_pb2 import ActivateNodeRequest
    from flwr.supercore.error import ApiErrorCode, FlowerError
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supercore.protobuf.client import ProtobufClientInterceptor
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    ask = f"ask the federation: tacit server status; it registers {node / 'key.pub'}"
    try:
        private = load_node_key(node)
    except RunError as error:
        return Outcome(KEY, SKIPPED, str(error), f"run this as the user who owns {node}")
    public = private.public_key()
    request = ActivateNodeRequest(
        public_key=public_key_to_bytes(public), heartbeat_interval=NO_HEARTBEAT
    )
    interceptors: list[ProtobufClientInterceptor] = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(private, public),
    ]
    try:
        with FleetHttpClient.from_server_address(
            link.address, False, str(link.root_certificates), interceptors
        ) as client:
            client.ActivateNode(request)
    except httpx.HTTPStatusError as error:
        found = FlowerError.from_json(error.response.text)
        code = None if found is None else found.code
        if code == ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL:
            return Outcome(KEY, OK, "the federation has registered this SuperNode's key")
        if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
            return Outcome(
                KEY,
                FAILED,
                "the federation has not registered this SuperNode's key",
                f"send {node_key_path(node).with_suffix('.pub')} to the federation, which types: "
                "tacit server register FED key.pub",
            )
        if error.response.status_code == httpx.codes.UNAUTHORIZED:
            return Outcome(
                KEY, FAILED, "the SuperLink refuses this SuperNode's signature", "set the clock"
            )
        return Outcome(
            KEY, WARNING, f"cannot be told from here (status {error.response.status_code})", ask
        )
    except httpx.HTTPError as error:
        return Outcome(KEY, WARNING, f"cannot be told from here ({type(error).__name__})", ask)
    return Outcome(KEY, WARNING, "cannot be told from here: this SuperLink takes any node", ask)


def _context(link: Link) -> ssl.SSLContext:
    """Trust in the federation's certificates alone.

    Raises:
        RunError: if the file holds none.
    """
    try:
        return ssl.create_default_context(cafile=str(link.root_certificates))
    except OSError as error:
        raise RunError(
            f"{link.root_certificates}: cannot be read as certificates in PEM form ({error})"
        ) from error


def _distrusted(link: Link, error: ssl.SSLCertVerificationError) -> Outcome:
    code = error.verify_code
    if code == EXPIRED:
        said = f"the certificate of {link.address} has expired"
        cure = "ask the federation to renew it: tacit server certs --renew; check this clock too"
    elif code == NOT_YET_VALID:
        said = f"the certificate of {link.address} is not valid yet"
        cure = "check this machine's clock"
    elif code in OTHER_HOST:
        said = f"the certificate of {link.address} was made for other names than {link.host}"
        cure = "use a name that it has, or ask the federation: tacit server certs --host NAME"
    else:
        said = (
            f"the certificate of {link.address} was not signed by {link.root_certificates}: it is "
            "another federation's, or somebody is in between"
        )
        cure = "ask the federation for its ca.crt, and compare its hash by telephone"
    return Outcome(TLS, FAILED, f"{said} (OpenSSL: {error.verify_message})", cure)
