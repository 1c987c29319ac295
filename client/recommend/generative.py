"""Ranking by a causal language model that goes on with a list of titles, held to real titles.

The model is shown the titles that a person had, one to a line, and asked for the next line. Beam
search over the prefix tree of the catalogue's titles lets it write nothing else, so that what comes
out is an item, and never one that is closed. (The idea of language models as recommenders: Geng et
al., P5, RecSys 2022; constrained to a catalogue: De Cao et al., GENRE, ICLR 2021.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from client.recommend.causal import CausalModel, load_causal
from client.recommend.facts import clean, natural_title
from client.recommend.recommender import Recommender
from client.recommend.titles import Node, TitleTrie
from shared.assets import resolve_base
from shared.catalogue import Catalogue
from shared.encoder import Vectors
from shared.histories import PrivateHistories
from shared.scoring import Ints

SHOWN = 10
LEAST_BEAMS = 20
NOT_GENERATED = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class _Beam:
    """The beginning of a title: where it is in the trie, its log probability, its tokens' places
    among those that were read after the prompt, and the token to read next."""

    node: Node
    score: float
    read: tuple[int, ...]
    token: int

    @property
    def mean(self) -> float:
        return self.score / self.node.depth


class Generative:
    """Ranks a catalogue by the titles that a language model would write next.

    Args:
        causal: the language model.
        catalogue: whose titles may come out.
    """

    def __init__(self, causal: CausalModel, catalogue: Catalogue) -> None:
        self._causal = causal
        self._titles = [_head(catalogue, place) for place in range(len(catalogue))]
        line = causal.tokenizer("\n", add_special_tokens=False)["input_ids"]
        tokens = causal.tokenizer(
            [f"\n{title}" for title in self._titles], add_special_tokens=False
        )["input_ids"]
        self.trie = TitleTrie((row[len(line) :] for row in tokens), line[-1])

    def rank(
        self, history: Ints, need: str | None, k: int, closed: Ints
    ) -> list[tuple[int, float]]:
        """The items whose titles the model finds likeliest next, at most ``k``, best first.

        Args:
            history: places of items in order of time; the newest ``SHOWN`` are read.
            need: what is wanted now, in words.
            k: how many items.
            closed: places of items that may not come out.

        Returns:
            Places with the mean log probability of their title's tokens.
        """
        prompt = self._prompt(history, need)
        shut = self.trie.closed(closed)
        with self._causal.in_use:
            found = beam_search(self._causal, prompt, self.trie, shut, max(LEAST_BEAMS, 2 * k), k)
        ranked = [
            (int(place), score) for node, score in found for place in self.trie.items(node, shut)
        ]
        return ranked[:k]

    def _prompt(self, history: Ints, need: str | None) -> Tensor:
        lines = [self._titles[place] for place in history[-SHOWN:]]
        return prompt_tokens(self._causal, lines, need)


def able_to_generate(recommender: Recommender, base: str = "smollm2") -> Recommender:
    """A recommender that has mode ``generative``.

    Args:
        recommender: to be changed.
        base: causal language model: ``smollm2``, a directory or a hub id.

    Raises:
        AssetError: if the model cannot be loaded.
    """
    runtime = recommender.scorer.runtime
    assert runtime is not None
    model = Generative(load_causal(resolve_base(base), runtime), recommender.catalogue)
    return replace(recommender, generate=model.rank)


def prompt_tokens(causal: CausalModel, titles: Sequence[str], need: str | None) -> Tensor:
    """The list that a model is to go on with, ``[1, length]`` tokens."""
    wish = f' when they wanted "{clean(need)}"' if need else ""
    lines = [
        "People who chose these titles:",
        *titles,
        "",
        f"also chose these similar titles{wish}:",
        "",
    ]
    encoded = causal.tokenizer(causal.without_control("\n".join(lines)), return_tensors="pt")
    tokens: Tensor = encoded["input_ids"].to(causal.device)
    return tokens


@torch.inference_mode()
def beam_search(
    causal: CausalModel, prompt: Tensor, trie: TitleTrie, closed: Ints, beams: int, wanted: int
) -> list[tuple[Node, float]]:
    """The likeliest whole titles after a prompt.

    All beams are one sequence behind the prompt, in which a token sees the prompt and the tokens
    of its own beam: nothing of the prompt is copied. A beam whose mean is below that of ``wanted``
    whole titles is given up.

    Args:
        causal: the language model, in this thread's use.
        prompt: ``[1, length]`` tokens.
        trie: of the titles that may come out.
        closed: rows of the trie that may not (``TitleTrie.closed``).
        beams: how many beginnings are kept.
        wanted: how many titles are asked for.

    Returns:
        Leaves with the mean log probability of their tokens, best first.
    """
    output = causal.model(input_ids=prompt, use_cache=True, logits_to_keep=1)
    cache, read = output.past_key_values, 0
    alive, whole = [_Beam(trie.root, 0.0, (), 0)], list[tuple[Node, float]]()
    while alive:
        chances = torch.log_softmax(output.logits[0].float(), dim=-1).cpu().numpy()
        grown = [
            _Beam(node, beam.score + float(chances[row, token]), beam.read, int(token))
            for row, beam in enumerate(alive)
            for token, node in zip(*trie.children(beam.node, closed), strict=True)
        ]
        grown.sort(key=lambda beam: -beam.score)
        best = grown[:beams]
        whole += [(beam.node, beam.mean) for beam in best if beam.token == trie.end]
        whole.sort(key=lambda found: -found[1])
        least = whole[wanted - 1][1] if len(whole) >= wanted else -np.inf
        alive = [beam for beam in best if beam.token != trie.end and beam.mean > least]
        if not alive:
            break
        alive = [replace(beam, read=(*beam.read, read + row)) for row, beam in enumerate(alive)]
        read += len(alive)
        output = _read(causal, cache, prompt, alive, read)
    return whole


def _read(causal: CausalModel, cache: Any, prompt: Tensor, alive: list[_Beam], read: int) -> Any:
    """Reads the next token of every beam; ``read`` tokens will then stand behind the prompt."""
    length, device, dtype = prompt.shape[1], prompt.device, causal.model.dtype
    mask = torch.full((len(alive), length + read), torch.finfo(dtype).min, dtype=dtype)
    mask[:, :length] = 0.0
    for row, beam in enumerate(alive):
        mask[row, [length + place for place in beam.read]] = 0.0
    depths = torch.tensor([[beam.node.depth - 1 for beam in alive]], device=device)
    return causal.model(
        input_ids=torch.tensor([[beam.token for beam in alive]], device=device),
        attention_mask=mask[None, None].to(device),
        position_ids=length + depths,
        cache=cache,
        use_cache=True,
    )


def generative_scores(
    generative: Generative, histories: PrivateHistories, users: Ints, items: int, k: int = 10
) -> Vectors:
    """Scores of a whole catalogue for the accuracy table, ``[users, items] float32``.

    An item that was not generated has the least finite number as its score: evaluation refuses
    what is not finite.

    Args:
        generative: ranks.
        histories: what is read; what a user had is not generated.
        users: rows of the histories.
        items: size of the catalogue.
        k: how many items are generated for a user.
    """
    scores = np.full((len(users), items), NOT_GENERATED, dtype=np.float32)
    for row, user in enumerate(users):
        history = histories.row(int(user))
        for place, score in generative.rank(history, None, k, np.unique(history)):
            scores[row, place] = score
    return scores


def _head(catalogue: Catalogue, place: int) -> str:
    """Title and year of an item, as in its text but in their natural order."""
    year = catalogue.attributes["year"][place] if "year" in catalogue.attributes else ""
    title = natural_title(catalogue.titles[place])
    return f"{title} ({clean(year)})" if year else title
