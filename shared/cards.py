"""The card beside an adapter: what it is, what it cost, and how to load it."""

import math
from dataclasses import dataclass

from shared.config import Config
from shared.plan import Adjacency
from shared.words import epsilon_text


@dataclass(frozen=True)
class MaskedSums:
    """What a card says of secure sums.

    Attributes:
        least_participants: fewest organisations in a sum.
        colluders: on the server's side against whom epsilon still holds.
        epsilon_alone: of one organisation with all others on the server's side.
    """

    least_participants: int
    colluders: int
    epsilon_alone: float


def adapter_card(
    config: Config,
    epsilon: float | None,
    delta: float,
    run: str,
    rounds: int,
    sums: MaskedSums | None = None,
) -> str:
    """Markdown for ``README.md`` of an adapter directory.

    Args:
        config: of the run.
        epsilon: spent by one organisation at ``delta``; None where nothing is promised.
        delta: at which epsilon is stated.
        run: identifier of the run.
        rounds: that the adapter was trained for.
        sums: where they were secure; None where the server saw what each organisation sent.
    """
    model = config.model
    lines = [
        "---",
        "library_name: peft",
        "tags: [recommendation, federated-learning, differential-privacy]",
        "---",
        "# Adapter of a tacit federation",
        "",
        f"- Run `{run}`, {rounds} rounds, base `{config.base.name}`"
        + (f", warm start `{model.warm_start}`" if model.warm_start else "")
        + f", {model.layers} {model.layers_from} layers.",
        f"- {model.adapter}, rank {model.rank}, alpha {model.alpha:g}; temperature "
        f"{model.temperature:g}; window {model.window} items.",
        f"- Privacy: {_guarantee(config, epsilon, delta, sums)}",
        "",
        "It reads item vectors through `inputs_embeds`; layers that the user model leaves out are",
        "passed through. Load it with `PeftModel.from_pretrained(base, directory)`.",
    ]
    return "\n".join(lines) + "\n"


def _guarantee(config: Config, epsilon: float | None, delta: float, sums: MaskedSums | None) -> str:
    if epsilon is None:
        return "**not private**: made without noise, or with noise that can be repeated."
    return (
        f"epsilon {epsilon_text(epsilon)} at delta {delta:.3g} for each organisation, statistics "
        f"included; unit: user; adjacency: {Adjacency.ADD_OR_REMOVE_ONE}."
        + _sums(config, epsilon, sums)
    )


def _sums(config: Config, epsilon: float, sums: MaskedSums | None) -> str:
    if sums is None:
        if config.privacy.noise != "shared":
            return " Each organisation added all of its noise to what it sent."
        return " The noise was added once for all organisations: a simulation of a trusted sum."
    seen = f" The server saw only sums of at least {sums.least_participants} organisations."
    if sums.epsilon_alone <= epsilon:
        return f"{seen} Each added all of its noise."
    alone = "nothing is promised"
    if math.isfinite(sums.epsilon_alone):
        alone = f"it is {epsilon_text(sums.epsilon_alone)}"
    return (
        f"{seen} The noise was added once: epsilon holds against the server with up to "
        f"{sums.colluders} of them on its side; with all others there {alone}."
    )
