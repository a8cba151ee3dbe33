"""The split of a pool into supervision A, transfer B and test T: whole groups, from ids and a seed alone.

A research task is balanced. A user's table keeps its class shares, and classes play no part in its split at all.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from outgrow.data import Examples, Ids, Ints, Split
from outgrow.errors import UserError

__all__ = ["LEFT_OUT", "Sizes", "seal_examples", "split_examples"]

Counts = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_PARTS = ("A", "B", "T")
_SHARES = np.array([0.375, 0.375, 0.25])
_OWN_SHARES = np.array([0, 0.375, 0.625])
"""Without a supervisor to train, the rows of A serve the test."""
_ROLES = {"A": "supervisor", "B": "transfer", "T": "test"}
_IMBALANCE = 1.1
"""A class with more than 1.1 times its fair share is an imbalance: the paper's 55 %, for any number of classes."""

LEFT_OUT = {
    "balance": "to balance the classes (--no-balance keeps them)",
    "sizes": "beyond the sizes asked for, or in groups that fit no part whole",
    "unknown": "without gold in a group of A or T",
    "abstained": "with gold but without a weak label, in a group of B",
    "no_label": "with neither gold nor a weak label",
    "sealed": "held back as a sealed test, with all that is related to it",
    "open": "in the test that stays open",
    "unjudged": "held out of B and without a label to validate with",
}
"""Why a row is in no part."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Rows of each part, counted after balancing; a balanced T is rounded down to a multiple of the number of classes.

    A size that is None is a share of the pool's labeled rows: 0.375 for A, 0.375 for B, 0.25 for T, or less if the
    given sizes leave less; without balance T gets every labeled row that A and B leave. A given size is met exactly or
    is an error; a share is met as closely as groups and balance allow.
    """

    supervisor: int | None = None
    """A and A_val together."""
    transfer: int | None = None
    """B and B_val together."""
    test: int | None = None
    validation: float = 0.1
    """Share of A that becomes A_val, and of B that becomes B_val; 0 for none."""
    balance: bool = True
    """Balance T exactly, and A and B if a class has more than 1.1 times its fair share (55 % of two). Without it, the
    parts are drawn without a look at the classes."""
    own_labels: bool = False
    """The weak labels are columns of the table: there is no A, its rows serve the test, and B has only rows with a weak
    label."""
    folds: int = 0
    """With own labels, test on every labeled row (on all rows if none is labeled), and put all other rows into B. Their
    groups are dealt to so many folds; T is one of them. 0 makes parts of the sizes above."""
    fold: int = 0
    """Which fold is T, counted from 0."""

    def __post_init__(self) -> None:
        for role in _ROLES.values():
            size = getattr(self, role)
            if size is not None and size < 2:
                raise UserError(f"the size {role}={size} is too small; ask for at least 2 rows, or leave it out")
        if not 0 <= self.validation < 1:
            raise UserError(f"validation={self.validation} must be a share from 0 to below 1")


def split_examples(examples: Examples, sizes: Sizes, seed: int) -> Split:
    """Split a pool into A, A_val, B, B_val and T, with no group in two of them.

    If ``sizes`` ask for balance, T has the same number of rows of each class, and A and B are balanced if a class
    exceeds 1.1 times its fair share (the paper's 55 %), by dropping rows of the larger classes at random; this is the
    only use that is made of the gold of B. Otherwise every part is drawn without a look at the classes. Rows with
    unknown gold go to B only. A meta column ``split`` (A, B or T per row) fixes the parts; a given size then draws from
    that part. Validation rows are taken out of A and B, at least one each; those of B whatever their gold is.

    The result depends on the rows and the seed, not on the order of the rows; ids come sorted. Groups are placed in
    random order where they fit what a part still needs; if that leaves a part short, the largest groups go first.

    Raises:
        UserError: one line with the numbers, if there are too few groups, a part lacks rows or a balanced part a class,
            the sizes are larger than the data, or the user's own ``split`` tears a group apart.
    """
    assert examples.gold is not None, "a split needs gold"
    order = np.argsort(examples.ids)
    pool = _Pool.of(examples, order, own_labels=sizes.own_labels)
    _check_enough_groups(pool, sizes)
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = _folded(pool, sizes, rng) if sizes.folds else _dealt(pool, sizes, rng)
    parts = {}
    for part in ("A", "B"):
        parts[part], parts[f"{part}_val"] = _carved(pool, rows[part], part, sizes.validation, rng)
    parts["T"] = rows["T"]
    ids = examples.ids[order]
    return Split(
        parts={part: ids[np.sort(parts[part])] for part in ("A", "A_val", "B", "B_val", "T")},
        left_out=_left_out(pool, rows, sizes),
    )


