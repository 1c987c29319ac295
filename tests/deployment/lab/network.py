"""Network namespaces: every party of a federation has its own, with its own address on one bridge.

Nothing is made in the namespace of the machine itself. ``ip`` is asked; it needs root.
"""

import os
import subprocess
from dataclasses import dataclass, field

PREFIX = "10.77.0."
BRIDGE = "bridge0"
PORT_IN_NAMESPACE = "eth0"


def missing_permission() -> str:
    """Why no namespaces can be made here; empty if they can."""
    name = f"tacit-{os.getpid()}-probe"
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"ip netns is not permitted or not installed here ({error})"
    _ip("netns", "del", name)
    return ""


@dataclass
class Host:
    """One namespace on the bridge.

    Attributes:
        namespace: name under ``ip netns``.
        hub: namespace of the bridge.
        port: this host's port at the bridge.
        address: IPv4.
    """

    namespace: str
    hub: str
    port: str
    address: str

    def command(self, *arguments: str) -> list[str]:
        """A command line that runs inside."""
        return ["ip", "netns", "exec", self.namespace, *arguments]

    def cut(self) -> None:
        """Take the link down at the bridge: packets are lost, nobody is told."""
        _ip("-n", self.hub, "link", "set", self.port, "down")

    def restore(self) -> None:
        """Take the link up again."""
        _ip("-n", self.hub, "link", "set", self.port, "up")

    def bytes_received_and_sent(self) -> tuple[int, int]:
        """Bytes that crossed the link so far, with all framing, as this host sees it."""
        folder = f"/sys/class/net/{PORT_IN_NAMESPACE}/statistics"
        done = subprocess.run(
            self.command("cat", f"{folder}/rx_bytes", f"{folder}/tx_bytes"),
            check=True,
            capture_output=True,
            text=True,
        )
        received, sent = done.stdout.split()
        return int(received), int(sent)


@dataclass
class Network:
    """A bridge in a namespace of its own, and the hosts on it."""

    prefix: str
    hosts: dict[str, Host] = field(default_factory=dict)

    @property
    def hub(self) -> str:
        """Namespace of the bridge."""
        return f"{self.prefix}-hub"

    def make(self) -> None:
        """Make the bridge."""
        _ip("netns", "add", self.hub)
        _ip("-n", self.hub, "link", "add", BRIDGE, "type", "bridge")
        _ip("-n", self.hub, "link", "set", BRIDGE, "up")

    def add(self, name: str) -> Host:
        """A new host with the next address."""
        number = len(self.hosts) + 1
        host = Host(f"{self.prefix}-{name}", self.hub, f"port{number}", f"{PREFIX}{number}")
        self.hosts[name] = host
        inside = host.namespace
        _ip("netns", "add", inside)
        _ip(
            *("link", "add", PORT_IN_NAMESPACE, "netns", inside, "type", "veth"),
            *("peer", "name", host.port, "netns", self.hub),
        )
        _ip("-n", self.hub, "link", "set", host.port, "master", BRIDGE, "up")
        _ip("-n", inside, "address", "add", f"{host.address}/24", "dev", PORT_IN_NAMESPACE)
        _ip("-n", inside, "link", "set", PORT_IN_NAMESPACE, "up")
        _ip("-n", inside, "link", "set", "lo", "up")
        return host

    def remove(self) -> None:
        """Remove every namespace, and the links with them."""
        for namespace in [*(host.namespace for host in self.hosts.values()), self.hub]:
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
