"""Chess puzzles: which move is best? As a choice among legal moves, or to be written out (Burns et al. 2023).

The rules of chess are python-chess's. A puzzle is a position and the one move known to be right. If the whole game
before it is known, the question is its moves, as in the paper; otherwise it is the position, a FEN or a list of pieces.
"""

import hashlib
import heapq
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np

from outgrow.archives import Archive, fetch, known_sha256, unpack
from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.registry import OneOf, Range
from outgrow.runtime import Runtime, cache_folder
from outgrow.tasks.readers import ENDINGS, existing_file, first_line, format_of, no_column, read_rows
from outgrow.tasks.registry import task

if TYPE_CHECKING:
    import chess

__all__ = ["Wording", "chess_puzzles"]

_PYCHESS = Archive(
    package="pychess",
    version="1.0.3-1",
    filename="pychess_1.0.3-1_all.deb",
    sha256="63bd95b5445365566eade8122d64ba3d28e38b167bb791db479654b3291698a5",
    size=10_294_068,
)
"""Debian's package of PyChess: mates from played games, and composed problems."""
_PUZZLES = "usr/share/pychess/learn/puzzles/"
_PLAYED = ("mate_in_2.pgn", "mate_in_3.pgn", "mate_in_4.pgn")
_COMPOSED = (
    *("alekhine", "baird", "benko", "bron", "cheron", "dawson", "horwitz", "kubbel", "lasker", "loyd", "mansfield"),
    *("reti", "troicki", "vukcevich"),
)
_HUB = re.compile(r"hf:([\w-][\w.-]*/[\w-][\w.-]*)@([0-9a-f]{40})")
_UCI = re.compile(r"[a-h][1-8][a-h][1-8][qrbn]?")
_LICHESS = ("PuzzleId", "FEN", "Moves")
_TRANSCRIPT = ("id", "ctx", "target")
_ENDINGS = f"{ENDINGS}, .pgn"


def _content(options: Mapping[str, Any]) -> str:
    if path := options.get("path"):
        file = existing_file(path, _ENDINGS)
        return f"{_format(file)}:{known_sha256(file)}"
    source: str = options["source"]
    if source == "packaged":
        return _PYCHESS.sha256
    if not _HUB.fullmatch(source):
        raise UserError(
            f"source is {source!r}; write 'packaged', or a hub data set pinned to a commit, such as "
            "hf:EleutherAI/lichess-puzzles@COMMIT with 40 digits, or give path='puzzles.csv'"
        )
    return source


def _format(file: Path) -> str:
    return "pgn" if file.suffix.lower() == ".pgn" else format_of(file, _ENDINGS)


@task(
    name="chess-puzzles",
    question="{text}\nIs this the best move (yes or no):",
    words=("no", "yes"),
    content=_content,
    kind="choice",
    rows=4_591,
    licence="packaged: GPL-3+ (fetched, never shipped); Lichess puzzles: CC0; a file: yours",
    source="Debian pychess 1.0.3-1; EleutherAI/lichess-puzzles and Lichess/chess-puzzles on the hub; or your file",
    about="Which move solves the puzzle? One right move among other legal ones, or written out (form='move').",
    archives=(_PYCHESS,),
)
def chess_puzzles(
    *,
    source: str = "packaged",
    path: str | None = None,
    form: Annotated[str, OneOf("choice", "move")] = "choice",
    candidates: Annotated[int, Range(2, len(ascii_uppercase))] = 4,
    position: Annotated[str, OneOf("moves", "fen", "pieces")] = "moves",
    notation: Annotated[str, OneOf("san", "uci")] = "san",
    limit: Annotated[int, Range(1)] = 20_000,
    runtime: Runtime,
) -> Examples:
    """Puzzles, each with the one right move. Related puzzles (same game or same position) form a group.

    Meta columns: ``difficulty`` (Lichess rating, or moves to mate for ``packaged``; NaN if unknown), ``answer`` (the
    right move), ``shown`` (what the question holds: moves, fen or pieces) and, for ``move``, ``allowed`` (every legal
    move, separated by spaces).

    Args:
        source: ``packaged``: mates from played games and composed problems with a proven key move, fetched from a
            Debian package; or a hub data set at a commit: ``hf:EleutherAI/lichess-puzzles@COMMIT``,
            ``hf:Lichess/chess-puzzles@COMMIT`` or one with the same columns. Ignored if there is a path.
        path: a file of your own. A table has either Lichess's columns (PuzzleId, FEN, Moves; Rating, GameUrl or GameId
            if there), where the first move is the opponent's and the second the answer, or the columns id, ctx, target
            (the moves so far and the answer). In a .pgn, a game with a FEN is a puzzle whose answer is its first move,
            and a game from the start one whose answer is its last.
        form: ``choice`` (candidates to score) or ``move`` (an answer to write; only the trainer ``generate`` reads it).
        candidates: moves to choose from; positions with fewer legal moves are left out.
        position: what the question shows: ``moves`` so far if the game is known, otherwise the FEN; ``fen``; or
            ``pieces``, each with its square, White's in upper case, Black's in lower case.
        notation: of all moves: ``san`` (Nf3) or ``uci`` (g1f3).
        limit: at most this many puzzles, drawn by a hash of their ids, before any is left out.

    Raises:
        UserError: one line with file, row and what is wrong: an illegal move, a FEN that is none, a missing column.
    """
    wording = Wording(position=position, notation=notation)
    # The limit holds while reading, so it counts puzzles and not whole groups: a table may hold millions.
    found = enumerate(_found(source, path, runtime))
    drawn = sorted(heapq.nsmallest(limit, found, key=lambda item: _draw(item[1].id)))
    posed = _distinct([_posed(puzzle) for _, puzzle in drawn])
    if not posed:
        raise UserError(f"{path or source} holds no puzzle")
    return _to_write(posed, wording) if form == "move" else _to_choose(posed, wording, candidates, runtime)