_SEALED, _SEALED_OF_T = 0.2, 0.5
"""Share of the rows with gold that are sealed: of the whole pool, or of T where a column fixes the parts. Either way
the sealed test is about as large as the open one."""


def seal_examples(examples: Examples, balance: bool) -> Split:
    """A second test ``S`` and the ``rest`` of a pool, with no group in both: from ids and groups alone, for any seed.

    Whole groups are taken in the order of the sha256 of their names until their rows with gold are a fifth of all that
    have gold, or half of those of T where a column fixes the parts. Balance drops rows of the larger classes, in the
    order of the sha256 of their ids; what is in neither part is ``left_out``.

    Raises:
        UserError: if a class, or the rest, would have no row.
    """
    assert examples.gold is not None
    order = np.argsort(examples.ids)
    ids, gold, groups = examples.ids[order], examples.gold[order], examples.groups[order]
    fixed = examples.meta["split"][order] if "split" in examples.meta else None
    can = gold >= 0
    if fixed is not None:
        can &= ~np.isin(groups, groups[fixed != "T"])
    names, counts = np.unique(groups[can], return_counts=True)
    drawn = np.array([_hashed(name) for name in names]).argsort()
    wanted = (_SEALED if fixed is None else _SEALED_OF_T) * int(can.sum())
    taken = np.isin(groups, names[drawn[: int(np.searchsorted(counts[drawn].cumsum(), wanted)) + 1]])
    rows = np.flatnonzero(taken & can)
    if balance:
        rows = rows[np.array([_hashed(name) for name in ids[rows]]).argsort()] if len(rows) else rows
        each = np.bincount(gold[rows], minlength=examples.num_classes).min()
        rows = np.sort(np.concatenate([rows[gold[rows] == c][:each] for c in range(examples.num_classes)]))
    if len(rows) < 2 or taken.all():
        raise UserError(
            f"{int(can.sum())} rows with gold in {len(names)} groups are too few to hold a sealed test back, with "
            "every class in it; use more rows, or leave out sealed=True"
        )
    more = int(taken.sum()) - len(rows)
    return Split(parts={"rest": ids[~taken], "S": ids[rows]}, left_out={"sealed": more} if more else {})


def _hashed(name: str) -> str:
    return hashlib.sha256(f"sealed {name}".encode()).hexdigest()


def _dealt(pool: "_Pool", sizes: Sizes, rng: np.random.Generator) -> dict[str, Ints]:
    """The rows of A, B and T by their sizes."""
    seen = pool if sizes.balance else pool.blind()
    needs = _needs(seen, sizes)
    room = needs.copy()
    room[[0, 2], -1] = len(seen.gold)  # a group goes to A or T whatever it holds of unknown gold; those rows stay out
    home = _assigned(seen.counts, room, seen.allowed, rng)
    if not sizes.balance and sizes.test is None:  # the test gets all that trains nothing
        home[(home < 0) & seen.allowed[:, 2]] = 2
    rows = {part: _drawn(seen, np.flatnonzero(home == p), needs[p], part, sizes, rng) for p, part in enumerate(_PARTS)}
    (_check_classes if sizes.balance else _check_rows)(rows, pool, sizes)
    _check_sizes(rows, seen, sizes)
    return rows


def _folded(pool: "_Pool", sizes: Sizes, rng: np.random.Generator) -> dict[str, Ints]:
    """T: the labeled rows of one fold's groups. B: what has a weak label in all other groups. A: nothing."""
    tested = _tested(pool)
    rows_of = np.bincount(pool.group[tested], minlength=len(pool.counts))
    home = np.full(len(pool.counts), -1, dtype=np.int64)
    filled = [0] * sizes.folds
    for group in rng.permutation(len(home)).tolist():
        if rows_of[group]:  # to the fold with the fewest rows so far
            home[group] = int(np.argmin(filled))
            filled[home[group]] += int(rows_of[group])
    inside = home[pool.group] == sizes.fold
    rows = {"A": np.empty(0, dtype=np.int64), "B": np.flatnonzero(~inside & pool.labeled)}
    rows["T"] = np.flatnonzero(inside & tested)
    if not len(rows["B"]) or not len(rows["T"]):
        raise UserError(
            f"the table has {int(tested.sum())} rows to test on, in {int((rows_of > 0).sum())} groups, and "
            f"{int(pool.labeled.sum())} with a weak label; at least one of another group must have a weak label"
        )
    return rows


