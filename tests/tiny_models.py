"""Tiny random-weight models with a word tokenizer, saved as pretrained folders: BERT, GPT-2 and Llama."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

# Id 0 is a word, as "!" is in GPT-2: the released code takes it for padding.
WORDS = ["zero", "good", "bad", "no", "yes", *(f"w{i}" for i in range(20))]
SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "<s>"]
KINDS = ("bert", "gpt2", "llama")


def make_model(folder: Path, kind: str, *, layers: int = 2, tied: bool = True, dropout: float = 0.0) -> Path:
    folder.mkdir(parents=True)
    logging.disable_progress_bar()
    _tokenizer(kind).save_pretrained(folder)
    config = _config(kind, layers, tied, dropout)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        auto: Any = AutoModelForMaskedLM if kind == "bert" else AutoModelForCausalLM
        model = auto.from_config(config)
        for name, p in model.named_parameters():
            if p.ndim > 1 and "norm" not in name:
                torch.nn.init.normal_(p, std=0.3)
        model.save_pretrained(folder)
    return folder


def _config(kind: str, layers: int, tied: bool, dropout: float) -> Any:
    size = len(WORDS) + len(SPECIALS)
    common = {"vocab_size": size, "tie_word_embeddings": tied}
    if kind == "bert":
        return BertConfig(
            **common, num_hidden_layers=layers, hidden_size=16, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=128, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        )  # fmt: skip
    if kind == "gpt2":
        return GPT2Config(
            **common, n_layer=layers, n_embd=16, n_head=2, n_positions=128, resid_pdrop=dropout, embd_pdrop=dropout,
            attn_pdrop=dropout, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
    return LlamaConfig(
        **common, num_hidden_layers=layers, hidden_size=16, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, max_position_embeddings=128, attention_dropout=dropout,
        bos_token_id=size - 1, eos_token_id=None,
    )  # fmt: skip


def _tokenizer(kind: str) -> Any:
    """BERT: [CLS] text [SEP]. Llama: <s> text, padding on the left. GPT-2: the bare text, no special token at all."""
    ids = {word: i for i, word in enumerate(WORDS + SPECIALS)}
    core = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if kind == "gpt2":
        return PreTrainedTokenizerFast(tokenizer_object=core, truncation_side="left")
    marks = {
        "bert": ("[CLS] $A [SEP]", ["[CLS]", "[SEP]"], {"cls_token": "[CLS]", "sep_token": "[SEP]"}),
        "llama": ("<s> $A", ["<s>"], {"bos_token": "<s>", "padding_side": "left"}),
    }
    single, specials, names = marks[kind]
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[(s, ids[s]) for s in specials])
    pad = {"pad_token": "[PAD]"} if kind == "bert" else {}
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", **names, **pad)


def make_task(num_rows: int, seed: int, longest: int = 8) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Texts that say "good" or "bad" among other words, and certain labels (n, 2) that say which."""
    rng = random.Random(seed)
    labels = [rng.randrange(2) for _ in range(num_rows)]
    texts = []
    for label in labels:
        words = rng.choices([*WORDS[5:], "zero"], k=rng.randint(1, longest))
        words.insert(rng.randint(0, len(words)), ("bad", "good")[label])
        texts.append(" ".join(words))
    return texts, np.eye(2, dtype=np.float32)[labels]
