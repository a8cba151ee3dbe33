"""Logistic regression on frozen features, solved to the end, many students at once.

Minimizes mean cross-entropy with soft labels + l2/2 |w|^2, features standardized and the bias without L2, by L-BFGS
(Nocedal & Wright 2006, algorithm 7.4). Students with the same rows share the two matrix products of an update. Features
are rotated to the eigenvectors of their Gram matrix, where the curvature of an undecided student is diagonal. That is
L-BFGS's first guess, so that correlated features cost few updates. Step lengths need no product, as logits are linear
in them. A student that is done gives its place to the next one.

A student's numbers do not depend on its neighbors (:mod:`outgrow.models.probe` says how): it comes out the same alone
or among a thousand. Products are summed in single precision. The gradient at the returned solution is computed again
in double precision and must be below ``TOLERANCE``.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from outgrow.data import Floats, Ints
from outgrow.errors import UserError
from outgrow.models.probe import TILE, VECTOR, FittedProbe, class_columns, moments, num_vectors, padded_width, scaled
from outgrow.models.settings import LogisticSettings
from outgrow.runtime import Runtime

__all__ = ["TOLERANCE", "LogisticJob", "fit_logistic"]

TOLERANCE = 1e-6
"""Largest entry of the gradient of mean loss + l2/2 |w|^2, in standardized features, at a solution."""

_PAIRS = 16  # how many steps, with their changes of the gradient, L-BFGS remembers
_OF_BIAS = 1e-8  # l2 of the bias, which keeps it finite for a class that no row has
_MOST_UPDATES = 2000
_LOOKS = 12  # evaluations along one direction at most; one or two usually do
_FLAT = 0.1  # share of the slope that may remain along a direction
_STUDENTS = 256  # in one product
_AGAIN = 3  # how often a student may be continued
_ROUNDS = 4  # times that many students in one piece of work
_TOGETHER = 1 << 20  # bytes of logits per call; more leave the cache, with fewer the call costs more than its work
_MAX_BYTES = 1 << 27  # of logits, labels and remembered steps in one product
_CHECKED = 512  # rows whose gradient is summed in double precision at a time


class LogisticJob(NamedTuple):
    """One student to solve for: which rows, which soft labels, and how much L2."""

    rows: Ints
    """(n,) row numbers of the training examples in the features."""
    targets: Floats
    """(n, C)"""
    val_rows: Ints
    """(v,) row numbers on which the solution is only scored; may be empty."""
    val_targets: Floats
    """(v, C), from the same source as ``targets``."""
    settings: LogisticSettings


def fit_logistic(features: Floats, jobs: Sequence[LogisticJob], runtime: Runtime) -> list[FittedProbe]:
    """Solve every job on rows of ``features``; results come in the order of the jobs.

    ``features`` is (N, d), one vector for each text, or (N, C, d), one for each candidate of a choice. A probe's
    ``history`` has one entry: agreement and cross-entropy with the validation labels, and the ``gradient`` left.

    Raises:
        UserError: if a student does not get below ``TOLERANCE``.
    """
    device = torch.device(runtime.torch_device())
    threads = torch.get_num_threads()
    workers = threads if device.type == "cpu" else 1
    done, lock = 0, Lock()
    results: list[Any] = [None] * len(jobs)

    def solve(shared: "_Shared", numbers: list[int]) -> None:
        nonlocal done
        torch.set_num_threads(1)  # as in fit_probes: one thread per piece of work, with no waiting inside
        for i, fitted in zip(numbers, _Solver(shared, [jobs[i] for i in numbers]).fit(), strict=True):
            results[i] = fitted
        with lock:
            done += len(numbers)
            runtime.report(done, len(jobs), "students")

    try:
        with ThreadPoolExecutor(workers) as pool:
            # Rows are standardized for their first students and dropped after their last.
            pieces = [pool.submit(solve, *piece) for piece in _pieces(features, jobs, device, workers)]
        for piece in pieces:
            piece.result()
    finally:
        torch.set_num_threads(threads)
    return results


def _pieces(
    features: Floats, jobs: Sequence[LogisticJob], device: torch.device, workers: int
) -> Iterator[tuple["_Shared", list[int]]]:
    """Numbers of the jobs that share rows, hardest first, in enough pieces for every worker."""
    arrays = {id(a): a for job in jobs for a in (job.rows, job.val_rows)}
    contents = {key: a.tobytes() for key, a in arrays.items()}
    of_rows: dict[Any, list[int]] = defaultdict(list)
    for i, job in enumerate(jobs):
        of_rows[contents[id(job.rows)], contents[id(job.val_rows)], job.targets.shape[1]].append(i)
    for numbers in of_rows.values():
        shared = _Shared(features, jobs[numbers[0]], device)
        hardest = sorted(numbers, key=lambda i: jobs[i].settings.l2)
        count = max(min(workers, len(numbers) // (2 * TILE)), math.ceil(len(numbers) / (_ROUNDS * shared.most)))
        for piece in range(max(1, count)):
            yield shared, hardest[piece :: max(1, count)]


def _curvature(num_classes: int) -> float:
    """Second derivative of an undecided student's loss by a logit, halved, as decided students have less."""
    return 1 / 8 if num_classes == 2 else 1 / (2 * num_classes)


