"""What a simulation holds before any round: data, organisations, splits, vectors, the model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from client.agent import Agent
from client.data.ingest import Dataset, load_dataset
from client.data.partition import Organisation, partition
from client.directory import (
    check_population,
    experiment_policy,
    item_vectors,
    make_agent,
    organisation_directory,
    write_organisation,
)
from client.releases import Identity
from shared.config import Config
from shared.encoder import Vectors, encode_texts
from shared.errors import ConfigError
from shared.models import LoadedModel, load_model
from shared.policy import Policy
from shared.splits import Split, split
from simulations.synth import synthesise

NOT_REAL = "Users, items and histories were generated: nothing in them is real."

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class World:
    """One data set split into organisations. The researcher holds all of it.

    Attributes:
        config: of the run.
        dataset: everything.
        organisations: who holds which users.
    """

    config: Config
    dataset: Dataset
    organisations: tuple[Organisation, ...]

    @cached_property
    def validation(self) -> Split:
        """Split whose targets settings may be chosen on."""
        return split(self.dataset.histories, self.config.evaluation.protocol, "validation")

    @cached_property
    def test(self) -> Split:
        """Split whose targets figures are reported on."""
        return split(self.dataset.histories, self.config.evaluation.protocol, "test")

    @property
    def items(self) -> int:
        """Size of the catalogue."""
        return len(self.dataset.catalogue)

    @cached_property
    def loaded(self) -> LoadedModel:
        """The user model, shared by all organisations."""
        return load_model(self.config)

    def encode(self, progress: Progress | None = None) -> None:
        """Fill the cache of item vectors on disk, telling ``progress``."""
        encode_texts(
            self.dataset.catalogue.texts, self.loaded.encoder, self.loaded.runtime, progress
        )

    @cached_property
    def vectors(self) -> Vectors:
        """Item vectors."""
        return item_vectors(self.dataset.catalogue, self.loaded)

    def identity(self, number: int) -> Identity:
        """Public figures of an organisation; in simulation it declares its true size."""
        part = self.organisations[number]
        return Identity(part.name, number, len(part.users))

    def policy(self, config: Config, number: int) -> Policy:
        """What an organisation of a simulation allows: the run's own settings."""
        users = sum(len(part.users) for part in self.organisations)
        return experiment_policy(config, self.identity(number), users)

    def write_organisations(self, config: Config, directory: Path) -> None:
        """Write every organisation's folder where it is not there yet.

        Raises:
            RunError: if a folder that is there belongs to other users.
        """
        for number, part in enumerate(self.organisations):
            folder = organisation_directory(directory, config, number)
            histories = self.dataset.histories.select(part.users)
            if (folder / "organisation.json").exists():
                check_population(folder, histories)
                continue
            write_organisation(
                folder,
                number,
                self.policy(config, number),
                self.dataset.catalogue,
                histories,
                self.test.train.select(part.users),
                config,
            )

    def agents(self, config: Config, directory: Path) -> list[Agent]:
        """One agent per organisation over the data in memory; its folder must be there."""
        return [
            make_agent(
                organisation_directory(directory, config, number),
                self.dataset.catalogue,
                self.test.train.select(part.users),
                self.dataset.histories.select(part.users),
                config,
            )
            for number, part in enumerate(self.organisations)
        ]


def build_world(config: Config, scratch: Path, progress: Progress | None = None) -> World:
    """Load or generate the data and split it into organisations.

    Args:
        config: of the run.
        scratch: folder for generated data.
        progress: told ``(users done, users)`` while data is generated.

    Raises:
        ConfigError: if the partition gives another number of organisations than configured.
    """
    options = config.data
    if options.source == "synthetic":
        folder = scratch / "synthetic"
        if not (folder / "interactions.parquet").exists():
            synthesise(
                options.synthetic_users,
                options.synthetic_items,
                config.partition.organisations,
                config.run.seed,
                folder,
                progress,
            )
        options = options.model_copy(update={"source": str(folder)})
    dataset = load_dataset(options)
    if config.data.source == "synthetic":
        dataset = replace(dataset, name="synthetic", notices=(*dataset.notices, NOT_REAL))
    parts = partition(
        dataset, config.partition.scheme, config.partition.organisations, config.run.seed
    )
    if len(parts) != config.partition.organisations:
        raise ConfigError(
            f"partition.scheme = {config.partition.scheme} gives {len(parts)} organisations; set "
            f"partition.organisations = {len(parts)}"
        )
    return World(config, dataset, tuple(parts))


def fewer(world: World, users: int, seed: int) -> World:
    """The same catalogue with some of the users, drawn with ``seed``; 0: all.

    Of two numbers the smaller one's users are among the greater one's.
    """
    there = len(world.dataset.histories)
    if users in (0, there):
        return world
    kept = np.sort(np.random.default_rng(seed).permutation(there)[:users])
    dataset = replace(
        world.dataset,
        histories=world.dataset.histories.select(kept),
        user_columns={
            name: tuple(values[user] for user in kept)
            for name, values in world.dataset.user_columns.items()
        },
    )
    options = world.config.partition
    parts = partition(dataset, options.scheme, options.organisations, world.config.run.seed)
    return World(world.config, dataset, tuple(parts))
