"""A deployed organisation: its folder, opened; an agent for the settings of each run."""

import logging
from functools import partial
from pathlib import Path

from client.agent import Agent
from client.data.store import read_store
from client.directory import open_ledger, population_of, resources_of
from client.ledger import Ledger
from client.settings import AgentSettings, settings_path
from shared.catalogue import Catalogue
from shared.config import Config
from shared.histories import PrivateHistories
from shared.messages import JOIN, Request
from shared.settings import adopt
from shared.splits import split

LOGGER = logging.getLogger(__name__)


class Organisation:
    """``client.gate.Home`` of an organisation that takes part in federations.

    What another command has changed is taken up: an amended policy with the next request, refreshed
    data when the next run joins.

    Args:
        directory: made by ``tacit client init``.

    Raises:
        TacitError: if a file of it cannot be used.
    """

    approval_needed = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings = AgentSettings.load(settings_path(directory))
        self._local = self.settings.to_config()
        self._store = directory / "histories.duckdb"
        self._agent: Agent | None = None
        self._adopted = ""
        self._read_data()
        self._ledger = self._open_ledger()

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def ledger(self) -> Ledger:
        """The ledger, under the policy on record.

        Raises:
            PrivacyError: if ``policy.toml`` and the policy on record differ.
        """
        if self._ledger.superseded():
            self._reopen()
            LOGGER.info("the policy was amended and is in force")
        return self._ledger

    def agent(self, kind: str, request: Request) -> Agent:
        """The agent under a request's settings; made anew when they, data or policy have changed.

        Raises:
            ConfigError: if the settings cannot be used here.
        """
        begins = kind == JOIN and self._ledger.begun(request.run) is None
        if begins and self._stamp() != self._read_at:
            self._read_data()
            self._reopen()
            LOGGER.info("the refreshed data is in use: %d users", len(self._histories))
        if self._agent is None or request.settings != self._adopted:
            self._agent = self._make(self._under_policy(adopt(self._local, request.settings)))
            self._adopted = request.settings
        return self._agent

    def _under_policy(self, config: Config) -> Config:
        """Noise as the policy has it; a plan with another is refused."""
        noise = self._ledger.policy.mechanism.noise
        return config.model_copy(
            update={"privacy": config.privacy.model_copy(update={"noise": noise})}
        )

    def _make(self, config: Config) -> Agent:
        # Training must not see what a private evaluation is to be asked about.
        held_out = config.privacy.evaluation_share > 0.0
        training = self._histories
        if held_out:
            training = split(self._histories, "leave-one-out", "test").train
        return Agent(
            0,
            self.directory,
            self._catalogue,
            training,
            self._histories,
            self._ledger,
            config,
            partial(resources_of, self._catalogue, config),
        )

    def _read_data(self) -> None:
        stamp = self._stamp()
        self._catalogue: Catalogue
        self._histories: PrivateHistories
        self._catalogue, self._histories = read_store(self._store)
        self._read_at = stamp
        self._agent = None

    def _stamp(self) -> tuple[int, int]:
        if not self._store.exists():
            return 0, 0
        found = self._store.stat()
        return found.st_mtime_ns, found.st_ino

    def _open_ledger(self) -> Ledger:
        population = population_of(self.directory, self._histories)
        return open_ledger(self.directory, population, purpose="federation")

    def _reopen(self) -> None:
        opened = self._open_ledger()
        self._ledger.close()
        self._ledger = opened
        self._agent = None
