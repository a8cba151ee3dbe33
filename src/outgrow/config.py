"""What a user asks for: experiments and grids, as plain data and as YAML. Importing this is cheap."""

import re
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.errors import UserError, unknown_name

if TYPE_CHECKING:
    import yaml

__all__ = ["PRESETS", "Experiment", "Grid", "preset", "preset_fields", "read_grid", "read_sweep", "to_yaml"]


_MOST_SEEDS = 10_000
_LAST_SEED = 2**32 - 1  # numpy takes none above


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """Fields that experiments and grids share."""

    weak_train: str | None = None
    """Trainer of the supervisor. Default: the same as the student."""
    validate_with: str | None = None
    """A second supervisor that does not teach: its labels of held-out rows of B decide early stopping and every choice
    among settings. Spelled as ``weak``; also ``labels`` or ``second``, those columns of your own table. Default: the
    labels that are taught."""
    supervisor_rows: int | None = None
    """Rows of A, which train the supervisor. Default: 3/8 of the data; none for the supervisor ``labels``."""
    transfer_rows: int | None = None
    """Rows of B, which the supervisor labels for the student. Default: 3/8 of the data."""
    test_rows: int | None = None
    """Rows of T, the test set. Default: 1/4 of the data; of your own table, all gold rows that train nothing."""
    validation: float = 0.1
    """Share of A and of B held out for early stopping."""
    balance: bool | None = None
    """Balance the classes: those of T exactly, those of A and B if one exceeds its fair share by more than 10 %.
    Default: yes, but never those of your own table, which keeps its class shares."""
    ceiling: bool = True
    """Train ceilings. Without them there is no PGR; none is trained where rows of B have no gold."""
    sealed: bool = False
    """Hold back a second test: a fifth of the data, the same for every seed. No run scores it; ``outgrow open METHOD``
    does, once."""
    use: tuple[str, ...] = ()
    """Load your own losses, strategies, tasks, ... from these Python files. $OUTGROW_USE adds more."""

    def __post_init__(self) -> None:
        for name in ("supervisor_rows", "transfer_rows", "test_rows"):
            rows = getattr(self, name)
            if rows is not None and rows < 2:
                raise UserError(f"{name}={rows} is too small; ask for at least 2 rows, or leave it out")
        if not 0 <= self.validation < 1:  # also NaN
            raise UserError(f"validation={self.validation} must be a share from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Experiment(_Shared):
    """One weak-to-strong result over several seeds. Fields are spelled the same in YAML and on the command line."""

    task: str = "sentiment-movies"
    """A task with its options, such as ``table(path='mine.csv', weak='guess')``."""
    weak: str = "glove"
    """The supervisor: a model, or ``labels`` (the table's own weak labels), ``rater(...)``, ``errors(...)``; see
    ``outgrow methods``."""
    strong: str = "minilm-l6"
    """The model that becomes student and ceiling."""
    strategy: str = "naive"
    """How weak labels become a student, see ``outgrow methods``."""
    train: str = "probe"
    """How student and ceiling are trained: ``probe(...)`` or ``finetune(...)``."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seeds:
            raise UserError("an experiment needs at least one seed")
        if not all(0 <= seed <= _LAST_SEED for seed in self.seeds):
            raise UserError(
                f"a seed must lie from 0 to {_LAST_SEED}; these go from {min(self.seeds)} to {max(self.seeds)}"
            )
        if len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"seeds {list(self.seeds)} repeat; each seed is one draw")


@dataclass(frozen=True, kw_only=True)
class Grid(_Shared):
    """Every combination of tasks, model pairs, strategies, and trainers: what ``outgrow run`` takes."""

    task: tuple[str, ...] = ("sentiment-movies",)
    """Tasks, see ``outgrow tasks``."""
    ladder: str = "three"
    """``three``, ``six``, ``seven``, or models from weak to strong separated by commas. Each model supervises every
    stronger one."""
    weak: tuple[str, ...] = ()
    """Supervisors, instead of a ladder (give ``strong`` too): models, or labels, rater(...), errors(...)."""
    strong: tuple[str, ...] = ()
    """Students, instead of a ladder (give ``weak`` too)."""
    strategy: tuple[str, ...] = ("naive", "confidence")
    """Strategies, see ``outgrow methods``."""
    train: tuple[str, ...] = ("probe",)
    """Trainers of student and ceiling: probe(...) or finetune(...)."""
    seeds: int = 5
    """Number of seeds. Each draws its own split, order, and initial weights."""
    first_seed: int = 0
    """The first seed; the others follow it."""
    controls: bool = True
    """Also run the controls (shuffled weak labels, clusters without labels) for every pair."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.seeds <= _MOST_SEEDS:
            raise UserError(f"seeds={_short(self.seeds)} must be at least 1 and at most {_MOST_SEEDS:,}")
        if not 0 <= self.first_seed <= _LAST_SEED - self.seeds:
            raise UserError(f"first_seed={_short(self.first_seed)} must be from 0 to {_LAST_SEED - self.seeds}")
        if bool(self.weak) != bool(self.strong):
            raise UserError("give both weak=... and strong=..., or neither and ladder=...")
        if self.weak and self.ladder != Grid.ladder:
            raise UserError("weak=... and strong=... name the models, and so does ladder=...; leave one of them out")
        for name in ("task", "strategy", "train"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty; name at least one")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "released_code": {
        "strategy": (
            "naive",
            "confidence(loss=LogConf(warmup=0.1, schedule='released'))",
            "naive(loss=Product)",
        ),
        "train": (
            "finetune(epochs=2, batch_size=32, lr=5e-5, schedule='cosine', warmup=0.0, clip=0.0, pooling='last', "
            "max_tokens=1024, early_stopping=False, checks=1)",
        ),
        "seeds": 1,
        "validation": 0.0,
        "balance": False,
        "controls": False,
    },
}
"""Named sets of grid fields. ``released_code``: the choices of openai/weak-to-strong (commit 6b450f2,
train_simple.py and loss.py): its three losses with their defaults, Adam at 5e-5 (1e-5 for its models above gpt2-medium)
falling by a cosine to zero, no warm-up, no clipping, a zero head on the last token, 1,024 tokens, neither balance nor
early stopping. What stays different, and why, is in docs/differences.md."""


