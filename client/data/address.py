"""Addresses of databases and object stores: variables filled in, passwords kept out of sight."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from shared.errors import ConfigError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
# Parameters whose values a message may show; of all others they are kept out of sight.
_HARMLESS = {"host", "port", "dbname", "sslmode", "warehouse", "role", "schema"}
_USER_AND_PASSWORD = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)([^/@]*)(?=@)")


@dataclass(frozen=True)
class Address:
    """A URL that may hold a password. It prints as ``shown``.

    Attributes:
        url: the whole of it, with what the variables stand for.
        scheme: before ``://``, in small letters.
        shown: scheme, user, host and path, for errors and notices.
        secrets: texts that no message may hold.
    """

    url: str = field(repr=False)
    scheme: str
    shown: str
    secrets: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        return self.shown

    def redacted(self, error: BaseException, query: str = "") -> str:
        """What a library says, on one line of at most 300 characters, without secrets.

        Args:
            error: of the library.
            query: text that the library repeats and a person here knows.
        """
        text = str(error)
        if query:
            text = text.replace(query, "...")
        for secret in self.secrets:
            text = text.replace(secret, "***")
        # Behind this Arrow repeats a traceback.
        text = " ".join(text.partition("Detail: Python exception")[0].split())
        return text[:300].rstrip(". ") or type(error).__name__


def is_address(source: str) -> bool:
    """Whether a source is a URL (or a variable that holds one), and not a path or a name."""
    return "://" in source or _VARIABLE.fullmatch(source) is not None


def resolve(template: str, option: str, environment: Mapping[str, str] = os.environ) -> Address:
    """Fill in ``${NAME}`` from the environment.

    A value that stands for a user or password is taken as it is; ``@``, ``/`` and ``%`` in it need
    no escaping. A value that stands for more than that is part of the URL, and escaped like one.

    Args:
        template: the URL as the settings hold it.
        option: name of the setting, for errors.
        environment: values of variables.

    Raises:
        ConfigError: if a variable is not set, or the result is not a well-formed URL. The sentence
            does not show the URL.
    """
    secrets: list[str] = []

    def value(name: str) -> str:
        found = environment.get(name, "")
        if not found:
            raise ConfigError(
                f"{option} needs the environment variable {name}, which is not set; set it for "
                "the process that reads the data"
            )
        return found

    def escaped(match: re.Match[str]) -> str:
        found = value(match[1])
        secrets.extend((found, quote(found, safe="")))
        return quote(found, safe="")

    def login(match: re.Match[str]) -> str:
        return match[1] + _VARIABLE.sub(escaped, match[2])

    def plain(match: re.Match[str]) -> str:
        return value(match[1])

    url = _VARIABLE.sub(plain, _USER_AND_PASSWORD.sub(login, template))
    return _parsed(url, option, secrets)


def _parsed(url: str, option: str, secrets: list[str]) -> Address:
    """The address, if its parts are where they seem to be.

    A password with a bare ``/``, ``?``, ``#`` or ``@`` ends in another part of the URL, and from
    there in error messages of libraries.
    """
    advice = (
        f"{option} is not a well-formed URL (not shown, it may hold a password); expected "
        "scheme://user@host:port/path, with %40 for @, %2F for / and %3A for : inside its parts"
    )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigError(advice) from None
    behind = parts.path + parts.query + parts.fragment
    if not parts.scheme or parts.netloc.count("@") > 1 or "@" in behind or "\0" in url:
        raise ConfigError(advice)
    user, host = unquote(parts.username or ""), parts.hostname or ""
    if user in secrets:
        # Some services take a token as the name.
        user = ""
    # After ";" a Spark Connect address has its parameters, among them a token.
    path = parts.path.partition(";")[0]
    shown = f"{parts.scheme}://{f'{user}@' if user else ''}{host}{f':{port}' if port else ''}{path}"
    password = parts.password or ""
    parameters = parse_qsl(f"{parts.query};{parts.path.partition(';')[2]}".replace(";", "&"))
    values = [value for name, value in parameters if name not in _HARMLESS]
    hidden = {url, password, unquote(password), *values, *secrets} - {"", user}
    return Address(url, parts.scheme.lower(), shown, tuple(sorted(hidden, key=len, reverse=True)))