def _tested(pool: "_Pool") -> Bools:
    """(n,) The rows that folds are made of: those with gold, or all if there is none."""
    known = pool.gold < len(pool.classes)
    return known if known.any() else np.ones_like(known)


def _left_out(pool: "_Pool", rows: Mapping[str, Ints], sizes: Sizes) -> dict[str, int]:
    """How many rows are in no part, by reason: one of the keys of :data:`LEFT_OUT`. Nothing is listed as 0."""
    out = np.ones(len(pool.gold), dtype=np.bool_)
    if sizes.folds > 1:  # every fold is a test once, and trains in the other folds
        out = ~(pool.labeled | _tested(pool))
    out[np.concatenate([rows[part] for part in _PARTS])] = False
    known = pool.gold < len(pool.classes)
    counts = {"no_label": int((out & ~known & ~pool.labeled).sum())}
    counts["abstained"] = int((out & known & ~pool.labeled).sum())
    counts["unknown"] = int((out & ~known & pool.labeled).sum())
    rest = int((out & known & pool.labeled).sum())
    if sizes.balance and not sizes.folds:
        plain = replace(sizes, balance=False)
        try:
            wanted = _needs(pool.blind(), plain)[:, 0]
        except UserError:  # what was asked for is more than there is, and fails elsewhere
            wanted = np.zeros(len(_PARTS), dtype=np.int64)
        there = [int(known[rows[part]].sum()) for part in _PARTS]
        counts["balance"] = min(rest, sum(max(0, int(w) - n) for w, n in zip(wanted, there, strict=True)))
    counts["sizes"] = rest - counts.get("balance", 0)
    return {reason: count for reason, count in counts.items() if count}


@dataclass(frozen=True, kw_only=True)
class _Pool:
    """The rows in the order of their ids, and their groups in the order of their names."""

    gold: Ints
    """(n,), C for unknown."""
    group: Ints
    """(n,) number of each row's group."""
    counts: Counts
    """(G, C + 1) rows of each group in each class; the last column counts unknown gold."""
    allowed: Bools
    """(G, 3) the parts a group may go to."""
    fixed: bool
    """Whether the user fixed the parts."""
    classes: Sequence[str]
    labeled: Bools
    """(n,) rows that may train a student: all of them, unless the weak labels are the table's own."""

    @classmethod
    def of(cls, examples: Examples, order: Ints, own_labels: bool) -> "_Pool":
        assert examples.gold is not None
        names, group = np.unique(examples.groups[order], return_inverse=True)
        num_classes = examples.num_classes
        gold = np.where(examples.gold < 0, num_classes, examples.gold)[order]
        counts = _counted(group, gold, len(names), num_classes + 1)
        fixed = "split" in examples.meta
        allowed = np.ones((len(names), len(_PARTS)), dtype=np.bool_)
        if fixed:
            part = np.searchsorted(_PARTS, examples.meta["split"][order])
            part[own_labels & (part == 0)] = 2  # nobody learns from A, so that its rows serve the test
            allowed = _counted(group, part, len(names), len(_PARTS)) > 0
            _check_not_torn(names, allowed)
        has_gold = counts[:, :-1].any(axis=1)
        in_a = np.zeros_like(has_gold) if own_labels else has_gold
        labeled = np.ones(len(gold), dtype=np.bool_)
        if own_labels and "weak.0" in examples.meta:
            labeled = ~np.isnan(np.asarray(examples.meta["weak.0"], dtype=np.float64))[order]
        return cls(
            gold=gold,
            group=group,
            counts=counts,
            allowed=allowed & np.stack([in_a, np.ones_like(has_gold), has_gold], axis=1),
            fixed=fixed,
            classes=examples.classes,
            labeled=labeled,
        )

    def blind(self) -> "_Pool":
        """The same with a single class, which all known rows have: what draws from it cannot look at gold."""
        counts = np.stack([self.counts[:, :-1].sum(axis=1), self.counts[:, -1]], axis=1)
        gold = (self.gold == len(self.classes)).astype(np.int64)
        return replace(self, gold=gold, counts=counts, classes=("any class",))


