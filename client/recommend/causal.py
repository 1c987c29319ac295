"""A causal language model on this machine: loaded once, one generation at a time."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from shared.assets import Base
from shared.devices import Runtime
from shared.errors import AssetError
from shared.models import quiet

Message = tuple[str, str]

# How architectures are named that write.
CAUSAL = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class CausalModel:
    """A causal language model with its tokenizer.

    Attributes:
        model: in evaluation mode.
        tokenizer: of the model.
        device: where the model is.
        in_use: held by whoever generates.
    """

    model: Any
    tokenizer: Any
    device: str
    in_use: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end what the model writes."""
        found = self.model.generation_config.eos_token_id
        ends = [] if found is None else found if isinstance(found, list) else [found]
        if self.tokenizer.eos_token_id is not None:
            ends = [*ends, self.tokenizer.eos_token_id]
        return tuple(dict.fromkeys(ends))

    @cached_property
    def token_texts(self) -> tuple[str, ...]:
        """What each token adds to a text; empty for control tokens and for parts of a letter.

        Decoded behind another token, for some tokenizers drop the space that begins a text.
        """
        anchor = self.tokenizer("a", add_special_tokens=False)["input_ids"][-1]
        before = self.tokenizer.decode([anchor])
        special = set(self.tokenizer.all_special_ids)
        rows = [[anchor, token] for token in range(len(self.tokenizer))]
        texts = self.tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)
        return tuple(
            "" if token in special or "\N{REPLACEMENT CHARACTER}" in text else text[len(before) :]
            for token, text in enumerate(texts)
        )

    def prompt(self, system: str, messages: Sequence[Message]) -> Tensor:
        """Tokens of a conversation that the model is to go on with, ``[1, length]``.

        Args:
            system: what the model is for.
            messages: (role, text) in turn, the last by ``user``. A text cannot hold a control
                token: what looks like one is broken up.
        """
        turns = [{"role": role, "content": self.without_control(text)} for role, text in messages]
        # Not every template knows a role for the system; all know the user.
        turns[0]["content"] = f"{system}\n\n{turns[0]['content']}"
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
            encoded = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")
        else:
            text = "\n".join(turn["content"] for turn in turns) + "\n"
            encoded = self.tokenizer(text, return_tensors="pt")
        tokens: Tensor = encoded["input_ids"].to(self.device)
        return tokens

    def without_control(self, text: str) -> str:
        """A text in which nothing is read as a control token."""
        controls = self._controls
        while any(control in text for control in controls):
            for control in controls:
                text = text.replace(control, " ")
        return text

    @cached_property
    def _controls(self) -> tuple[str, ...]:
        added = self.tokenizer.get_added_vocab()
        return tuple(sorted(t for t in [*added, *self.tokenizer.all_special_tokens] if t.strip()))


def load_causal(base: Base, runtime: Runtime) -> CausalModel:
    """Load a causal language model, in the runtime's precision.

    Raises:
        AssetError: if the base is no causal language model.
    """
    quiet()
    expected = "give smollm2 or the directory of a causal language model with a tokenizer"
    dtype = torch.bfloat16 if runtime.precision == "bfloat16" else torch.float32
    try:
        config = AutoConfig.from_pretrained(base.path, local_files_only=True)
        # An encoder would load too, with a head of random weights.
        if not any(name.endswith(CAUSAL) for name in config.architectures or ()):
            raise AssetError(
                f"{base.path}: is no causal language model but {config.architectures}; {expected}"
            )
        model: Any = AutoModelForCausalLM.from_pretrained(
            base.path, dtype=dtype, use_safetensors=True, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(base.path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise AssetError(f"{base.path}: cannot be loaded ({error}); {expected}") from error
    return CausalModel(model.to(runtime.device).eval(), tokenizer, runtime.device)
