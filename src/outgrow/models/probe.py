"""Linear probes on frozen features, many at once.

Students that share features, rows and order differ only in labels, loss, learning rate and L2, so one matrix product
forward and one back serve a minibatch of all of them. Students with different rows or orders form groups, the batch
axis of that product. Weights are stored student by student, and the number of students is padded to full tiles of the
product. A student's numbers are then independent of its neighbors: it comes out the same alone or among a thousand.

A choice of C candidates is a conditional logit (McFadden 1974): one weight vector w scores every candidate x_c, and the
logits are the scores w . x_c. There is no bias, as it would cancel. A pair is stored as the difference of its two
candidates with one logit, w . (x_1 - x_0): the reward model sigma(r_1 - r_0) at the price of a plain text.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outgrow.data import Floats, Ints
from outgrow.errors import UserError
from outgrow.losses import Loss, MixesTargets, StatefulLoss, stacked
from outgrow.models.settings import ProbeSettings
from outgrow.runtime import Runtime

__all__ = [
    "TILE",
    "VECTOR",
    "FittedProbe",
    "ProbeJob",
    "class_columns",
    "fit_probes",
    "log_shares",
    "moments",
    "num_vectors",
    "padded_width",
    "scaled",
]

TILE = 4  # students in one tile of the matrix product; a full tile is computed the same whatever is beside it
VECTOR = 32  # numbers that torch's elementwise operations take at a time; a remainder is rounded differently
_BIAS = (
    10.0  # times the learning rate of a weight: one-sided labels ask for a bias of several units, weights for tenths
)
_FAR = 0.15  # largest gradient entry that goes unsaid; the defaults leave .01 to .1, a tenth of their updates .1 to .3
_MIN_DIM = 64  # torch computes products of fewer than 400 operations in another way, in which neighbors matter
_BLOCK = 256  # rows standardized at a time, few enough to stay in the cache
_MAX_COLUMNS = 2048  # of one product, over all groups; bounds the memory for weights and optimizer state
_MAX_ROWS_BYTES = 1 << 29  # of standardized rows held at once
_MAX_LABELS_BYTES = 1 << 28  # of labels of one product


class ProbeJob(NamedTuple):
    """One student to train: which rows, which soft labels, and how."""

    rows: Ints
    """(n,) row numbers of the training examples in the features."""
    targets: Floats
    """(n, C)"""
    val_rows: Ints
    """(v,) row numbers held out for early stopping; may be empty."""
    val_targets: Floats
    """(v, C), from the same source as ``targets``: weak for a student, never gold."""
    loss: Loss
    settings: ProbeSettings
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedProbe:
    """A linear map from standardized features to logits, or to the score of a candidate."""

    view: str
    weight: NDArray[np.float32]
    """(d, C); (d, 1) for choices"""
    bias: NDArray[np.float32]
    """(C,); (1,), zero, for choices"""
    center: NDArray[np.float32]
    """(d,), mean of the training rows over all their candidates."""
    scale: NDArray[np.float32]
    """(d,), standard deviation of the training rows over all their candidates."""
    history: tuple[Mapping[str, float], ...]
    """Per epoch: agreement and cross-entropy with the validation labels."""
    best_epoch: int

    def predict(self, features: Floats) -> Floats:
        """Class probabilities (n, C) of features (n, d), or (n, C, d) for choices, computed in double precision."""
        logits = self.logits(features)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float32)

    def logits(self, features: Floats) -> NDArray[np.float64]:
        """What the probabilities are the softmax of, (n, C)."""
        standard = (features.astype(np.float64) - self.center) / self.scale
        logits: NDArray[np.float64] = standard @ self.weight.astype(np.float64) + self.bias
        return logits[..., 0] if features.ndim == 3 else logits

    def shifted(self, offsets: NDArray[np.float64]) -> Self:
        """The same probe with ``offsets`` (C,) on its logits."""
        return replace(self, bias=(self.bias + offsets).astype(np.float32))

    def save(self, folder: Path) -> None:
        """Write ``probe.safetensors`` and ``probe.json``."""
        from safetensors.numpy import save_file

        arrays = {k: np.ascontiguousarray(getattr(self, k)) for k in ("weight", "bias", "center", "scale")}
        save_file(arrays, folder / "probe.safetensors")
        facts = {"view": self.view, "best_epoch": self.best_epoch, "history": [dict(h) for h in self.history]}
        (folder / "probe.json").write_text(json.dumps(facts), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what :meth:`save` wrote."""
        from safetensors.numpy import load_file

        facts: dict[str, Any] = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
        arrays: dict[str, Any] = load_file(folder / "probe.safetensors")
        return cls(**arrays, **{**facts, "history": tuple(facts["history"])})