# --- a puzzle as text -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How positions and moves are written: see the options of :func:`chess_puzzles`."""

    position: str = "moves"
    notation: str = "san"

    def move(self, board: "chess.Board", move: "chess.Move") -> str:
        """A legal move. SAN comes without + and #, which would give a mating move away."""
        return move.uci() if self.notation == "uci" else board.san(move).rstrip("+#")

    def shows(self, board: "chess.Board") -> str:
        """What a question about this board holds: ``moves`` only if the board was played from the start."""
        import chess

        from_start = board.root().fen() == chess.STARTING_FEN
        return "fen" if self.position == "moves" and not from_start else self.position

    def question(self, board: "chess.Board") -> str:
        """The question that a move answers; the answer follows after a space."""
        match self.shows(board):
            case "moves":
                return self._moves(board)
            case "pieces":
                return self._pieces(board)
            case _:
                return f"FEN: {board.fen()}\n{_turn(board)}"

    def _moves(self, board: "chess.Board") -> str:
        if self.notation == "uci":
            return " ".join(["Moves:", *(move.uci() for move in board.move_stack)])
        so_far = [board.root().variation_san(board.move_stack)] if board.move_stack else []
        return " ".join([*so_far, *([f"{board.fullmove_number}."] if board.turn else [])])

    def _pieces(self, board: "chess.Board") -> str:
        import chess

        pieces = [
            chess.Piece(kind, side).symbol() + chess.SQUARE_NAMES[square]
            for side in (chess.WHITE, chess.BLACK)
            for kind in reversed(chess.PIECE_TYPES)
            for square in board.pieces(kind, side)
        ]
        rights = board.castling_xfen()
        castling = ["castling", *rights] if rights != "-" else []
        passing = (
            ["passing", chess.SQUARE_NAMES[board.ep_square]] if board.ep_square and board.has_legal_en_passant() else []
        )
        return " ".join([*pieces, *castling, *passing, _turn(board)])


def _turn(board: "chess.Board") -> str:
    return "White to move:" if board.turn else "Black to move:"


# --- examples ---------------------------------------------------------------------------------------------------------


class _Puzzle(NamedTuple):
    """One puzzle as it was found; nothing is checked yet."""

    place: str
    """File and row, for messages."""
    id: str
    fen: str | None
    """The position where the moves start; None for a game from its first move."""
    moves: tuple[str, ...]
    """From there to the question, SAN or UCI."""
    answer: str
    game: str | None
    difficulty: float


class _Posed(NamedTuple):
    """A puzzle on the board."""

    puzzle: _Puzzle
    board: "chess.Board"
    answer: "chess.Move"

    @property
    def position(self) -> str:
        """Equal for equal positions, however they came about."""
        return " ".join(self.board.fen().split()[:4])


