"""A tiny random Llama with a tokenizer of its own, for what does not depend on the weights."""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from client.recommend.causal import CausalModel


def tiny_causal(
    texts: Sequence[str], chat_template: str | None = None, spread: float = 0.02
) -> CausalModel:
    """A random model whose byte-level tokenizer was trained on some texts.

    Weights of a large ``spread`` show a wrong position or mask; with small ones all is as likely.
    """
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>")
    tokenizer.chat_template = chat_template
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=spread,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CausalModel(LlamaForCausalLM(config).eval(), tokenizer, "cpu")
