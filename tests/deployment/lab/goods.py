"""Invented shops: titles, users' histories, and a tiny base model that knows the titles' words."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NOUNS = ("lamp", "chair", "table", "shelf", "clock", "mirror")
WORDS = {
    "films": ("haunted", "stellar", "tender", "crooked", "silent", "golden"),
    "books": ("ancient", "winter", "hidden", "broken", "distant", "velvet"),
    "tools": ("cordless", "rotary", "steel", "compact", "heavy", "precise"),
}
ITEMS = len(NOUNS) * 6
START = 1_700_000_000


@dataclass(frozen=True)
class Shop:
    """A shop's kind of goods and how many users it has."""

    kind: str
    users: int

    def titles(self) -> list[str]:
        """Of its items; no other shop has one of them."""
        return [f"{word} {noun} {self.kind}" for word in WORDS[self.kind] for noun in NOUNS]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write interactions and items as CSV; returns both paths."""
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(len(self.kind) + self.users)
        items, interactions = folder / "items.csv", folder / "interactions.csv"
        with items.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["item_id", "title"])
            rows.writerows([f"{self.kind}-{n}", title] for n, title in enumerate(self.titles()))
        with interactions.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["user_id", "item_id", "timestamp"])
            for user in range(self.users):
                # Users keep to the goods of one adjective, so that there is something to learn.
                taste = int(random.integers(6)) * len(NOUNS)
                for step, noun in enumerate(random.permutation(len(NOUNS))):
                    at = START + user * 60 + step * 86_400
                    rows.writerow([self.user(user), f"{self.kind}-{taste + noun}", at])
        return interactions, items

    def user(self, number: int) -> str:
        """Identifier of a user; private."""
        return f"{self.kind}-customer-{number}"


def write_tiny_base(folder: Path, seed: int = 0) -> None:
    """A random BERT of two narrow layers, with a tokenizer, as a directory of a base model."""
    import torch
    from transformers import BertConfig, BertModel

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *NOUNS, *WORDS]
    words += [word for several in WORDS.values() for word in several]
    torch.manual_seed(seed)
    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=len(words),
        max_position_embeddings=64,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    named = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