def preset(name: str, **changes: Any) -> Grid:
    """The preset ``name`` with some fields changed. On the command line: ``--config NAME``; in YAML: ``preset: NAME``.

    Raises:
        UserError: for an unknown name, or fields that do not fit.
    """
    return Grid(**{**preset_fields(name), **changes})


def preset_fields(name: str) -> Mapping[str, Any]:
    """The fields that a preset sets.

    Raises:
        UserError: for an unknown name.
    """
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    return PRESETS[name]


# --- YAML -------------------------------------------------------------------------------------------------------------


def read_grid(path: Path) -> dict[str, Any]:
    """The fields of one grid that a YAML file sets.

    Raises:
        UserError: if the file cannot be read or holds more than one grid.
    """
    grids = _read(path)
    if len(grids) != 1:
        raise UserError(f"{path} holds {len(grids)} grids; run it with `outgrow sweep {path}`")
    return grids[0]


def read_sweep(path: Path) -> list[Grid]:
    """The grids of a YAML file: a mapping for one, a list of mappings for several.

    Raises:
        UserError: if the file cannot be read; names file and line.
    """
    grids = _read(path)
    try:
        return [Grid(**grid) for grid in grids]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def to_yaml(*grids: Grid) -> str:
    """Grids as YAML with every field, as :func:`read_sweep` reads them. A single grid becomes a mapping."""
    import yaml

    content = [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(grid).items()} for grid in grids]
    return yaml.safe_dump(content[0] if len(content) == 1 else content, sort_keys=False, allow_unicode=True, width=110)


_MOST_BYTES = 1 << 20
_MOST_NODES = 10_000  # with every alias written out
_MOST_DEPTH = 20


def _read(path: Path) -> list[dict[str, Any]]:
    import yaml

    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except ValueError as error:  # a path with a zero character or half a character
        raise UserError(f"cannot read {str(path)!r}: {error}") from None
    if len(text) > _MOST_BYTES:
        raise UserError(f"{path} is larger than {_MOST_BYTES >> 20} MiB; is it a file of grids?")
    try:
        content, node = _load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "no YAML"
        raise UserError(f"{path}{line}: {problem}; check indentation, colons and quotes there") from None
    if not content:
        raise UserError(f"{path} is empty; `outgrow run --print-config` prints a complete example")
    grids = content if isinstance(content, list) else [content]
    nodes = node.value if isinstance(content, list) else [node]
    return [_grid(grid, where, path) for grid, where in zip(grids, nodes, strict=True)]


