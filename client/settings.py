"""An organisation's own settings, ``agent.toml``: where its data is, which model, which machine."""

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from shared.config import (
    AggregationSection,
    AuditSection,
    BaseSection,
    Config,
    DataSection,
    PersonalisationSection,
)
from shared.errors import ConfigError
from shared.sections import Count, Positive, Section, read_toml, sentence

MEBIBYTE = 1024**2
# What the kernel's sockaddr_un has room for, less the final zero.
LONGEST_SOCKET_PATH = 107


class AgentSection(Section):
    """The agent's socket, the only way in."""

    socket: str = Field("", description="Path of the Unix socket; empty: agent.sock in NODE.")
    socket_group: str = Field(
        "", description="Group of the operating system that may connect; empty: the agent's user."
    )
    wait_s: Positive = Field(
        3600.0, description="Seconds that a request waits while another is answered."
    )
    largest_request_mib: Count = Field(256, description="Largest request, in MiB.")


class OwnBaseSection(BaseSection):
    """The base language model, as it is found here."""

    warm_start: str = Field("", description="Directory made by tacit pretrain; empty: none.")


class MachineSection(Section):
    """What the agent may use of this machine."""

    threads: int = Field(0, ge=0, description="Threads of torch; 0 takes all cores.")
    device: str = Field("auto", description="auto, cpu or cuda.")
    micro_batch_rows: Count = Field(64, description="Rows of a forward pass; bounds memory.")


class SuperLinkSection(Section):
    """The federation's SuperLink, for tacit client check; the SuperNode is told on its own."""

    address: str = Field("", description="HOST:PORT; empty: not known yet.")
    root_certificates: str = Field("", description="PEM file of the federation's certificates.")


class AgentSettings(Section):
    """All of ``agent.toml``."""

    agent: AgentSection = Field(default_factory=AgentSection)
    data: DataSection = Field(default_factory=DataSection)
    base: OwnBaseSection = Field(default_factory=OwnBaseSection)
    machine: MachineSection = Field(default_factory=MachineSection)
    personalisation: PersonalisationSection = Field(default_factory=PersonalisationSection)
    audit: AuditSection = Field(default_factory=AuditSection)
    superlink: SuperLinkSection = Field(default_factory=SuperLinkSection)

    def to_config(self) -> Config:
        """A run's configuration with what is the organisation's own; the rest comes with a run."""
        # How sums are taken is the plan's, and the noise the policy's.
        config, machine = Config(aggregation=AggregationSection(mode="plain")), self.machine
        return config.model_copy(
            update={
                "run": config.run.model_copy(
                    update={"threads": machine.threads, "device": machine.device}
                ),
                "data": self.data,
                "base": BaseSection(name=self.base.name, precision=self.base.precision),
                "model": config.model.model_copy(update={"warm_start": self.base.warm_start}),
                "training": config.training.model_copy(
                    update={"micro_batch_rows": machine.micro_batch_rows}
                ),
                "personalisation": self.personalisation,
                "audit": self.audit,
            }
        )

    @classmethod
    def of_run(cls, config: Config) -> Self:
        """Those of a simulated organisation: the run's own."""
        return cls(
            data=config.data,
            base=OwnBaseSection(
                name=config.base.name,
                precision=config.base.precision,
                warm_start=config.model.warm_start,
            ),
            machine=MachineSection(
                threads=config.run.threads,
                device=config.run.device,
                micro_batch_rows=config.training.micro_batch_rows,
            ),
            personalisation=config.personalisation,
            audit=config.audit,
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``agent.toml``.

        Raises:
            ConfigError: names the file and every key that is wrong.
        """
        values = read_toml(path, ConfigError)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{path}: {sentence(error, cls)}") from error


def settings_path(directory: Path) -> Path:
    """Where an organisation keeps its settings."""
    return directory / "agent.toml"


def node_directory(directory: Path) -> Path:
    """Default folder of an organisation's SuperNode: beside its own, which that may not enter."""
    return directory.with_name(directory.name + "-node")


def socket_path(directory: Path, settings: AgentSettings) -> Path:
    """Where the agent of an organisation listens.

    Raises:
        ConfigError: if the path is longer than the operating system allows.
    """
    chosen = settings.agent.socket
    path = Path(chosen) if chosen else node_directory(directory.resolve()) / "agent.sock"
    if len(str(path).encode()) > LONGEST_SOCKET_PATH:
        raise ConfigError(
            f"{path}: a socket's path has at most {LONGEST_SOCKET_PATH} bytes; set agent.socket in "
            f"{settings_path(directory)} to a shorter one, such as /run/tacit/agent.sock"
        )
    return path