class _Shared:
    """What students of the same rows share, made when the first of them needs it.

    Shapes as for probes: n rows (padded with zeros), D features with a column of ones for the bias (none for choices)
    and zero padding, K logits per example (one for two classes, else C), W weight vectors per student and V vectors per
    example, one of which is always 1 and the other K.
    """

    def __init__(self, features: Floats, like: LogisticJob, device: torch.device) -> None:
        self.features, self.like, self.device = features, like, device
        self.num_classes = like.targets.shape[1]
        self.columns = 1 if self.num_classes == 2 else self.num_classes
        self.candidates = num_vectors(features.shape[1:])
        self.vectors = self.columns // self.candidates
        self.n, self.d = len(like.rows), features.shape[-1]
        self.padded, self.dim = VECTOR * math.ceil(self.n / VECTOR), padded_width(self.d)
        logits, weights = self.padded * self.columns, self.dim * self.vectors
        each = 4 * (3 * logits + (2 * _PAIRS + 7 + _ROUNDS) * weights)
        self.most = TILE * max(1, min(_STUDENTS // self.vectors, _MAX_BYTES // each) // TILE)
        self._lock = Lock()
        self._ready = False

    def prepare(self) -> None:
        """Standardize and rotate the rows, once."""
        with self._lock:
            if self._ready:
                return
            self.center, self.scale = moments(self.features, self.like.rows)
            given = (self.center, self.scale, self.dim)
            rows = scaled(self.features, self.like.rows, *given, multiple=VECTOR).view(-1, self.candidates, self.dim)
            if self.candidates > 1:
                rows -= rows.mean(dim=1, keepdim=True)  # what the candidates share changes no probability
            self.rows = rows.view(-1, self.dim).to(self.device)
            val = scaled(self.features, self.like.val_rows, *given, multiple=VECTOR)
            self.val = val.view(-1, self.dim).to(self.device)
            features = self.rows[:, : self.d]
            bends, axes = torch.linalg.eigh((features.T @ features).double() / self.n)
            self.axes = axes.float()
            self.turned = self.rows.clone()
            torch.mm(features, self.axes, out=self.turned[:, : self.d])
            # The Gram matrix is summed in single precision: no curvature is known to be less than its rounding.
            self.bends = torch.ones(self.dim, device=self.device)  # also for the bias and the padding
            self.bends[: self.d] = bends.clamp_min(1e-6 * float(bends.sum()))
            self._ready = True


class _Solver:
    """Solves students of the same rows, S at a time; S is whole tiles. Arrays are stored student by student."""

    def __init__(self, shared: _Shared, jobs: Sequence[LogisticJob]) -> None:
        shared.prepare()
        self.shared, self.jobs = shared, jobs
        count = TILE * math.ceil(min(shared.most, len(jobs)) / TILE)
        width, device = shared.vectors * shared.dim, shared.device
        self.waiting = list(range(len(jobs)))[::-1]
        self.solved = torch.zeros(len(jobs), width, device=device)
        """Weights of the solutions, in the rotated features."""
        self.who = torch.full((count,), -1, device=device)
        """The job at each of the S places; -1 for none."""
        self.age = torch.zeros(count, dtype=torch.int64, device=device)
        self.targets = torch.zeros(count, shared.padded * shared.columns, device=device)
        self.z = torch.zeros_like(self.targets)
        self.weight, self.gradient, self.penalty = (torch.zeros(count, width, device=device) for _ in range(3))
        self.memory = _Memory(torch.ones(count, width, device=device), 1 / _curvature(shared.num_classes))

    def fit(self) -> list[FittedProbe]:
        """The solutions of the jobs, in order.

        Logits are updated along with the weights and accumulate rounding, which can matter where a few rows decide. A
        student whose gradient in double precision is too large continues from where it is, with fresh logits.
        """
        self.solve()
        left = self._left(list(range(len(self.jobs))))
        for _ in range(_AGAIN):
            self.waiting = [i for i, g in enumerate(left) if not g <= TOLERANCE][::-1]
            again = list(self.waiting)
            if not again:
                break
            self.solve()
            for i, g in zip(again, self._left(again), strict=True):
                left[i] = g
        for job, g in zip(self.jobs, left, strict=True):
            if not g <= TOLERANCE:
                raise UserError(
                    f"logistic with l2={job.settings.l2:g} stopped at a gradient of {g:.1e}, above "
                    f"{TOLERANCE:.0e}; take a larger l2, or train with probe"
                )
        size = self.shared.most
        return [f for at in range(0, len(left), size) for f in self._fitted(at, left[at : at + size])]

    def solve(self) -> None:
        """Fill ``solved``."""
        shared = self.shared
        self._admit()
        while bool((self.who >= 0).any()):
            live = self.who >= 0
            # A new student takes no step yet: it only gets its gradient.
            direction = self.memory.direction(self.gradient).mul_((live & (self.age > 0))[:, None])
            along = (direction.view(-1, shared.dim) @ shared.turned.T).view(len(live), -1)
            direction.mul_(self._line(along, direction, live))
            self.weight += direction
            after = (along.view(-1, len(shared.turned)) @ shared.turned).view_as(direction).div_(shared.n)
            after.addcmul_(self.weight, self.penalty)
            self.memory.remember(direction, after - self.gradient)
            self.gradient = after
            self.age += 1
            found = live & (self._flat(after) | (self.age > _MOST_UPDATES))
            if bool(found.any()):
                self.solved[self.who[found]] = self.weight[found]
                self.who[found] = -1
                self._admit()

    def _flat(self, gradient: Tensor) -> Tensor:
        """Whose gradient (S,) is small enough, rotated and feature by feature, with a margin for rounding."""
        enough, width = TOLERANCE / 2, self.shared.d
        flat = gradient.abs().amax(dim=1) <= enough
        if bool(flat.any()):
            some = _padded(flat)
            by_vector = gradient[some].view(len(some), -1, self.shared.dim)[..., :width]
            turned = by_vector.reshape(-1, width) @ self.shared.axes.T
            flat[some] &= turned.view(len(some), -1).abs().amax(dim=1) <= enough
        return flat

    def _admit(self) -> None:
        """Give free places to waiting students; if none wait, drop free places."""
        shared = self.shared
        free = (self.who < 0).nonzero().flatten()
        places = free[: len(self.waiting)]
        if not len(self.waiting):
            if 0.2 * len(self.who) < len(free) < len(self.who):
                self._keep(_padded(self.who >= 0))
            return
        numbers = [self.waiting.pop() for _ in range(len(places))]
        self.who[places], self.age[places] = torch.tensor(numbers, device=shared.device), 0
        self.targets[places] = self._columns([self.jobs[i].targets for i in numbers], shared.padded)
        self.weight[places] = self.solved[numbers]
        self.z[places], self.gradient[places] = 0, 0
        if bool(self.weight[places].any()):
            whole = torch.cat([places, places[:1].expand(-len(places) % TILE)])
            logits = self.weight[whole].view(-1, shared.dim) @ shared.turned.T
            self.z[whole] = logits.view(len(whole), -1)
        l2 = torch.tensor([self.jobs[i].settings.l2 for i in numbers], device=shared.device)[:, None, None]
        penalty = torch.zeros(len(numbers), shared.vectors, shared.dim, device=shared.device)
        penalty[..., : shared.d] = l2
        penalty[..., shared.d] = _OF_BIAS
        inverse = 1 / (shared.bends + penalty / _curvature(shared.num_classes))
        self.penalty[places] = penalty.view(len(numbers), -1)
        self.memory.forget(places, inverse.view(len(numbers), -1))

    def _keep(self, which: Tensor) -> None:
        """Keep these places only; those after the live ones are empty."""
        live = int((self.who >= 0).sum())
        for name in ("who", "age", "targets", "z", "weight", "gradient", "penalty"):
            setattr(self, name, getattr(self, name)[which])
        self.who[live:] = -1
        self.memory.keep(which)

    def _columns(self, targets: list[Floats], rows: int) -> Tensor:
        """Targets as (S, K * n), in the order in which the product gives logits: by class, then example, for texts; by
        example, then candidate, for choices."""
        shared, count = self.shared, len(targets)
        by_class = shared.candidates == 1
        table = np.full((count, shared.columns, rows) if by_class else (count, rows, shared.columns), 0.5, np.float32)
        for s, probs in enumerate(targets):
            used = probs[:, 1:] if shared.columns == 1 else probs
            if by_class:
                table[s, :, : len(probs)] = used.T
            else:
                table[s, : len(probs)] = used
        return torch.from_numpy(table).view(count, -1).to(shared.device)

    def _by_class(self, z: Tensor) -> tuple[Tensor, int]:
        """Logits with an axis for the classes, and which axis that is."""
        if self.shared.candidates > 1:
            return z.view(len(z), -1, self.shared.columns), 2
        return z.view(len(z), self.shared.columns, -1), 1

    def _probs_(self, z: Tensor) -> Tensor:
        """Probabilities of logits, which may be overwritten."""
        if self.shared.columns == 1:
            return z.sigmoid_()
        by_class, axis = self._by_class(z)
        return by_class.softmax(dim=axis).view_as(z)

    def _line(self, along: Tensor, direction: Tensor, live: Tensor) -> Tensor:
        """Step lengths (S, 1) at which the loss along ``direction`` is nearly flat. Moves the logits there and puts the
        slope of each example's loss into ``along``."""
        z, targets = self.z, self.targets
        held = direction * self.penalty
        quadratic = [(v * held).sum(dim=1, keepdim=True) for v in (self.weight, direction)]
        start = (direction * self.gradient).sum(dim=1, keepdim=True)
        size = TILE * max(1, _TOGETHER // (4 * z.shape[1] * TILE))
        steps = [
            self._look(*(a[at : at + size] for a in (z, along, targets, *quadratic, start, live[:, None])))
            for at in range(0, len(z), size)
        ]
        return torch.cat(steps)

    def _look(
        self, z: Tensor, along: Tensor, targets: Tensor, linear: Tensor, square: Tensor, start: Tensor, live: Tensor
    ) -> Tensor:
        """:meth:`_line` for some students: Newton's method on the slope, which only rises, kept inside the interval
        known to hold its zero. ``start`` is the slope at 0."""
        n = self.shared.n
        step, low, high = live.to(z.dtype), torch.zeros_like(start), torch.full_like(start, torch.inf)
        done = ~live
        for look in range(_LOOKS):
            probs = self._probs_(torch.addcmul(z, along, step))
            off = probs - targets
            slope = (off * along).sum(dim=1, keepdim=True).div_(n).add_(linear).addcmul_(step, square)
            done = done | (slope.abs() <= _FLAT * start.abs())
            if look == _LOOKS - 1 or bool(done.all()):
                break
            bend = self._bend(probs, along).div_(n).add_(square)
            high, low = torch.where(slope > 0, step, high), torch.where(slope > 0, low, step)
            newton = step - slope / bend
            outside = ~((newton > low) & (newton < high))
            newton = torch.where(outside, torch.where(high.isinf(), 2 * step, (low + high) / 2), newton)
            step = torch.where(done, step, newton)
        z.addcmul_(along, step)
        along.copy_(off)
        return step

    def _bend(self, probs: Tensor, along: Tensor) -> Tensor:
        """Second derivative (S, 1) of the summed loss along a direction."""
        if self.shared.columns == 1:
            return torch.addcmul(probs, probs, probs, value=-1).mul_(along).mul_(along).sum(dim=1, keepdim=True)
        weighted = probs * along
        mean, axis = self._by_class(weighted)
        spread = (weighted * along).sum(dim=1, keepdim=True)
        return spread.sub_(mean.sum(dim=axis).square().sum(dim=1, keepdim=True))

    def _found(self, numbers: list[int]) -> Tensor:
        """Weights (S, W, D) of these jobs in the original features, filled up to whole tiles with the first job's."""
        shared = self.shared
        weight = self.solved[_filled(numbers)].view(-1, shared.vectors, shared.dim)
        turned = weight[..., : shared.d].reshape(-1, shared.d) @ shared.axes.T
        weight[..., : shared.d] = turned.view(len(weight), shared.vectors, -1)
        return weight

    def _left(self, numbers: list[int]) -> list[float]:
        """Largest entry of the gradient at the solution of each of these jobs."""
        size = self.shared.most
        parts = [numbers[at : at + size] for at in range(0, len(numbers), size)]
        return [g for part in parts for g in self._gradients(part)[: len(part)]]

    def _gradients(self, numbers: list[int]) -> list[float]:
        shared, jobs = self.shared, [self.jobs[i] for i in _filled(numbers)]
        vectors = self._found(numbers).view(-1, shared.dim).double()
        targets, total = self._columns([j.targets for j in jobs], shared.padded), torch.zeros_like(vectors)
        for at in range(0, shared.padded, _CHECKED):
            examples = slice(at, at + _CHECKED)
            rows = shared.rows.view(shared.padded, -1)[examples].view(-1, shared.dim).double()
            wanted, axis = self._by_class(targets)
            wanted = wanted[:, :, examples] if axis == 1 else wanted[:, examples]
            slope = self._probs_((vectors @ rows.T).view(len(jobs), -1)).sub_(wanted.reshape(len(jobs), -1))
            total += slope.view(-1, len(rows)) @ rows
        l2 = torch.tensor([j.settings.l2 for j in jobs], dtype=torch.float64, device=shared.device)
        gradient = (total / shared.n).view(len(jobs), shared.vectors, -1)
        gradient[..., : shared.d] += l2[:, None, None] * vectors.view_as(gradient)[..., : shared.d]
        largest: list[float] = gradient.flatten(1).abs().amax(dim=1).tolist()
        return largest

    def _fitted(self, first: int, left: list[float]) -> list[FittedProbe]:
        """The probes of the jobs from ``first`` on, whose remaining gradients are ``left``."""
        shared, numbers = self.shared, list(range(first, first + len(left)))
        weight = self._found(numbers)
        targets = [self.jobs[i].val_targets for i in _filled(numbers)]
        agreement, xent = (v.tolist() for v in self._validation(weight, targets))
        weights, both = weight.cpu().numpy(), shared.columns == 1 and shared.features.ndim == 2
        return [
            FittedProbe(
                view=self.jobs[i].settings.view,
                weight=class_columns(weights[s, :, : shared.d].T, both),
                bias=class_columns(weights[s, :, shared.d], both),
                center=shared.center.astype(np.float32, copy=False),
                scale=shared.scale.astype(np.float32, copy=False),
                history=({"agreement": agreement[s], "xent": xent[s], "gradient": left[s]},),
                best_epoch=0,
            )
            for s, i in enumerate(numbers)
        ]

    def _validation(self, weight: Tensor, targets: list[Floats]) -> tuple[Tensor, Tensor]:
        """Agreement and cross-entropy of every student (S,) with its validation labels, 0 where there are none."""
        shared = self.shared
        held_out = len(shared.like.val_rows)
        if not held_out:
            return torch.zeros(len(weight)), torch.zeros(len(weight))
        z = (weight.view(-1, shared.dim) @ shared.val.T).view(len(weight), -1)
        wanted = self._columns(targets, len(shared.val) // shared.candidates)
        if shared.columns == 1:
            same, xent = (z > 0) == (wanted > 0.5), torch.nn.functional.softplus(z) - wanted * z
        else:
            (z, axis), (wanted, _) = self._by_class(z), self._by_class(wanted)
            same, xent = z.argmax(axis) == wanted.argmax(axis), -(wanted * z.log_softmax(axis)).sum(axis)
        return same[:, :held_out].float().mean(dim=1), xent[:, :held_out].contiguous().mean(dim=1)


class _Memory:
    """The last steps of L-BFGS and how the gradient changed over them, (S, W * D) each."""

    def __init__(self, inverse: Tensor, first: float) -> None:
        self.inverse, self.first = inverse, first
        """(S, W * D) A first guess of the inverse curvature, and its scale until a step says more."""
        self.scale = torch.full((len(inverse), 1), first, device=inverse.device)
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        """Step, change and 1 / (step . change), oldest first; 0 where rounding left no positive curvature."""

    def keep(self, which: Tensor) -> None:
        """Keep these students only."""
        self.pairs = [(s[which], y[which], r[which]) for s, y, r in self.pairs]
        self.scale, self.inverse = self.scale[which], self.inverse[which]

    def forget(self, places: Tensor, inverse: Tensor) -> None:
        """Start over for new students at these places."""
        self.inverse[places], self.scale[places] = inverse, self.first
        for _, _, of_pair in self.pairs:
            of_pair[places] = 0

    def remember(self, step: Tensor, change: Tensor) -> None:
        """Add a step and drop the oldest."""
        curved = (step * change).sum(dim=1, keepdim=True)
        real = curved > 0
        guess = (change.square() * self.inverse).sum(dim=1, keepdim=True)
        self.scale = torch.where(real & (guess > 0), curved / guess, self.scale)
        self.pairs = [*self.pairs, (step, change, torch.where(real, 1 / curved, 0))][-_PAIRS:]

    def direction(self, gradient: Tensor) -> Tensor:
        """The next direction (S, W * D); the negative gradient where rounding made it point uphill."""
        left, used = gradient.clone(), []
        for step, change, inverse in reversed(self.pairs):
            share = (step * left).sum(dim=1, keepdim=True).mul_(inverse)
            left.addcmul_(change, share, value=-1)
            used.append(share)
        ahead = left.mul_(self.inverse).mul_(self.scale)
        for (step, change, inverse), share in zip(self.pairs, reversed(used), strict=True):
            ahead.addcmul_(step, share - (change * ahead).sum(dim=1, keepdim=True).mul_(inverse))
        downhill = (ahead * gradient).sum(dim=1, keepdim=True) > 0
        return torch.where(downhill, ahead, gradient).neg_()


def _filled(numbers: list[int]) -> list[int]:
    """The numbers, filled up to a full tile with the first."""
    return numbers + numbers[:1] * (-len(numbers) % TILE)


def _padded(live: Tensor) -> Tensor:
    """Places of the live students, filled up to a full tile with the first."""
    places = live.nonzero().flatten()
    return torch.cat([places, places[:1].expand(-len(places) % TILE)])
