"""In which federations and runs this organisation takes part, and what they have delivered."""

from collections import Counter
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open

from client.recommend.opening import ADAPTER, SETTINGS, STATISTICS
from client.serving.ledger_view import Reading
from client.serving.schemas import DeliveryState
from client.serving.utility import Utility
from shared.departures import Departure
from shared.entries import Intent

KEY_DIGITS = 16


class Approved(BaseModel):
    """A federation that may ask."""

    key: str = Field(description=f"First {KEY_DIGITS} digits of its server's public key.")
    runs: int


class RunPart(BaseModel):
    """This organisation's part in one run."""

    run: str
    federation: str
    mechanisms: dict[str, int] = Field(description="How often each was released.")
    rounds: int = Field(description="Adapter rounds that it took part in.")
    last_round: int
    first: str
    last: str
    refusals: int


class DeliveredFile(BaseModel):
    """A file of the delivery."""

    name: str
    time: float = Field(description="Seconds since 1970.")
    size_bytes: int


class Delivered(BaseModel):
    """What the federation delivered last."""

    in_use: DeliveryState | None = Field(description="None: nothing can be used yet.")
    card: str = Field(description="The adapter's, in Markdown; empty where there is no adapter.")
    items: int = Field(description="Items that the statistics know.")
    covered: int = Field(description="Items that co-occurrence covers.")
    files: list[DeliveredFile]


class Federation(BaseModel):
    """Everything about taking part."""

    name: str
    declared_users: int
    approved: list[Approved]
    runs: list[RunPart] = Field(description="Newest first.")
    delivered: Delivered
    utility: Utility | None = Field(description="None: nothing can be used yet.")


def federation_of(
    directory: Path, reading: Reading, in_use: DeliveryState | None, utility: Utility | None
) -> Federation:
    """The view of a ledger and a folder.

    Args:
        directory: of the organisation.
        reading: of its ledger.
        in_use: the delivery that requests are answered with.
        utility: of that delivery.
    """
    policy = reading.contents.policy
    runs = _runs(reading)
    return Federation(
        name=policy.organisation.name,
        declared_users=policy.organisation.declared_users,
        approved=[
            Approved(
                key=key[:KEY_DIGITS],
                runs=sum(run.federation == key[:KEY_DIGITS] for run in runs),
            )
            for key in policy.federations.allowed
        ],
        runs=runs,
        delivered=_delivered(directory, in_use),
        utility=utility,
    )


def run_of(request: str) -> str:
    """The run that a request's name begins with: ``run/round/kind``."""
    return request.rsplit("/", 2)[0] if request.count("/") >= 2 else ""


def _runs(reading: Reading) -> list[RunPart]:
    departures: dict[str, list[Departure]] = {}
    for departure in reading.egress.departures:
        departures.setdefault(run_of(departure.request), []).append(departure)
    spent: dict[str, list[Intent]] = {}
    for spend in reading.contents.spends:
        spent.setdefault(spend.intent.run, []).append(spend.intent)
    refused = Counter(run_of(denial.request) for denial in reading.egress.denials)
    found = []
    for run, left in departures.items():
        intents = spent.get(run, [])
        rounds = {intent.round for intent in intents if intent.mechanism == "step"}
        names = dict.fromkeys(intent.mechanism for intent in intents)
        found.append(
            RunPart(
                run=run,
                federation=intents[0].federation[:KEY_DIGITS] if intents else "",
                mechanisms={n: sum(i.mechanism == n for i in intents) for n in names},
                rounds=len(rounds),
                last_round=max(rounds, default=0),
                first=left[0].at,
                last=left[-1].at,
                refusals=refused[run],
            )
        )
    return found[::-1]


def _delivered(directory: Path, in_use: DeliveryState | None) -> Delivered:
    items, covered = _statistics(directory / STATISTICS)
    names = (STATISTICS, SETTINGS, f"{ADAPTER}/adapter_model.safetensors")
    files, card = [], ""
    for name in names:
        # An adapter that is being replaced is away for a moment.
        with suppress(FileNotFoundError):
            files.append((name, (directory / name).stat()))
    with suppress(FileNotFoundError):
        card = (directory / ADAPTER / "README.md").read_text(errors="replace")
    return Delivered(
        in_use=in_use,
        card=card,
        items=items,
        covered=covered,
        files=[
            DeliveredFile(
                name=name.removeprefix("delivered/"), time=found.st_mtime, size_bytes=found.st_size
            )
            for name, found in files
        ],
    )


def _statistics(path: Path) -> tuple[int, int]:
    """How many items the statistics know and cover; 0 for a file that cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_slice("keys").get_shape()[0], file.get_slice("top").get_shape()[0]
    except (OSError, SafetensorError):
        return 0, 0