def _counted(rows: Ints, columns: Ints, num_rows: int, num_columns: int) -> Counts:
    flat = np.bincount(rows * num_columns + columns, minlength=num_rows * num_columns)
    return flat.reshape(num_rows, num_columns).astype(np.int64)


# --- how many rows of each class a part needs ---------------------------------------------------------------------


def _needs(pool: _Pool, sizes: Sizes) -> Counts:
    """(3, C + 1) rows wanted in A, B and T of each class and, last, of unknown gold (B only)."""
    asked = {p: getattr(sizes, _ROLES[part]) for p, part in enumerate(_PARTS)}
    needs = np.zeros((len(_PARTS), pool.counts.shape[1]), dtype=np.int64)
    # T first: it is balanced exactly, and what is left sets the class shares of A and B. B last: only it can use
    # unknown gold.
    for p in (p for p in (2, 0, 1) if asked[p] is not None):
        there = (pool.counts * pool.allowed[:, [p]]).sum(axis=0)
        left = there if pool.fixed else there - needs.sum(axis=0)
        needs[p] = _need_asked(left, asked[p], _PARTS[p], pool, sizes)
    shares = _OWN_SHARES if sizes.own_labels else _SHARES
    shared = [p for p in asked if asked[p] is None and shares[p] > 0]
    left = pool.counts.sum(axis=0) - needs.sum(axis=0)
    for p in shared:
        if pool.fixed:
            share = (pool.counts * pool.allowed[:, [p]]).sum(axis=0)
        else:
            most = np.minimum(pool.counts.sum(axis=0) * shares[p], left * shares[p] / shares[shared].sum())
            share = np.where(left >= len(shared), np.maximum(1, np.floor(most)), np.floor(most)).astype(np.int64)
            share[-1] = left[-1]
        needs[p] = _balanced(share, _PARTS[p], sizes)
    if not sizes.balance and sizes.test is None and not pool.fixed:
        needs[2, :-1] = left[:-1] - needs[shared, :-1].sum(axis=0) + needs[2, :-1]  # all that A and B leave
    return needs


def _need_asked(left: Counts, size: int, part: str, pool: _Pool, sizes: Sizes) -> Counts:
    """(C + 1,) rows of each class for a part of exactly ``size`` rows, out of those that are left."""
    num_classes = len(left) - 1
    usable = left if part == "B" else np.append(left[:-1], 0)
    if size > usable.sum():
        raise UserError(
            f"{_ROLES[part]}_rows={size} were asked for, but part {part} has only {usable.sum()} "
            f"{'' if part == 'B' else 'labeled '}rows; ask for fewer"
        )
    need = _apportioned(usable, size)
    known = int(need[:-1].sum())
    if part == "T":
        known -= known % num_classes  # a single class, and nothing to round, if T is not balanced
    if sizes.balance and (part == "T" or _is_imbalanced(need[:-1])):
        need[:-1] = _apportioned(np.ones(num_classes, dtype=np.int64), known)
    short = np.flatnonzero(need[:-1] > left[:-1])
    if len(short):
        c = int(short[0])
        raise UserError(
            f"{_ROLES[part]}_rows={size} balanced ones need {need[c]} of class {pool.classes[c]!r}, but part {part} "
            f"has only {left[c]}; ask for fewer, or keep the class shares as they are (balance=False)"
        )
    return need


def _balanced(share: Counts, part: str, sizes: Sizes) -> Counts:
    """Counts of each class; if the part has to be balanced, the larger classes are cut to the smallest."""
    known = share[:-1]
    if part == "T" and sizes.balance:
        return np.append(np.full_like(known, known.min()), 0)
    if sizes.balance and _is_imbalanced(known):
        known = np.minimum(known, known.min())
    return np.append(known, share[-1] if part == "B" else 0)


def _is_imbalanced(known: Counts) -> bool:
    # One row more than the others is no imbalance: an odd size may leave it.
    return bool(known.max() > _IMBALANCE * known.sum() / len(known) and known.max() - known.min() > 1)


def _apportioned(weights: Counts, size: int) -> Counts:
    """``size`` whole rows in proportion to ``weights``, by largest remainders."""
    exact = size * weights / max(1, weights.sum())
    rows: Counts = np.floor(exact).astype(np.int64)
    rows[np.argsort(rows - exact, kind="stable")[: size - int(rows.sum())]] += 1
    return rows