def _load(text: str) -> tuple[Any, Any]:
    """The content of a YAML text and its tree. Numbers, true, false and null are what they look like and all else is
    text: no dates, no ``1:30`` in base sixty, no octal ``010``, no ``on`` for true, no key given twice.

    Raises:
        yaml.YAMLError: if it is no such text, nested too deeply, or longer than it looks through aliases.
    """
    import yaml

    def refuse(problem: str, mark: Any) -> yaml.MarkedYAMLError:
        return yaml.constructor.ConstructorError(problem=problem, problem_mark=mark)

    depth = 0  # followed in the stream of events, since the tree itself is made by recursion
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_DEPTH or count > _MOST_NODES:
            raise refuse("is nested too deeply or too long", event.start_mark)

    class Loader(yaml.SafeLoader):
        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep=True)
            except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
                text, kind = str(node.value), str(node.tag).rpartition(":")[2]
                if kind == "int" and _SCALARS[1][1].match(text):  # Python refuses to read so many digits
                    raise refuse(f"a number of {len(text):,} digits is too long", node.start_mark) from None
                raise refuse(f"{text[:40]!r} is no {kind}", node.start_mark) from None

    Loader.yaml_implicit_resolvers = {}
    for tag, pattern, first in _SCALARS:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", pattern, list(first))
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, node
        _check_tree(node, refuse)
        return loader.construct_document(node), node
    finally:
        loader.dispose()


_SCALARS = (
    ("bool", re.compile("(true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile("[-+]?(0|[1-9][0-9_]*)$"), "-+0123456789"),
    ("float", re.compile(r"[-+]?(0|[1-9][0-9_]*)?(\.[0-9]*([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)$"), "-+.0123456789"),
    ("null", re.compile("(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("merge", re.compile("<<$"), "<"),
)


def _check_tree(root: "yaml.Node", refuse: Any) -> None:
    """Refuse keys given twice, what contains itself, and aliases that multiply. Depth is bounded already."""
    import yaml

    sizes: dict[int, int] = {}

    def size(node: yaml.Node, above: frozenset[int]) -> int:
        if id(node) in above:
            raise refuse("contains itself", node.start_mark)
        if id(node) not in sizes:
            above = above | {id(node)}
            pairs = node.value if isinstance(node, yaml.MappingNode) else ()
            names = [key.value for key, _ in pairs if isinstance(key.value, Hashable)]
            if twice := [n for i, n in enumerate(names) if n in names[:i]]:
                again = [key for key, _ in pairs if key.value == twice[0]][1]
                raise refuse(f"{str(twice[0])[:40]!r} is given twice", again.start_mark)
            inner = [n for pair in pairs for n in pair] if pairs else node.value
            sizes[id(node)] = 1 + sum(size(n, above) for n in inner) if isinstance(inner, list) else 1
        if sizes[id(node)] > _MOST_NODES:
            raise refuse(f"is more than {_MOST_NODES:,} entries long with its aliases written out", node.start_mark)
        return sizes[id(node)]

    size(root, frozenset())


def _grid(content: Any, node: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise UserError(f"{path} line {node.start_mark.line + 1}: expected field: value, found {_short(content)}")
    known = {f.name: f for f in fields(Grid)}
    lines, values = _lines(node), dict[str, Any]()
    for name, value in content.items():
        where = f"{path} line {lines[name]}"
        if name == "preset":
            try:
                values = {
                    **preset_fields(_short(value) if not isinstance(value, str) else value),
                    **values,
                }  # other fields of the file override the preset
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            continue
        if name not in known:
            if name is None:
                raise UserError(f"{where}: a value without a field's name; write it as field: value")
            raise UserError(f"{where}: {unknown_name('field', str(name)[:80], known)}")
        values[name] = _fitted(value, known[name].type, f"{where}: {name}")
    return values


def _lines(node: "yaml.MappingNode") -> dict[Any, int]:
    """The line of the value of each key, as the keys are read; those that ``<<`` brings in included."""
    import yaml

    found: dict[Any, int] = {}
    for key, value in node.value:
        if key.tag.endswith(":merge"):
            merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
            found = {k: line for inner in merged for k, line in _lines(inner).items()} | found
        else:
            read = yaml.SafeLoader("").construct_object(key)
            found[read] = value.start_mark.line + 1
    return found


def _fitted(value: Any, kind: Any, what: str) -> Any:
    """``value`` as the field's annotation asks. A single name counts as a list of one."""
    text = getattr(kind, "__name__", str(kind)) if isinstance(kind, type) else str(kind)
    if "tuple" in text:
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, str) for v in values):
            raise UserError(f"{what} must be a name or a list of names, not {_short(value)}")
        return tuple(values)
    if value is None and "None" in text:
        return None
    for name, accepted in (("bool", (bool,)), ("float", (int, float)), ("int", (int,)), ("str", (str,))):
        if name in text:
            if not isinstance(value, accepted) or (isinstance(value, bool) and name != "bool"):
                raise UserError(f"{what} must be of type {name}, not {_short(value)}")
            return value
    raise AssertionError(f"field of type {text}")


def _short(value: Any) -> str:
    """A value for a message, cut where it is long."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 1000:
        return "a number of hundreds of digits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
