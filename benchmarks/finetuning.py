"""Finetuning and prediction at the limit of the processor, as ratios side by side in one run.

    python benchmarks/finetuning.py [--model minilm-l6] [--rounds 3] [--steps 50]
    python benchmarks/finetuning.py --only ours-one,compiled-one    # with torch.compile
    python benchmarks/finetuning.py --what predict
    python benchmarks/finetuning.py --what extract      # against sentence-transformers, where it is installed

Movie snippets (27 tokens on average, 6,400 of them), batches of 32 drawn at random, float32, AdamW, on the CPU.
Compared are

* ours: `outgrow.train` as `outgrow run --train finetune` uses it, the head reading one token or the mean of all;
* bare: the same model and optimizer on batches of equal length (no padding, no mask), of the same lengths overall;
* trainer: transformers' Trainer with length grouping and fused AdamW; and with its defaults;
* plain: what the released research code does, in float32: microbatches of 32 or 1 in the order they come, padded to the
  longest, the graph of the whole batch kept until its loss.

Prediction is of 2,048 snippets, ours with either head against the plain recipe's batches of 32 and 256, each padded to
its longest; its head reads one token, so ours that does is like with like.

Each is timed in a process of its own (so its peak memory is its own), rounds alternate, the first steps are not
counted, and the median over the rounds is shown. Ratios are of tokens of text a second, as batches of equal length
leave out the few very long texts. The physical limit is the matrix product: 6 operations a weight of the layers and a
token for training, 2 for prediction; the share of the machine's own product speed stands beside each.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peak import matrix_peak

from outgrow import Runtime
from outgrow.losses import Xent
from outgrow.models.spec import ModelSpec
from outgrow.models.transformer import Tokens, compile_layers, load_classifier, load_tokenizer, pad, tokenize
from outgrow.tasks import TaskSpec
from outgrow.tasks import load as load_task

ROWS, BATCH, MAX_TOKENS, WARM = 6400, 32, 128, 3
PREDICTED = 2048
TRAIN = ("ours-one", "ours-mean", "bare-one", "bare-mean", "trainer-best", "trainer", "plain-32", "plain-1")
ON_REQUEST = ("compiled-one", "compiled-mean")
PREDICT = ("ours-predict-one", "ours-predict-mean", "plain-predict-32", "plain-predict-256")
EXTRACT = ("ours-extract", "sentence-transformers")
KINDS = {"train": TRAIN, "predict": PREDICT, "extract": EXTRACT}


def main() -> None:
    arguments = argparse.ArgumentParser(description="Finetuning speed, as ratios.")
    arguments.add_argument("--model", default="minilm-l6")
    arguments.add_argument("--what", choices=KINDS, default="train")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=50)
    arguments.add_argument("--only", default="", help="variants, separated by commas")
    arguments.add_argument("--variant", default="")
    options = arguments.parse_args()
    if options.variant:
        print(json.dumps(measured(options.variant, options.model, options.steps)))
        return
    variants = options.only.split(",") if options.only else KINDS[options.what]
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
    for _ in range(options.rounds):
        for variant in variants:
            command = [sys.executable, __file__, "--variant", variant]
            # A microbatch of 1 is so slow that a fifth of the steps is time enough.
            steps = options.steps // 5 if variant == "plain-1" else options.steps
            done = subprocess.run(
                [*command, "--model", options.model, "--steps", str(steps)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"{variant} failed: {done.stderr.strip().splitlines()[-1]}")
            found[variant].append(json.loads(done.stdout.strip().splitlines()[-1]))
    print(f"{options.model}, {torch.get_num_threads()} threads, torch {torch.__version__}, {options.rounds} rounds")
    ours = found[variants[0]]
    for variant, rounds in found.items():
        against = statistics.median(a["tokens"] / b["tokens"] for a, b in zip(ours, rounds, strict=True))
        rate, share, memory = (statistics.median(r[k] for r in rounds) for k in ("rate", "share", "memory"))
        print(
            f"{variant:22} {rate:7.1f} examples/s  {share:.2f} of the matrix peak  {memory / 1e9:.2f} GB at most  "
            f"{variants[0]} is {against:.2f}x"
        )


def measured(variant: str, model: str, steps: int) -> dict[str, float]:
    """Examples and tokens of text a second, share of the matrix peak, and peak memory of this process in bytes."""
    folder = ModelSpec.parse(model).folder(Runtime(offline=True))
    texts = list(load_task(TaskSpec.parse("sentiment-movies"), Runtime(offline=True)).texts[:ROWS])
    peak = matrix_peak()
    work = {
        "ours": ours,
        "compiled": ours,
        "bare": bare,
        "trainer": trainer,
        "plain": plain,
        "ours-predict": our_prediction,
        "plain-predict": plain_prediction,
        "ours-extract": our_features,
        "sentence-transformers": encoded,
    }
    kind = variant if variant in work else variant.rpartition("-")[0]
    seconds, examples, tokens, weights = work[kind](variant, folder, texts, steps)
    operations = (6 if variant in TRAIN + ON_REQUEST else 2) * weights * tokens
    peak = (peak + matrix_peak()) / 2
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    share = operations / seconds / peak
    return {"rate": examples / seconds, "tokens": tokens / seconds, "share": share, "memory": memory}


Found = tuple[float, int, int, int]
"""Seconds, examples, tokens of text, weights of the layers."""


# --- training ---------------------------------------------------------------------------------------------------------


def ours(variant: str, folder: Path, texts: list[str], steps: int) -> Found:
    from outgrow.train.heap import freed_memory_kept
    from outgrow.train.settings import FinetuneSettings
    from outgrow.train.updates import accumulate, apply, make_optimizer

    model = load_classifier(folder, 2, max_tokens=MAX_TOKENS, pooling=pooling_of(variant, folder))
    settings = FinetuneSettings()
    if variant.startswith("compiled"):
        compile_layers(model.body, Runtime(device="cpu"))
    optimizer = make_optimizer(model, settings)
    model.train()

    def step(rows: list[Tokens]) -> None:
        targets = torch.full((len(rows), 2), 0.5)
        accumulate(model, [(row,) for row in rows], targets, Xent(), 0.5, microbatch=0, seed=(0, 0))
        apply(optimizer, settings.lr, settings.clip)

    with freed_memory_kept():
        return timed(step, random_batches(folder, texts, steps), weights_of(model.body))


def bare(variant: str, folder: Path, texts: list[str], steps: int) -> Found:
    from transformers import AutoModel

    body = AutoModel.from_pretrained(folder, local_files_only=True)
    body.config.use_cache = False
    pooling = pooling_of(variant, folder)
    head = torch.nn.Linear(body.config.hidden_size, 2, bias=False)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=5e-5, fused=True)
    for module in body.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def step(rows: list[Tokens]) -> None:
        hidden = body(input_ids=torch.tensor(rows)).last_hidden_state
        pooled = hidden.mean(1) if pooling == "mean" else hidden[:, 0 if pooling == "first" else -1]
        loss = torch.nn.functional.cross_entropy(head(pooled), torch.zeros(len(rows), dtype=torch.int64))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(body.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    by_length: dict[int, list[Tokens]] = {}
    for row in tokenize(load_tokenizer(folder), texts, MAX_TOKENS):
        by_length.setdefault(len(row), []).append(row)
    equal = [rows[i : i + BATCH] for rows in by_length.values() for i in range(0, len(rows) - BATCH + 1, BATCH)]
    order = np.random.default_rng(0).permutation(len(equal))[: steps + WARM]
    return timed(step, [equal[i] for i in order], weights_of(body))


def trainer(variant: str, folder: Path, texts: list[str], steps: int) -> Found:
    import tempfile

    from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

    tokenizer = load_tokenizer(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    rows = [list(row) for row in tokenize(tokenizer, texts, MAX_TOKENS)]
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, local_files_only=True)
    model.config.pad_token_id = tokenizer.pad_token_id
    best = {"train_sampling_strategy": "group_by_length", "optim": "adamw_torch_fused"} if "best" in variant else {}
    count = max(50, steps)  # a length-grouped stretch is 50 batches, the longest first
    with tempfile.TemporaryDirectory() as where:
        settings = TrainingArguments(
            where, per_device_train_batch_size=BATCH if best else 8, max_steps=count if best else 4 * steps,
            report_to="none", save_strategy="no", logging_strategy="no", use_cpu=True, disable_tqdm=True, **best,
        )  # fmt: skip
        data: Any = [{"input_ids": row, "labels": 0} for row in rows]
        made = Trainer(model=model, args=settings, train_dataset=data, data_collator=DataCollatorWithPadding(tokenizer))
        made.train()  # once to warm up, as long as what is measured
        began = time.perf_counter()
        made.train()
        seconds = time.perf_counter() - began
    examples = settings.max_steps * settings.per_device_train_batch_size
    tokens = int(np.mean([len(row) for row in rows]) * examples)
    return seconds, examples, tokens, weights_of(model.base_model)


def plain(variant: str, folder: Path, texts: list[str], steps: int) -> Found:
    from transformers import AutoModel

    body = AutoModel.from_pretrained(folder, local_files_only=True)
    body.config.use_cache = False
    head = torch.nn.Linear(body.config.hidden_size, 2, bias=False)
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=5e-5)
    size = int(variant.partition("-")[2])

    def step(rows: list[Tokens]) -> None:
        logits = []
        for at in range(0, len(rows), size):
            batch = pad(rows[at : at + size], "cpu")
            hidden = body(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
            logits.append(head(hidden[torch.arange(len(hidden)), batch.mask.sum(1) - 1]))
        loss = torch.nn.functional.cross_entropy(torch.cat(logits), torch.zeros(len(rows), dtype=torch.int64))
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return timed(step, random_batches(folder, texts, steps), weights_of(body))


def timed(step: Callable[[list[Tokens]], None], batches: Sequence[list[Tokens]], weights: int) -> Found:
    for batch in batches[:WARM]:
        step(batch)
    began = time.perf_counter()
    for batch in batches[WARM:]:
        step(batch)
    seconds = time.perf_counter() - began
    counted = batches[WARM:]
    return seconds, sum(map(len, counted)), sum(len(row) for batch in counted for row in batch), weights


def random_batches(folder: Path, texts: list[str], steps: int) -> list[list[Tokens]]:
    rows = tokenize(load_tokenizer(folder), texts, MAX_TOKENS)
    order = np.random.default_rng(0).permutation(len(rows))
    return [[rows[i] for i in order[k * BATCH : (k + 1) * BATCH]] for k in range(min(steps + WARM, ROWS // BATCH))]


# --- prediction and features ------------------------------------------------------------------------------------------


def our_prediction(variant: str, folder: Path, texts: list[str], steps: int) -> Found:
    from outgrow.train.model import probabilities

    model = load_classifier(folder, 2, max_tokens=MAX_TOKENS, pooling=pooling_of(variant, folder))
    rows = tokenize(load_tokenizer(folder), texts[:PREDICTED], MAX_TOKENS)
    runtime = Runtime(device="cpu")
    probabilities(model, [(row,) for row in rows[:64]], runtime, runtime.report)
    began = time.perf_counter()
    probabilities(model, [(row,) for row in rows], runtime, runtime.report)
    return time.perf_counter() - began, len(rows), sum(map(len, rows)), weights_of(model.body)


def plain_prediction(variant: str, folder: Path, texts: list[str], steps: int) -> Found:
    from transformers import AutoModel

    body = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    head = torch.nn.Linear(body.config.hidden_size, 2, bias=False)
    rows = tokenize(load_tokenizer(folder), texts[:PREDICTED], MAX_TOKENS)
    size = int(variant.rpartition("-")[2])

    def run(rows: Sequence[Tokens]) -> None:
        for at in range(0, len(rows), size):
            batch = pad(rows[at : at + size], "cpu")
            hidden = body(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
            head(hidden[torch.arange(len(hidden)), batch.mask.sum(1) - 1])

    with torch.no_grad():
        run(rows[:64])
        began = time.perf_counter()
        run(rows)
    return time.perf_counter() - began, len(rows), sum(map(len, rows)), weights_of(body)


def our_features(variant: str, folder: Path, texts: list[str], steps: int) -> Found:
    from outgrow.models.transformer import extract

    runtime = Runtime(device="cpu")
    extract(folder, texts[:64], max_tokens=MAX_TOKENS, runtime=runtime)
    began = time.perf_counter()
    extract(folder, texts[:PREDICTED], max_tokens=MAX_TOKENS, runtime=runtime)
    return time.perf_counter() - began, PREDICTED, *size_of(folder, texts)


def encoded(variant: str, folder: Path, texts: list[str], steps: int) -> Found:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = MAX_TOKENS
    model.encode(texts[:64])
    began = time.perf_counter()
    model.encode(texts[:PREDICTED], batch_size=BATCH)
    return time.perf_counter() - began, PREDICTED, *size_of(folder, texts)


def size_of(folder: Path, texts: list[str]) -> tuple[int, int]:
    from transformers import AutoModel

    rows = tokenize(load_tokenizer(folder), texts[:PREDICTED], MAX_TOKENS)
    return sum(map(len, rows)), weights_of(AutoModel.from_pretrained(folder, local_files_only=True))


# --- shared -----------------------------------------------------------------------------------------------------------


def pooling_of(variant: str, folder: Path) -> str:
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    return "mean" if variant.endswith("mean") else "first" if kind in ("bert", "mpnet") else "last"


def weights_of(body: Any) -> int:
    """Weights of the linear layers, which take a product for every token."""
    return sum(m.weight.numel() for m in linear_layers(body))


def linear_layers(body: Any) -> Iterator[torch.nn.Linear]:
    return (m for m in body.modules() if isinstance(m, torch.nn.Linear))


if __name__ == "__main__":
    main()