def _posed(puzzle: _Puzzle) -> _Posed:
    import chess

    try:
        board = chess.Board(puzzle.fen) if puzzle.fen is not None else chess.Board()
    except ValueError as error:
        raise UserError(f"{puzzle.place}: {puzzle.fen!r} is no FEN ({error})") from None
    wrong = board.status() & ~(chess.STATUS_BAD_CASTLING_RIGHTS | chess.STATUS_INVALID_EP_SQUARE)
    if wrong:
        reasons = ", ".join(str(flag.name).lower().replace("_", " ") for flag in chess.Status if flag & wrong)
        raise UserError(f"{puzzle.place}: {puzzle.fen!r} is no position of chess ({reasons})")
    for move in puzzle.moves:
        board.push(_move(board, move, puzzle.place))
    return _Posed(puzzle, board, _move(board, puzzle.answer, puzzle.place))


def _move(board: "chess.Board", text: str, place: str) -> "chess.Move":
    try:
        return board.parse_uci(text) if _UCI.fullmatch(text) else board.parse_san(text)
    except ValueError:
        raise UserError(f"{place}: {text!r} is no legal move in {board.fen()}; correct or drop the row") from None


def _distinct(posed: Sequence[_Posed]) -> list[_Posed]:
    """The first puzzle of each position: the same twice, let alone with two answers, teaches and tests nothing."""
    return list({p.position: p for p in reversed(posed)}.values())[::-1]


def _to_choose(posed: Sequence[_Posed], wording: Wording, candidates: int, runtime: Runtime) -> Examples:
    rows, inputs, gold = [], [], []
    for p in posed:
        wrong = sorted(_wrong(p), key=lambda m: _draw(p.puzzle.id, m.uci()))[: candidates - 1]
        if len(wrong) < candidates - 1:
            continue
        moves = sorted([p.answer, *wrong], key=lambda m: _draw("place", p.puzzle.id, m.uci()))
        asked = wording.question(p.board)
        rows.append(p)
        inputs.append(tuple(f"{asked} {wording.move(p.board, m)}" for m in moves))
        gold.append(moves.index(p.answer))
    if dropped := len(posed) - len(rows):
        runtime.say(
            f"chess-puzzles: {dropped} of {len(posed)} puzzles are left out; they have fewer than {candidates} moves "
            "to choose from"
        )
    if not rows:
        raise UserError(f"no puzzle has {candidates} moves to choose from; ask for fewer candidates")
    return _examples(rows, tuple(inputs), gold, tuple(ascii_uppercase[:candidates]), wording, {})


def _wrong(p: _Posed) -> "list[chess.Move]":
    """Legal moves that are not the answer. If the answer mates, other moves that mate are not wrong either."""
    others = [move for move in p.board.legal_moves if move != p.answer]
    return [move for move in others if not _mates(p.board, move)] if _mates(p.board, p.answer) else others


def _mates(board: "chess.Board", move: "chess.Move") -> bool:
    board.push(move)
    mate = board.is_checkmate()
    board.pop()
    return mate


def _to_write(posed: Sequence[_Posed], wording: Wording) -> Examples:
    asked = tuple(wording.question(p.board) for p in posed)
    allowed = [" ".join(sorted(wording.move(p.board, m) for m in p.board.legal_moves)) for p in posed]
    # One class, which every row has: a split has nothing to balance, and the answer is a text.
    return _examples(posed, asked, [0] * len(posed), ("move",), wording, {"allowed": np.array(allowed, dtype=np.str_)})


def _examples(
    rows: Sequence[_Posed],
    inputs: tuple[Any, ...],
    gold: Sequence[int],
    classes: tuple[str, ...],
    wording: Wording,
    meta: Mapping[str, Any],
) -> Examples:
    return Examples(
        ids=np.array([p.puzzle.id for p in rows], dtype=np.str_),
        inputs=inputs,
        gold=np.array(gold, dtype=np.int64),
        classes=classes,
        groups=np.array(_groups(rows), dtype=np.str_),
        meta={
            "difficulty": np.array([p.puzzle.difficulty for p in rows], dtype=np.float64),
            "answer": np.array([wording.move(p.board, p.answer) for p in rows], dtype=np.str_),
            "shown": np.array([wording.shows(p.board) for p in rows], dtype=np.str_),
            **meta,
        },
    )


