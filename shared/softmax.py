"""The cross-entropy of the next item, over the catalogue or over a public sample of a large one.

A normaliser over a million items costs ten times the model that it trains. A sample of the items
estimates it without bias: the most popular ones enter exactly, as most of its mass is theirs, and
the others by a uniform sample whose members each stand for as many items as were left out (Jean et
al., ACL 2015, importance sampling; Li et al. 2016 on keeping the head exact). The sample depends on
released popularity and public randomness alone, never on a row of the step.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Candidates:
    """Items of a step's normaliser. Public.

    Attributes:
        places: ``[candidates] int64`` in the catalogue, ascending.
        log_stands_for: ``[candidates] float32`` log of how many items each stands for.
    """

    places: Tensor
    log_stands_for: Tensor


def public_candidates(prior: Tensor, most: int, generator: torch.Generator) -> Candidates | None:
    """Draw the items of a normaliser; None where the whole catalogue is not too many.

    Args:
        prior: ``[items] float32`` log popularity, public or released.
        most: items of the normaliser. Half are the most popular, half a uniform sample of the rest.
        generator: public randomness, on the CPU; it must know nothing of the rows.
    """
    items = len(prior)
    if items <= most:
        return None
    head = most // 2
    # Ties in released popularity are broken by place: the same on every machine.
    order = torch.argsort(prior.cpu(), descending=True, stable=True)
    rest = order[head:]
    drawn = rest[torch.randperm(len(rest), generator=generator)[: most - head]]
    log_each = torch.full((items,), math.log(len(rest) / (most - head)))
    log_each[order[:head]] = 0.0
    places = torch.cat([order[:head], drawn]).sort().values
    device = prior.device
    return Candidates(places.to(device), log_each[places].to(device))


def next_item_losses(
    direction: Tensor,
    targets: Tensor,
    items: Tensor,
    prior: Tensor,
    temperature: float,
    candidates: Candidates | None = None,
    had: Tensor | None = None,
) -> Tensor:
    """Minus the log probability of each target, ``[positions] float32``.

    What a user has is never recommended, so it is no rival of the target either: with it in the
    normaliser the model learns to turn away from a history, and ranks worse than before training
    (docs/utility.md has the figures).

    Args:
        direction: ``[positions, dim] float32`` unit vectors.
        targets: ``[positions] int64`` places of the items that came next.
        items: ``[items, dim]`` unit item vectors; products are taken in their precision.
        prior: ``[items] float32`` log popularity.
        temperature: of the cosine.
        candidates: of the normaliser, beside each position's own target; None: all items.
        had: ``[pairs, 2] int64`` position and an item that the same user has already, which the
            normaliser leaves out; never the position's own target.
    """
    scaled = (direction / temperature).to(items.dtype)
    if candidates is None:
        # The sum with the float32 prior is float32.
        scores = scaled @ items.T + prior
        if had is not None:
            scores[had[:, 0], had[:, 1]] = -torch.inf
        return nn.functional.cross_entropy(scores, targets, reduction="none")
    places = candidates.places
    own = (scaled.float() * items[targets].float()).sum(dim=1) + prior[targets]
    others = scaled @ items[places].T + (prior[places] + candidates.log_stands_for)
    # A target counts once, as itself.
    out = torch.stack([torch.arange(len(targets), device=targets.device), targets], dim=1)
    if had is not None:
        out = torch.cat([out, had])
    position, item = out.T.contiguous()
    column = torch.searchsorted(places, item).clamp(max=len(places) - 1)
    among = places[column] == item
    others[position[among], column[among]] = -torch.inf
    return torch.logaddexp(own, others.logsumexp(dim=1)) - own
