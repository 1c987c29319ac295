"""The card beside an adapter: what it is, what it cost, and how to load it."""

import math

from shared.config import Config
from shared.plan import Adjacency


def adapter_card(config: Config, epsilon: float | None, delta: float, run: str, rounds: int) -> str:
    """Markdown for ``README.md`` of an adapter directory.

    Args:
        config: of the run.
        epsilon: spent by one organisation at ``delta``; None where nothing is promised.
        delta: at which epsilon is stated.
        run: identifier of the run.
        rounds: that the adapter was trained for.
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
        f"- Privacy: {_guarantee(config, epsilon, delta)}",
        "",
        "It reads item vectors through `inputs_embeds`; layers that the user model leaves out are",
        "passed through. Load it with `PeftModel.from_pretrained(base, directory)`.",
    ]
    return "\n".join(lines) + "\n"


def _guarantee(config: Config, epsilon: float | None, delta: float) -> str:
    if epsilon is None:
        return "**not private**: made without noise, or with noise that can be repeated."
    shared = (
        " The noise was added once for all organisations: a simulation of a trusted sum."
        if config.privacy.noise == "shared"
        else ""
    )
    # Rounded up: a card never claims less than was spent.
    return (
        f"epsilon {math.ceil(epsilon * 1000) / 1000:g} at delta {delta:.3g} for each organisation, "
        f"statistics included; unit: user; adjacency: {Adjacency.ADD_OR_REMOVE_ONE}.{shared}"
    )