def _groups(rows: Sequence[_Posed]) -> list[str]:
    """For each row the id of the first of its game; positions differ already (:func:`_distinct`)."""
    first: dict[str, str] = {}
    return [p.puzzle.id if p.puzzle.game is None else first.setdefault(p.puzzle.game, p.puzzle.id) for p in rows]


def _draw(*parts: str) -> bytes:
    """A number that depends on these words alone: the same in every process and on every machine."""
    return hashlib.sha256(" ".join(parts).encode()).digest()


# --- where puzzles come from ------------------------------------------------------------------------------------------


def _found(source: str, path: str | None, runtime: Runtime) -> Iterator[_Puzzle]:
    if path is not None:
        file = existing_file(path, _ENDINGS)
        return _pgn_puzzles(file) if _format(file) == "pgn" else _table_puzzles(file)
    if match := _HUB.fullmatch(source):
        return (puzzle for file in _from_hub(match[1], match[2], runtime) for puzzle in _table_puzzles(file))
    return _packaged(runtime)


def _from_hub(repo: str, revision: str, runtime: Runtime) -> list[Path]:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = huggingface_hub.snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns="*.parquet", local_files_only=runtime.offline
        )
    except (OSError, HfHubHTTPError) as error:
        reason = "it is not in the hub's cache and fetching is off" if runtime.offline else first_line(error)
        raise UserError(
            f"could not get {repo} at {revision} from the hub: {reason}; fetch it where the hub can be reached, "
            "or give the path of a file"
        ) from error
    files = sorted(Path(folder).rglob("*.parquet"))
    if not files:
        raise UserError(f"{repo} at {revision} holds no .parquet file")
    return files


# Tables ---------------------------------------------------------------------------------------------------------------


def _table_puzzles(file: Path) -> Iterator[_Puzzle]:
    """Puzzles of a table with Lichess's columns (of any year) or with transcripts."""
    for row in read_rows(file, lambda there: _columns(there, file)):
        make = _lichess if "PuzzleId" in row.values else _transcript
        yield make(row.values, f"{file}, {row.place}")


def _columns(there: Sequence[str], file: Path) -> list[str]:
    needed = _LICHESS if any(name in there for name in _LICHESS) else _TRANSCRIPT
    for name in needed:
        if name not in there:
            either = f"a table of puzzles has {', '.join(_LICHESS)} as Lichess's, or {', '.join(_TRANSCRIPT)}"
            raise UserError(f"{no_column(str(file), there, name)}; {either}")
    return [name for name in there if name in (*needed, "Rating", "GameId", "GameUrl")]


def _lichess(row: Mapping[str, Any], place: str) -> _Puzzle:
    moves = _text(row, "Moves", place).split()
    if len(moves) < 2:
        raise UserError(f"{place}, column 'Moves': {row['Moves']!r} needs the opponent's move and the answer")
    rating = row.get("Rating")
    try:
        difficulty = float(rating) if rating not in (None, "") else math.nan
    except ValueError:
        raise UserError(f"{place}, column 'Rating': {rating!r} is no number") from None
    game = row.get("GameId") or _game_of(row.get("GameUrl"))
    return _Puzzle(
        place, _text(row, "PuzzleId", place), _text(row, "FEN", place), (moves[0],), moves[1], game, difficulty
    )


def _game_of(url: str | None) -> str | None:
    """``4MWQCxQ6`` of ``https://lichess.org/4MWQCxQ6/black#31``."""
    match = re.search(r"lichess\.org/(\w{8})", url or "")
    return match[1] if match else None


def _transcript(row: Mapping[str, Any], place: str) -> _Puzzle:
    moves = re.sub(r"\d+\.+", " ", _text(row, "ctx", place)).split()
    answer = _text(row, "target", place).strip()
    return _Puzzle(place, _text(row, "id", place), None, tuple(moves), answer, None, math.nan)


def _text(row: Mapping[str, Any], column: str, place: str) -> str:
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}, column {column!r}: {value!r} is no text; correct or drop the row")
    return value


# Games ----------------------------------------------------------------------------------------------------------------