# --- which group goes where ---------------------------------------------------------------------------------------


def _assigned(counts: Counts, needs: Counts, allowed: Bools, rng: np.random.Generator) -> Ints:
    """(G,) part of each group, -1 for none: the better of two orders, random and largest first."""
    drawn = rng.permutation(len(counts))
    home, short = _placed(drawn, counts, needs, allowed)
    if short > 0:
        largest_first = drawn[np.argsort(-counts[drawn].sum(axis=1), kind="stable")]
        other, other_short = _placed(largest_first, counts, needs, allowed)
        if other_short < short:
            return other
    return home


def _placed(order: Ints, counts: Counts, needs: Counts, allowed: Bools) -> tuple[Ints, float]:
    """Place groups in this order; returns the part of each, and by which shares the parts fall short, summed.

    The last column, unknown gold, is only a limit: the known classes decide which part needs a group most.
    """
    home = np.full(len(counts), -1, dtype=np.int64)
    left = needs.copy()
    known, left_known = counts[:, :-1], left[:, :-1]  # a view: it follows what is subtracted from left
    wanted = np.maximum(left_known.sum(axis=1), 1)
    waiting = []
    for group in order.tolist():
        rows = counts[group]
        fits = allowed[group] & (rows <= left).all(axis=1)
        if not fits.any():
            waiting.append(group)
            continue
        part = int(np.argmax(np.where(fits, (left_known * (known[group] > 0)).sum(axis=1) / wanted, -1)))
        home[group] = part
        left[part] -= rows
    # A group that fits nowhere whole goes where most of it is useful, the least wasteful first; the rest is dropped.
    useful = [np.minimum(known[g], left_known).sum(axis=1).max() / counts[g].sum() for g in waiting]
    for w in np.argsort(-np.array(useful), kind="stable").tolist():
        group = waiting[w]
        gain = np.where(allowed[group], np.minimum(known[group], left_known).sum(axis=1), 0)
        if gain.max() > 0:
            part = int(np.argmax(gain / wanted))
            home[group] = part
            left[part] = np.maximum(left[part] - counts[group], 0)
    return home, float((left_known.sum(axis=1) / wanted).sum())


def _drawn(pool: _Pool, groups: Ints, need: Counts, part: str, sizes: Sizes, rng: np.random.Generator) -> Ints:
    """The rows of a part's groups that it keeps: at most ``need`` of each class, balanced where it has to be."""
    rows = np.flatnonzero(np.isin(pool.group, groups))
    if part == "B":
        rows = rows[pool.labeled[rows]]
    if not sizes.balance and getattr(sizes, _ROLES[part]) is None:  # nothing limits it: whole groups, every known row
        return rows if part == "B" else rows[pool.gold[rows] == 0]
    there = np.bincount(pool.gold[rows], minlength=len(need))
    keep = np.minimum(there, need)
    if part != "T" and not (sizes.balance and _is_imbalanced(keep[:-1])):
        # If groups do not give the wanted mixture, rows of other classes fill up the number.
        usable = there if part == "B" else np.append(there[:-1], 0)
        filled = keep + _apportioned(usable - keep, min(int(need.sum() - keep.sum()), int((usable - keep).sum())))
        keep = keep if sizes.balance and _is_imbalanced(filled[:-1]) else filled
    keep = _balanced(keep, part, sizes)
    shuffled = rng.permutation(rows)
    return np.concatenate([shuffled[pool.gold[shuffled] == c][: keep[c]] for c in range(len(need))])


