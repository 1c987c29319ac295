"""Who may ask: an API key, or on loopback the Host that a browser of this machine names."""

import hmac
import ipaddress
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import ConfigError

VARIABLE = "TACIT_API_KEY"
SHORTEST_KEY = 32
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
# What a browser needs before a person can give it the key, and what watches over the process.
OPEN_PATHS = frozenset({"/", "/healthz"})
OPEN_PREFIX = "/page/"
OWN_PAGES = frozenset({"same-origin", "none"})

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """The rule of one service.

    Attributes:
        key: that requests must show; None on loopback.
    """

    key: str | None = field(repr=False)

    def refusal(self, path: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Status and sentence for a request that is not answered, or None.

        Args:
            path: asked for.
            headers: of the request, names in lower case.
        """
        # Browsers say from where a page asks; "none" is a person's own typing.
        if path.startswith("/v1/") and headers.get("sec-fetch-site", "none") not in OWN_PAGES:
            return 403, "another site's page may not ask this service"
        if self.key is None:
            if _host_name(headers.get("host", "")) in LOCAL_NAMES:
                return None
            # Otherwise a page whose host name was made to point here could read everything.
            return 421, "ask for localhost: without an API key only this machine is answered"
        if path in OPEN_PATHS or path.startswith(OPEN_PREFIX):
            return None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if hmac.compare_digest(shown.encode(), self.key.encode()) and scheme.lower() == "bearer":
            return None
        return 401, "give the API key: Authorization: Bearer KEY"


def access_for(host: str, key_file: Path | None) -> Access:
    """The rule for a service bound to ``host``.

    Raises:
        ConfigError: if it is bound beyond this machine without a key, or the key cannot be used.
    """
    key = _read_key(key_file) if key_file else os.environ.get(VARIABLE)
    if key is None and not is_loopback(host):
        raise ConfigError(
            f"--host {host}: others could reach this service, so it needs an API key; give "
            f"--key-file FILE (mode 0600, at least {SHORTEST_KEY} characters, such as from "
            f"openssl rand -hex 32) or set {VARIABLE}, or keep to --host 127.0.0.1"
        )
    if key is not None:
        _check_key(key, str(key_file or VARIABLE))
    return Access(key)


def is_loopback(host: str) -> bool:
    """Whether a service bound to ``host`` is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(host: str) -> str:
    """A Host header without its port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def _read_key(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as an API key ({error})") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path}: other users of this machine can read it; chmod 600 {path}")
    return text.strip()


def _check_key(key: str, where: str) -> None:
    if len(key) < SHORTEST_KEY:
        raise ConfigError(
            f"{where}: the API key has {len(key)} characters; expected at least {SHORTEST_KEY}, "
            "such as from openssl rand -hex 32"
        )
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError(
            f"{where}: the API key has a space or a character beyond ASCII; a header carries none"
        )