def _pgn_puzzles(file: Path, name: str = "", encoding: str = "utf-8-sig") -> Iterator[_Puzzle]:
    """A game with a FEN asks for its first move, a game from the start for its last."""
    import chess.pgn

    class Strict(chess.pgn.GameBuilder[chess.pgn.Game]):
        def handle_error(self, error: Exception) -> None:
            raise error

    number = 0
    with file.open(encoding=encoding) as lines:
        while True:
            number += 1
            place = f"{file}, game {number}"
            try:
                game = chess.pgn.read_game(lines, Visitor=Strict)
            except UnicodeDecodeError as error:
                raise UserError(f"{file} is not {encoding} ({error.reason}); save it as UTF-8") from None
            except ValueError as error:
                raise UserError(f"{place}: {error}; correct or drop the game") from None
            if game is None:
                return
            moves = [move.uci() for move in game.mainline_moves()]
            if not moves:
                raise UserError(f"{place} has no moves; is the file a PGN?")
            fen = game.headers.get("FEN")
            mate = re.fullmatch(r"mate in (\d+)", game.headers.get("Termination", ""))
            before, answer = (moves[:-1], moves[-1]) if fen is None else ([], moves[0])
            difficulty = float(mate[1]) if mate else math.nan
            yield _Puzzle(place, f"{name or file.stem}-{number}", fen, tuple(before), answer, None, difficulty)


# PyChess --------------------------------------------------------------------------------------------------------------


def _packaged(runtime: Runtime) -> Iterator[_Puzzle]:
    archive = fetch(_PYCHESS, offline=runtime.offline, needed_by="chess-puzzles", say=runtime.say)
    wanted = [_PUZZLES + name for name in (*_PLAYED, *(f"{c}.olv" for c in _COMPOSED))]
    folder = unpack(archive, wanted, cache_folder() / "data" / f"pychess-{_PYCHESS.sha256[:16]}", max_bytes=20_000_000)
    for name in _PLAYED:
        yield from _pgn_puzzles(folder / _PUZZLES / name, name.removesuffix(".pgn"), encoding="latin-1")
    for composer in _COMPOSED:
        yield from _problems(folder / _PUZZLES / f"{composer}.olv")


_KEY = re.compile(r"(?<![.\d])1\.\s*([KQRBSNa-hO0][\w*x=-]*)(?:\[\w+\])?\s*\+?\s*!{1,2}(?![?!])")
"""``1.Kd2!``, ``1.Qc4!!``, ``1.Kd1[D]!``, ``1.Qf4-f5 !``, ``1.a2-a3 + !``; not ``1.Qa8?`` (a try), nor ``1...Kd4!``."""


def _problems(file: Path) -> Iterator[_Puzzle]:
    """Composed direct mates with White to move whose solution marks exactly one first move with ``!``, the key.

    Others (studies, helpmates, several solutions, notes instead of moves) are skipped, and so are documents that are
    not YAML: comments with stray backslashes.
    """
    import yaml

    documents = re.split(r"^---$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for number, document in enumerate(documents, 1):
        try:
            problem = yaml.load(document, yaml.CSafeLoader) or {}
        except yaml.YAMLError:
            continue
        mate = re.fullmatch(r"#(\d+)", str(problem.get("stipulation", "")))
        keys = {_english(key) for key in _KEY.findall(str(problem.get("solution", "")))}
        if mate and len(keys) == 1:
            puzzle = _problem(problem["algebraic"], keys.pop())
            if puzzle:
                fen, answer = puzzle
                place = f"{file}, problem {number}"
                yield _Puzzle(place, f"{file.stem}-{number}", fen, (), answer, None, float(mate[1]))


def _english(key: str) -> str:
    """Problemists write S (Springer) for a knight and * for a capture."""
    return re.sub("S", "N", key).replace("*", "x")


def _problem(pieces: Mapping[str, Any], key: str) -> tuple[str, str] | None:
    """FEN and key (UCI) of a problem; None if the diagram is no position or the key is not legal in it."""
    import chess

    board = chess.Board(None)
    named = [(side, name) for side, names in pieces.items() for name in names or []]
    for side, name in named:
        if side not in ("white", "black") or not re.fullmatch("[KQRBSP][a-h][1-8]", name):
            return None  # a grasshopper, or a neutral piece
        kind = chess.PIECE_SYMBOLS.index(_english(name[0]).lower())
        board.set_piece_at(chess.parse_square(name[1:]), chess.Piece(kind, side == "white"))
    if board.status():
        return None
    board.set_castling_fen("KQkq")  # the convention of problems: castling is legal unless disproved
    board.castling_rights = board.clean_castling_rights()
    try:
        return board.fen(), board.parse_san(key).uci()
    except ValueError:
        return None