def _carved(pool: _Pool, rows: Ints, part: str, share: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Rows for training and for validation, whole groups each; every row is kept.

    Those of A keep the class shares. Those of B are drawn as if all rows were of one class, for its gold is unseen.
    """
    if share == 0 or not len(rows):
        return rows, rows[:0]
    names, group = np.unique(pool.group[rows], return_inverse=True)
    gold = pool.gold[rows] if part == "A" else np.zeros(len(rows), dtype=np.int64)
    counts = _counted(group, gold, len(names), pool.counts.shape[1])
    total = counts.sum(axis=0)
    need = _apportioned(total, max(1, round(share * int(total.sum()))))
    everywhere = np.ones((len(names), 2), dtype=np.bool_)
    home = _assigned(counts, np.stack([total - need, need]), everywhere, rng)
    # Training keeps every class it has: if the draw takes the last group of one, the smallest harmless one goes.
    spare = ((total - counts > 0) | (total == 0))[:, :-1].all(axis=1)
    remaining = total - counts[home == 1].sum(axis=0)
    if not (home == 1).any() or (home == 1).all() or ((remaining == 0) & (total > 0))[:-1].any():
        if len(names) < 2 or not spare.any():
            raise UserError(
                f"part {part} has {len(names)} groups and cannot spare one for validation without losing a class; "
                "use smaller groups or more rows, or hold out no rows (validation=0)"
            )
        home = np.zeros(len(names), dtype=np.int64)
        home[min(np.flatnonzero(spare), key=lambda g: int(counts[g].sum()))] = 1
    held_out = (home == 1)[group]
    return rows[~held_out], rows[held_out]


# --- errors -------------------------------------------------------------------------------------------------------


def _check_enough_groups(pool: _Pool, sizes: Sizes) -> None:
    required = 3 + 2 * (sizes.validation > 0)
    if len(pool.counts) < required:
        raise UserError(
            f"the pool has {len(pool.counts)} groups and needs at least {required}, "
            f"one for each part{' and each validation part' if sizes.validation > 0 else ''}; "
            "use smaller groups or more data"
        )


def _check_not_torn(names: Ids, parts: Bools) -> None:
    torn = np.flatnonzero(parts.sum(axis=1) > 1)
    if len(torn):
        where = " and ".join(part for part, there in zip(_PARTS, parts[torn[0]], strict=True) if there)
        raise UserError(
            f"{len(torn)} groups have rows in two parts of the column split, the first is {str(names[torn[0]])!r} in "
            f"{where}; give all rows of a group the same part (without a group column, rows with the same text are one)"
        )


def _check_rows(rows: dict[str, Ints], pool: _Pool, sizes: Sizes) -> None:
    """Without balance: T has rows to score, B rows to train on, and A something to tell apart. A class may be rare."""
    for part in ("B", "T"):
        if not len(rows[part]):
            if part == "T" and not (pool.gold < len(pool.classes)).any():
                raise UserError("no row has gold, so no supervisor can be trained; take your own with weak='labels'")
            kind = "" if part == "B" else "labeled "
            raise UserError(f"part {part} has no {kind}rows; add some, use smaller groups, or ask for other sizes")
    classes = np.unique(pool.gold[rows["A"]])
    if pool.allowed[:, 0].any() and len(classes) < 2:
        raise UserError(
            f"part A has gold rows of {len(classes)} {'class' if len(classes) == 1 else 'classes'}, and a supervisor "
            "needs two to tell apart; add gold, fix the parts with a column (split='...'), or bring weak labels of "
            "your own (weak='labels')"
        )


def _check_classes(rows: dict[str, Ints], pool: _Pool, sizes: Sizes) -> None:
    num_classes = len(pool.classes)
    total = pool.counts.sum(axis=0)
    for part in _PARTS:
        if part == "A" and not pool.allowed[:, 0].any():
            continue  # the user has weak labels and no rows for a supervisor to learn from
        gold = pool.gold[rows[part]]
        missing = set(range(num_classes)) - set(gold.tolist())
        if missing and not (part == "B" and (gold == num_classes).any()):
            rarest = min(missing, key=lambda c: (total[c], c))  # balance may have taken the others with it
            raise UserError(
                f"class {pool.classes[rarest]!r} is missing in part {part} (the pool has {total[rarest]} rows of it in "
                f"{int((pool.counts[:, rarest] > 0).sum())} groups, and each of A, B and T needs some); "
                "add rows of it, use smaller groups, remove the class, or keep the class shares (balance=False)"
            )


def _check_sizes(rows: dict[str, Ints], pool: _Pool, sizes: Sizes) -> None:
    num_classes = len(pool.classes)
    for part in _PARTS:
        size: int | None = getattr(sizes, _ROLES[part])
        wanted = size if size is None or part != "T" else size - size % num_classes
        if wanted is not None and len(rows[part]) < wanted:
            some = " with a weak label" if part == "B" and not pool.labeled.all() else ""
            raise UserError(
                f"{_ROLES[part]}_rows={size} were asked for, but whole groups give only {len(rows[part])}{some}; "
                "ask for fewer, or use smaller groups"
            )
