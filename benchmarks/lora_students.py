"""Many LoRA students on one frozen base: one forward and backward of the base for all of them, against one by one.

    python benchmarks/lora_students.py [--model minilm-l6] [--students 1,4,16] [--rank 8] [--steps 4] [--rounds 3]

A trial, and not part of the package: see docs/log.md for what it found. Movie snippets, batches of 32 drawn at random
and shared by all students, float32, on the CPU, adapters on every linear layer, the head on the mean of all tokens.
Students differ in their labels and their adapters' first weights. Compared, in one process and turn by turn, in
processor seconds:

* separate: k models as `outgrow.train` finetunes them with lora, one after the other on the same batch;
* together: one base whose linear layers see the texts of all k students as one batch, k times as long, and add each
  student's own low-rank part by a batched product.

The activations differ from the first adapter on, so all that can be shared is the weights: each is read once for k
students. The updates are checked to be the same.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from outgrow import Runtime
from outgrow.losses import Xent
from outgrow.models.spec import ModelSpec
from outgrow.models.transformer import Classifier, Tokens, load_classifier, load_tokenizer, tokenize
from outgrow.tasks import TaskSpec
from outgrow.tasks import load as load_task
from outgrow.train.model import build
from outgrow.train.settings import FinetuneSettings
from outgrow.train.updates import accumulate, apply, make_optimizer

BATCH, WARM = 32, 1


class Adapted(nn.Module):
    """A frozen linear layer, and for each of k students a low-rank part on that student's share of the tokens."""

    def __init__(self, base: nn.Linear, downs: Tensor, ups: Tensor, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.downs, self.ups = nn.Parameter(downs), nn.Parameter(ups)  # (k, d, r) and (k, r, e)

    def forward(self, states: Tensor) -> Tensor:
        """States (1, tokens, d) of all students' texts -> (1, tokens, e)."""
        mine = states.reshape(len(self.downs), -1, states.shape[-1])
        added = torch.bmm(torch.bmm(mine, self.downs), self.ups)
        out: Tensor = self.base(states)
        return out + self.scale * added.view_as(out)


class Pooled(nn.Identity):
    """In place of a head: what the heads read."""

    weight = torch.zeros(0)  # the classifier asks it for its device


class Together(nn.Module):
    """k students of one base; the rows it gets are each student's in turn."""

    def __init__(self, folder: Path, alone: Sequence[Classifier], rank: int) -> None:
        super().__init__()
        self.model: Any = load_classifier(folder, 2, max_tokens=128)
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        theirs = [dict(model.body.named_modules()) for model in alone]
        for name, layer in list(self.model.body.named_modules()):
            if isinstance(layer, nn.Linear):
                parts: list[Any] = [modules[name] for modules in theirs]
                downs = torch.stack([part.lora_A["default"].weight.detach().T for part in parts])
                ups = torch.stack([part.lora_B["default"].weight.detach().T for part in parts])
                parent, _, last = name.rpartition(".")
                setattr(self.model.body.get_submodule(parent), last, Adapted(layer, downs, ups, 2 * rank / rank))
        self.model.head = Pooled()  # type: ignore[assignment]
        self.heads = nn.Parameter(torch.zeros(len(alone), *alone[0].head.weight.shape))

    def forward(self, rows: Sequence[Tokens]) -> Tensor:
        """Logits (k, n, 2) of n rows."""
        pooled = self.model([*rows] * len(self.heads)).view(len(self.heads), len(rows), -1)
        return torch.einsum("knd,kcd->knc", pooled, self.heads)


def main() -> None:
    arguments = argparse.ArgumentParser(description="Many LoRA students, together and one by one.")
    arguments.add_argument("--model", default="minilm-l6")
    arguments.add_argument("--students", default="1,4,16")
    arguments.add_argument("--rank", type=int, default=8)
    arguments.add_argument("--steps", type=int, default=4)
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    folder = ModelSpec.parse(options.model).folder(Runtime(offline=True))
    texts = load_task(TaskSpec.parse("sentiment-movies"), Runtime(offline=True)).texts[:6400]
    rows = tokenize(load_tokenizer(folder), list(texts), 128)
    print(f"{options.model}, rank {options.rank}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for count in map(int, options.students.split(",")):
        compare(folder, rows, count, options.rank, options.steps, options.rounds)


def compare(folder: Path, rows: list[Tokens], count: int, rank: int, steps: int, rounds: int) -> None:
    """Print examples a processor second, a student's update of an example counted as one."""
    settings = FinetuneSettings(lora=rank, lr=1e-3, clip=0.0)
    alone = [build(folder, settings, 2, seed).train() for seed in range(count)]
    together = Together(folder, alone, rank).train()
    optimizers = [make_optimizer(model, settings) for model in alone]
    joint = make_optimizer(together, settings)
    labels = torch.from_numpy(np.random.default_rng(1).integers(2, size=(count, len(rows))))
    order = np.random.default_rng(0)

    def separately(batch: list[int], targets: Tensor) -> None:
        for model, optimizer, target in zip(alone, optimizers, targets, strict=True):
            accumulate(model, [(rows[i],) for i in batch], target, Xent(), 0.5, seed=(0, 0))
            apply(optimizer, settings.lr, 0.0)

    def jointly(batch: list[int], targets: Tensor) -> None:
        losses = Xent()(together([rows[i] for i in batch]).flatten(0, 1), targets.flatten(0, 1), 0.5)
        torch.autograd.backward(losses.sum() / len(batch))
        apply(joint, settings.lr, 0.0)

    spent: dict[str, list[float]] = {"separate": [], "together": []}
    for number in range(rounds + WARM):
        drawn = [order.choice(len(rows), BATCH, replace=False) for _ in range(steps)]
        batches = [sorted(batch.tolist(), key=lambda i: -len(rows[i])) for batch in drawn]
        for name, work in (("separate", separately), ("together", jointly)):
            began = time.process_time()
            for batch in batches:
                work(batch, torch.eye(2)[labels[:, batch]])
            if number >= WARM:
                spent[name].append(time.process_time() - began)
    apart = max(
        float((model.head.weight - head).detach().abs().max())
        for model, head in zip(alone, together.heads, strict=True)
    )
    largest = float(together.heads.detach().abs().max())
    rates = {name: count * BATCH * steps / statistics.median(seconds) for name, seconds in spent.items()}
    gain = statistics.median(a / b for a, b in zip(spent["separate"], spent["together"], strict=True))
    print(
        f"{count:3} students: separate {rates['separate']:6.1f} examples a processor second, together "
        f"{rates['together']:6.1f}, together is {gain:.2f}x; heads at most {apart:.1e} apart, of {largest:.1e}"
    )


if __name__ == "__main__":
    main()
