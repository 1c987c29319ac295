"""The card beside an adapter: what it is, what it cost, and how to load it."""

from shared.config import Config
from shared.plan import PrivacyPlan


def adapter_card(
    config: Config, plan: PrivacyPlan | None, run: str, rounds: int, private: bool
) -> str:
    """Markdown for ``README.md`` of an adapter directory."""
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
        f"- Privacy: {_guarantee(plan, private)}",
        "",
        "It reads item vectors through `inputs_embeds`; layers that the user model leaves out are",
        "passed through. Load it with `PeftModel.from_pretrained(base, directory)`.",
    ]
    return "\n".join(lines) + "\n"


def _guarantee(plan: PrivacyPlan | None, private: bool) -> str:
    if plan is None or not private:
        return "**not private**: made without noise, or with noise that can be repeated."
    shared = (
        " The noise was added once for all organisations: a simulation of a trusted sum."
        if plan.noise == "shared"
        else ""
    )
    return (
        f"epsilon {plan.epsilon:g} at delta {plan.delta:.3g} for each organisation, statistics "
        f"included; unit: user; adjacency: {plan.adjacency.value}.{shared}"
    )