def fit_probes(features: Floats, jobs: Sequence[ProbeJob], runtime: Runtime) -> list[FittedProbe]:
    """Train every job on rows of ``features``, in as few matrix products as their differences allow.

    ``features`` is (N, d), one vector for each text, or (N, C, d), one for each candidate of a choice.

    Minibatch Adam on mean loss + l2/2 |w|^2, the bias without L2. Weights start from zero, as the problem is convex;
    the bias starts where it gives every class its share of the training labels (:func:`log_shares`). The seed decides
    the order of the examples, a new one in every epoch; few rows get more epochs (:meth:`ProbeSettings.passes`). The
    last entry of a probe's ``history`` has the ``gradient`` left: the largest entry of its mean over the last epoch.
    Results come in the order of the jobs.

    Raises:
        UserError: if early stopping has no validation rows, or a student's weights do not stay finite.
    """
    if any(j.settings.early_stopping and not len(j.val_rows) for j in jobs):
        raise UserError("early stopping needs validation rows; hold some out, or set early_stopping=False")
    device = torch.device(runtime.torch_device())
    threads = torch.get_num_threads()
    workers = threads if device.type == "cpu" else 1
    bundles = list(_bundles(jobs, features.shape[1:], workers))
    total = sum(j.settings.passes(len(j.rows)) * len(j.rows) for j in jobs)
    done = 0
    lock = Lock()

    def report(rows: int) -> None:
        nonlocal done
        with lock:
            done += rows
            runtime.report(done, total, "rows")

    def train(numbers: list[list[int]]) -> list[tuple[int, FittedProbe]]:
        torch.set_num_threads(1)
        fitted = _Bundle(features, [[jobs[i] for i in group] for group in numbers], device).train(report)
        return [pair for group, probes in zip(numbers, fitted, strict=True) for pair in zip(group, probes, strict=True)]

    # One thread per bundle, with no waiting inside. Threads that share one small product wait for each other at every
    # operation, and for long when another program wants a core.
    try:
        with ThreadPoolExecutor(workers) as pool:
            results = dict(pair for pairs in pool.map(train, bundles) for pair in pairs)
    finally:
        torch.set_num_threads(threads)
    fitted = [results[i] for i in range(len(jobs))]
    left = [probe.history[-1]["gradient"] for probe in fitted]
    if far := sum(g > _FAR for g in left):
        runtime.say(
            f"warning: {far} of {len(fitted)} probes stopped far from their optimum (largest gradient {max(left):.2g});"
            " train longer: probe(epochs=...)"
        )
    return fitted


def _bundles(jobs: Sequence[ProbeJob], of_a_row: tuple[int, ...], workers: int) -> Iterator[list[list[int]]]:
    """Sort job numbers into bundles (one sequence of products) of groups (same rows, same order), enough to keep every
    worker equally busy. ``of_a_row`` is the shape of one row's features."""
    candidates = num_vectors(of_a_row)
    shapes: dict[Any, dict[Any, list[int]]] = defaultdict(lambda: defaultdict(list))
    arrays = {id(a): a for job in jobs for a in (job.rows, job.val_rows)}
    contents = {key: a.tobytes() for key, a in arrays.items()}
    for i, job in enumerate(jobs):
        s = job.settings
        kind = [v for v in vars(job.loss).items() if not isinstance(v[1], int | float)]
        shape = (
            s.passes(len(job.rows)),
            s.batch_size,
            s.early_stopping,
            len(job.rows),
            len(job.val_rows),
            job.targets.shape[1],
        )
        order = (job.seed, contents[id(job.rows)], contents[id(job.val_rows)])
        shapes[s.view, shape, type(job.loss).__name__, tuple(kind)][order].append(i)
    for (_, shape, *_), groups in shapes.items():
        columns_each = 1 if shape[5] == 2 else shape[5] // candidates
        students = sum(len(g) for g in groups.values())
        share = TILE * math.ceil(students / workers / TILE)
        columns = min(_MAX_COLUMNS, _MAX_LABELS_BYTES // (4 * (shape[3] + shape[4]) or 1))
        most = max(1, min(share, columns // columns_each))
        pieces = [g[at : at + most] for g in groups.values() for at in range(0, len(g), most)]
        pieces.sort(key=len)  # groups of similar size share a bundle, so little width is padded
        row_bytes = 4 * candidates * of_a_row[-1]
        rows_fit = max(1, _MAX_ROWS_BYTES // (row_bytes * (shape[3] + shape[4]) or 1) // workers)
        at_once = min(rows_fit, math.ceil(len(pieces) / workers))
        for at in range(0, len(pieces), at_once):
            bundle: list[list[int]] = []
            for piece in pieces[at : at + at_once]:
                if bundle and (len(bundle) + 1) * len(piece) * columns_each > columns:
                    yield bundle
                    bundle = []
                bundle.append(piece)
            yield bundle


def num_vectors(of_a_row: tuple[int, ...]) -> int:
    """How many vectors one example is in the product, from the shape of its features, (d,) or (C, d): one for a text,
    one for a pair, stored as a difference, else C."""
    return 1 if len(of_a_row) == 1 or of_a_row[0] == 2 else of_a_row[0]


def moments(features: Floats, rows: Ints) -> tuple[Floats, Floats]:
    """Mean and standard deviation (d,) over all vectors of these rows, summed in double precision; the deviation of a
    constant feature is set to 1."""
    width = features.shape[-1]
    count = len(rows) * math.prod(features.shape[1:-1])
    blocks = [rows[at : at + _BLOCK] for at in range(0, len(rows), _BLOCK)]
    total = sum(features[b].reshape(-1, width).sum(axis=0, dtype=np.float64) for b in blocks)
    center = np.asarray(total / count, dtype=np.float32)
    squares = sum(np.square(features[b].reshape(-1, width) - center).sum(axis=0, dtype=np.float64) for b in blocks)
    scale = np.sqrt(squares / count).astype(np.float32)
    return center, np.where(scale > 1e-6 * max(1.0, float(scale.max(initial=0.0))), scale, np.float32(1))


def scaled(features: Floats, rows: Ints, center: Floats, scale: Floats, dim: int, *, multiple: int = 1) -> Tensor:
    """Standardized rows (n, V * dim), with a column of ones for the bias and zero padding to ``dim`` and ``multiple``.

    A text is one vector, V = 1. A pair is the difference of its two candidates. A choice of more is C vectors. Choices
    have no column of ones.
    """
    candidates, width = num_vectors(features.shape[1:]), features.shape[-1]
    full = np.zeros((math.ceil(len(rows) / multiple) * multiple, candidates, dim), dtype=np.float32)
    for at in range(0, len(rows), _BLOCK):
        chosen = features[rows[at : at + _BLOCK]]
        block = full[at : at + len(chosen), :, :width]
        if features.ndim == 2:
            np.divide(chosen - center, scale, out=block[:, 0])
        elif candidates == 1:
            first, second = ((chosen[:, c] - center) / scale for c in (0, 1))
            np.subtract(second, first, out=block[:, 0])
        else:
            np.divide(chosen - center, scale, out=block)
    if features.ndim == 2:
        full[: len(rows), :, width] = 1.0  # the bias is the weight of this column
    return torch.from_numpy(full.reshape(len(full), candidates * dim))


def log_shares(targets: Floats) -> NDArray[np.float64]:
    """Logarithms (C,) of the classes' shares of soft labels (n, C), half a row added to each class (Jeffreys's prior),
    so that a class without a row keeps a finite one."""
    num_rows, num_classes = targets.shape
    shares: NDArray[np.float64] = (targets.sum(axis=0, dtype=np.float64) + 0.5) / (num_rows + num_classes / 2)
    return np.log(shares)


def padded_width(width: int) -> int:
    """Columns of standardized rows: ``width`` features, the bias, and padding to a multiple of 8, at least 64."""
    return max(_MIN_DIM, math.ceil((width + 1) / 8) * 8)


def class_columns(column: Floats, both: bool) -> NDArray[np.float32]:
    """Weights or biases with a column for each class; with ``both``, the one given is the second class's, and the first
    has zeros."""
    return np.concatenate([np.zeros_like(column), column], axis=-1) if both else np.ascontiguousarray(column)


def _students_of_a_tile(*batch_sizes: int) -> int:
    """How many students fill whole tiles of the product and, with batches of these sizes, whole vectors."""
    return max(TILE, VECTOR // math.gcd(VECTOR, *batch_sizes))


class _Bundle:
    """Groups of students trained by one sequence of batched matrix products.

    Shapes: G groups of S students (padded), n rows, b rows in a batch, D features with a column of ones for the bias
    (zeros for choices) and zero padding, K logits per example (one for two classes, else C), W weight vectors per
    student and V vectors per example, one of which is always 1 and the other K.
    """

    def __init__(self, features: Floats, groups: list[list[ProbeJob]], device: torch.device) -> None:
        self.groups, self.device = groups, device
        first = groups[0][0]
        self.settings, self.num_classes = first.settings, first.targets.shape[1]
        self.choice = features.ndim == 3
        assert not self.choice or features.shape[1] == self.num_classes
        self.columns = 1 if self.num_classes == 2 else self.num_classes
        self.candidates = num_vectors(features.shape[1:])
        self.vectors = self.columns // self.candidates
        self.n = len(first.rows)
        self.epochs = self.settings.passes(self.n)
        step = _students_of_a_tile(min(self.n, self.settings.batch_size), self.n % self.settings.batch_size)
        self.students = math.ceil(max(len(g) for g in groups) / step) * step
        self.d = features.shape[-1]
        self.dim = padded_width(self.d)

        leaders = [g[0] for g in groups]
        self.held_out = len(first.val_rows)
        self.center, self.scale, rows, val, self.offset = self._standardized(features, leaders)
        self.rows, self.val = rows.to(device), val.to(device)
        if not self.choice:
            for ones in (self.rows, self.val):
                ones[..., self.d] *= _BIAS
        most = len(groups) * min(self.n, self.settings.batch_size)
        self.buffer = torch.empty(most, self.candidates * self.dim, device=device)
        self.targets = self._columns([[j.targets for j in g] for g in groups], self.n)
        self.val_targets = self._of_examples(
            self._columns([[j.val_targets for j in g] for g in groups], self.val.shape[1])
        )
        self.loss = self._stacked_loss()
        self.memory = self._memory() if isinstance(self.loss, StatefulLoss) else None
        self.lr = self._per_student("lr")
        self.decay = self._per_student("l2") * self.lr
        self.decays = bool(self.decay.any())

    def _standardized(
        self, features: Floats, leaders: list[ProbeJob]
    ) -> tuple[list[Floats], list[Floats], Tensor, Tensor, Tensor]:
        """The rows of each distinct training set, scaled by its own mean and deviation."""
        known: dict[bytes, int] = {}
        centers, scales, train, held_out = [], [], [], []
        for job in leaders:
            key = job.rows.tobytes()
            if key not in known:
                known[key] = len(known)
                center, scale = moments(features, job.rows)
                train.append(scaled(features, job.rows, center, scale, self.dim))
                centers.append(center)
                scales.append(scale)
            which = known[key]
            held_out.append(scaled(features, job.val_rows, centers[which], scales[which], self.dim, multiple=VECTOR))
        places = [known[j.rows.tobytes()] for j in leaders]
        return (
            [centers[p] for p in places],
            [scales[p] for p in places],
            train[0] if len(train) == 1 else torch.cat(train),
            torch.stack(held_out),
            torch.tensor(places, dtype=torch.int64)[:, None] * self.n,
        )

    def _columns(self, targets: list[list[Floats]], n: int) -> Tensor:
        """Targets as (G * n, S, K): a row of the table holds all that one example needs, so a batch is one gather."""
        table = np.full((len(targets), n, self.students, self.columns), 1 / self.num_classes, dtype=np.float32)
        for g, group in enumerate(targets):
            for s, probs in enumerate(group):
                table[g, : len(probs), s] = probs[:, 1:] if self.columns == 1 else probs
        return torch.from_numpy(table).view(-1, self.students, self.columns).to(self.device)

    def _stacked_loss(self) -> Loss:
        padded = [[*g, *[g[-1]] * (self.students - len(g))] for g in self.groups]
        loss: Any = stacked([j.loss for g in padded for j in g])
        per_student = (len(self.groups), self.students, 1, 1)
        tensors = {k: v.view(per_student).to(self.device) for k, v in vars(loss).items() if isinstance(v, Tensor)}
        return cast(Loss, replace(loss, **tensors))

    def _memory(self) -> Tensor:
        """What a loss remembers of each example: (G * n, S, C), also for two classes."""
        return torch.zeros(len(self.groups) * self.n, self.students, self.num_classes, device=self.device)

    def _per_student(self, name: str) -> Tensor:
        """One setting of every student as (G, S * W, 1)."""
        table = torch.zeros(len(self.groups), self.students, self.vectors)
        for g, group in enumerate(self.groups):
            for s, job in enumerate(group):
                table[g, s] = getattr(job.settings, name)
        return table.view(len(self.groups), -1, 1).to(self.device)

    def train(self, report: Callable[[int], None]) -> list[list[FittedProbe]]:
        """Train for all epochs and return the probes of each group, in order."""
        num_groups, batch_size = len(self.groups), self.settings.batch_size
        # In units of each student's learning rate, so that one optimizer with lr 1 serves all.
        weight = torch.zeros(num_groups, self.students * self.vectors, self.dim, device=self.device)
        weight.grad = torch.zeros_like(weight)
        left = torch.zeros_like(weight)
        if not self.choice:
            weight.view(num_groups, self.students, self.vectors, -1)[..., self.d] = self._biases()
        optimizer = torch.optim.Adam([weight], lr=1.0, fused=True)
        orders = [torch.Generator().manual_seed(g[0].seed) for g in self.groups]
        kept = _Kept(weight, num_groups * self.students)
        batches = math.ceil(self.n / batch_size)
        for epoch in range(self.epochs):
            order = torch.stack([torch.randperm(self.n, generator=o) for o in orders])
            where_rows, where_targets = order + self.offset, order + torch.arange(num_groups)[:, None] * self.n
            for k in range(batches):
                batch = slice(k * batch_size, (k + 1) * batch_size)
                progress = (epoch * batches + k) / (self.epochs * batches)
                self._gradient(weight, where_rows[:, batch], where_targets[:, batch], progress)
                optimizer.step()
                if epoch == self.epochs - 1:  # one average over all rows costs less than a pass over them
                    left.add_(weight.grad, alpha=where_rows[:, batch].shape[1] / self.n)
            kept.offer(weight, *self._validation(weight), always=not self.settings.early_stopping)
            report(self.n * sum(len(g) for g in self.groups))
        return self._fitted(kept, left)

    def _biases(self) -> Tensor:
        """Where the biases (G, S, W) start, in units of each student's learning rate."""
        table = torch.zeros(len(self.groups), self.students, self.vectors)
        for g, group in enumerate(self.groups):
            for s, job in enumerate(group):
                shares = log_shares(job.targets)
                table[g, s] = torch.from_numpy(shares[1:] - shares[0] if self.columns == 1 else shares - shares.mean())
        return table.to(self.device) / (_BIAS * self.lr.view(table.shape))

    def _gradient(self, weight: Tensor, rows: Tensor, targets: Tensor, progress: float) -> None:
        """Put the gradient of the mean loss over a batch, at places (G, b) of the tables, into ``weight.grad``."""
        groups, size = rows.shape
        x = self.buffer[: groups * size]
        torch.index_select(self.rows, 0, rows.reshape(-1).to(self.device), out=x)
        x = x.view(groups, size * self.candidates, self.dim)
        places = targets.reshape(-1).to(self.device)
        wanted = self._of_examples(self.targets.index_select(0, places))
        z = self._logits(weight, x)
        slope = self._slope(z, wanted, progress, self._recalled(z, places)).div_(size)
        gradient = weight.grad
        assert gradient is not None
        by_vector = slope if self.candidates > 1 else slope.transpose(-1, -2)
        torch.bmm(by_vector.reshape(groups, -1, x.shape[1]), x, out=gradient)
        if self.decays:
            gradient[..., : self.d].addcmul_(weight[..., : self.d], self.decay)

    def _logits(self, weight: Tensor, x: Tensor) -> Tensor:
        """(G, S, examples, K) from vectors (G, examples * V, D); a student's examples are adjacent in memory."""
        one = x.shape[1] == 1  # torch multiplies by one vector in another way, in which neighbors matter
        z = (weight * x).sum(dim=-1, keepdim=True) if one else torch.bmm(weight, x.transpose(1, 2))
        z = z.mul_(self.lr)
        if self.candidates > 1:
            return z.view(len(self.groups), self.students, -1, self.columns)
        return z.view(len(self.groups), self.students, self.columns, -1).transpose(-1, -2)

    def _of_examples(self, table: Tensor) -> Tensor:
        """Rows of a target table (G * examples, S, K) as (G, S, examples, K), in the memory layout of the logits."""
        by_example = table.view(len(self.groups), -1, self.students, self.columns)
        if self.candidates > 1:
            return by_example.transpose(1, 2).contiguous()
        return by_example.permute(0, 2, 3, 1).contiguous().transpose(-1, -2)

    def _recalled(self, z: Tensor, places: Tensor) -> Loss:
        """The loss for the batch at ``places`` of the tables. A stateful loss first updates what it remembers there."""
        if self.memory is None:
            return self.loss
        assert isinstance(self.loss, StatefulLoss)
        by_student = self.memory.index_select(0, places).view(len(self.groups), -1, *self.memory.shape[1:])
        seen = self.loss.remember(by_student.transpose(1, 2).contiguous(), z)
        self.memory.index_copy_(0, places, seen.transpose(1, 2).reshape(-1, *self.memory.shape[1:]))
        return self.loss.with_memory(seen)

    def _slope(self, z: Tensor, wanted: Tensor, progress: float, loss: Loss) -> Tensor:
        """Derivative of each example's loss by its logits; everything is (G, S, b, K)."""
        if isinstance(loss, MixesTargets):
            probs = z.sigmoid() if self.columns == 1 else z.softmax(dim=-1)
            return probs.sub_(loss.targets(z, wanted, progress))
        logits, targets = self._two_columns(z, wanted)
        logits.requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(loss(logits, targets, progress).sum(), logits)
        return slope[..., -self.columns :]

    def _two_columns(self, z: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and targets with one column per class."""
        if self.columns > 1:
            return z, wanted
        return torch.cat([torch.zeros_like(z), z], dim=-1), torch.cat([1 - wanted, wanted], dim=-1)

    def _validation(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Agreement and cross-entropy of every student (G * S,) with its validation labels."""
        if not self.held_out:
            nothing = torch.zeros(len(self.groups) * self.students, device=self.device)
            return nothing, nothing
        z, wanted = self._logits(weight, self.val.view(len(self.groups), -1, self.dim)), self.val_targets
        if self.columns == 1:
            same, xent = (z > 0) == (wanted > 0.5), torch.nn.functional.softplus(z) - wanted * z
        else:
            same = (z.argmax(-1) == wanted.argmax(-1)).unsqueeze(-1)
            xent = -(wanted * z.log_softmax(dim=-1)).sum(dim=-1, keepdim=True)
        # A student's rows are adjacent in memory, so that they are summed in one order, whoever else is in the bundle.
        agreement, loss = (
            v[:, :, : self.held_out, 0].float().contiguous().mean(dim=-1).flatten() for v in (same, xent)
        )
        return agreement, loss

    def _fitted(self, kept: "_Kept", left: Tensor) -> list[list[FittedProbe]]:
        rest = left.view(len(self.groups), self.students, -1).abs().amax(dim=2).tolist()
        weight = (kept.weight * self.lr).view(len(self.groups), self.students, self.vectors, self.dim).cpu().numpy()
        agreement, xent = (
            torch.stack(v).view(-1, len(self.groups), self.students).cpu() for v in (kept.agreement, kept.xent)
        )
        best = kept.epoch.view(len(self.groups), self.students).cpu()
        both = self.columns == 1 and not self.choice
        return [
            [
                FittedProbe(
                    view=job.settings.view,
                    weight=class_columns(weight[g, s, :, : self.d].T, both),
                    bias=class_columns(_BIAS * weight[g, s, :, self.d], both),
                    center=self.center[g].astype(np.float32, copy=False),  # one array for the whole group
                    scale=self.scale[g].astype(np.float32, copy=False),
                    history=_history(agreement[:, g, s].tolist(), xent[:, g, s].tolist(), rest[g][s], job),
                    best_epoch=int(best[g, s]),
                )
                for s, job in enumerate(group)
            ]
            for g, group in enumerate(self.groups)
        ]


def _history(agreement: list[float], xent: list[float], left: float, job: ProbeJob) -> tuple[dict[str, float], ...]:
    """What :class:`FittedProbe` keeps of each epoch."""
    if not math.isfinite(left):
        name = type(job.loss).__name__
        raise UserError(
            f"the loss {name} gave a gradient that is not finite, with lr={job.settings.lr:g}; the probe is dropped"
        )
    made = [{"agreement": a, "xent": x} for a, x in zip(agreement, xent, strict=True)]
    made[-1]["gradient"] = left
    return tuple(made)


class _Kept:
    """The weights of each student at its best epoch: highest agreement, then lowest cross-entropy, then earliest."""

    def __init__(self, weight: Tensor, students: int) -> None:
        self.weight = weight.clone()
        self.best = torch.full((students,), -1.0, device=weight.device)
        self.best_xent = torch.full((students,), torch.inf, device=weight.device)
        self.epoch = torch.zeros(students, dtype=torch.int64)
        self.agreement: list[Tensor] = []
        self.xent: list[Tensor] = []

    def offer(self, weight: Tensor, agreement: Tensor, xent: Tensor, *, always: bool) -> None:
        better = (agreement > self.best) | ((agreement == self.best) & (xent < self.best_xent))
        better |= torch.tensor(always)
        self.best, self.best_xent = (
            torch.where(better, new, old) for new, old in ((agreement, self.best), (xent, self.best_xent))
        )
        self.epoch[better.cpu()] = len(self.agreement)
        by_student = better.view(weight.shape[0], -1, 1, 1)
        shape = (*by_student.shape[:2], -1, weight.shape[-1])
        self.weight = torch.where(by_student, weight.view(shape), self.weight.view(shape)).view_as(weight)
        self.agreement.append(agreement)
        self.xent.append(xent)
