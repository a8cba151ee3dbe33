import csv
from pathlib import Path
from typing import Any

import chess
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outgrow.data import Examples
from outgrow.errors import UserError
from outgrow.runtime import Runtime
from outgrow.tasks import TaskSpec, load, split_examples
from outgrow.tasks.catalogue.chess_puzzles import Wording, _posed, _problems
from outgrow.tasks.splits import Sizes

ROWS = Path(__file__).parents[1] / "rows"
LICHESS = ROWS / "lichess_puzzles.csv"
HEADER = "PuzzleId,FEN,Moves,Rating,GameUrl\n"
FOOLS_MATE = "rnbqkbnr/pppp1ppp/4p3/8/6P1/5P2/PPPPP2P/RNBQKBNR b KQkq - 0 2"


def read(**options: Any) -> Examples:
    return load(TaskSpec.of("chess-puzzles", **options), Runtime(say=lambda line: None))


def write(folder: Path, text: str, name: str = "puzzles.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


@st.composite
def boards(draw: st.DrawFn, longest: int = 60) -> chess.Board:
    """A board after random legal moves from the start, with at least one legal move left."""
    board = chess.Board()
    for number in draw(st.lists(st.integers(0, 10_000), max_size=longest)):
        moves = list(board.legal_moves)
        board.push(moves[number % len(moves)])
        if board.is_game_over():
            board.pop()
            break
    return board


# --- moves and positions as text ------------------------------------------------------------------------------------


@given(boards())
def test_written_moves_are_read_back_and_tell_nothing_of_mate(board: chess.Board) -> None:
    for notation in ("san", "uci"):
        wording = Wording(notation=notation)
        written = {wording.move(board, move): move for move in board.legal_moves}
        assert len(written) == board.legal_moves.count()
        for text, move in written.items():
            assert "+" not in text
            assert "#" not in text
            assert (board.parse_uci(text) if notation == "uci" else board.parse_san(text)) == move


@given(boards())
def test_a_question_of_moves_leads_to_the_position_again(board: chess.Board) -> None:
    text = Wording().question(board)
    again = chess.Board()
    for word in text.split():
        if not word.endswith("."):
            again.push_san(word)
    assert again == board
    if board.turn:
        assert text.endswith(f"{board.fullmove_number}.")


@given(boards())
def test_a_list_of_pieces_tells_the_whole_position(board: chess.Board) -> None:
    words = Wording(position="pieces", notation="uci").question(board).split()
    pieces = {w[1:]: w[0] for w in words if len(w) == 3 and w[0] in "KQRBNPkqrbnp"}
    assert pieces == {chess.SQUARE_NAMES[s]: p.symbol() for s, p in board.piece_map().items()}
    assert words[-3:] == [("White" if board.turn else "Black"), "to", "move:"]
    rights = {w for w in words if len(w) == 1}
    assert rights == set(board.castling_xfen()) - {"-"}
    assert ("passing" in words) == board.has_legal_en_passant()


def test_a_question_without_the_game_shows_the_fen() -> None:
    board = chess.Board(FOOLS_MATE)
    assert Wording().question(board) == f"FEN: {FOOLS_MATE}\nBlack to move:"
    assert Wording().shows(board) == "fen"
    assert Wording().shows(chess.Board()) == "moves"
    assert Wording().question(chess.Board()) == "1."


# --- tables -----------------------------------------------------------------------------------------------------------


def test_the_second_move_of_lichess_is_the_answer() -> None:
    data = read(path=str(LICHESS))
    with LICHESS.open() as lines:
        rows = {row["PuzzleId"]: row for row in csv.DictReader(lines)}
    assert set(data.ids) == set(rows)
    for i, (name, choices) in enumerate(zip(data.ids, data.inputs, strict=True)):
        assert isinstance(choices, tuple)
        board = chess.Board(rows[name]["FEN"])
        opponent, answer = rows[name]["Moves"].split()[:2]
        board.push_uci(opponent)
        assert data.gold is not None
        right = choices[data.gold[i]]
        assert right.startswith(f"FEN: {board.fen()}\n")
        assert board.parse_san(right.split()[-1]) == chess.Move.from_uci(answer)
        candidates = [board.parse_san(text.split()[-1]) for text in choices]
        assert len(set(candidates)) == 4  # all legal, all different, or python-chess would object
        assert data.meta["difficulty"][i] == float(rows[name]["Rating"])
        assert data.meta["shown"][i] == "fen"


def test_puzzles_of_one_game_are_one_group() -> None:
    data = read(path=str(LICHESS))
    with LICHESS.open() as lines:
        games = {row["PuzzleId"]: row["GameUrl"].split("/")[3].split("#")[0] for row in csv.DictReader(lines)}
    same = np.array([[games[a] == games[b] for a in data.ids] for b in data.ids])
    np.testing.assert_array_equal(same, data.groups[:, None] == data.groups[None])
    assert len(set(data.groups)) < len(data)


def test_both_schemas_of_lichess_give_the_same(tmp_path: Path) -> None:
    with LICHESS.open() as lines:
        rows = list(csv.DictReader(lines))
    new = {
        "PuzzleId": pa.array([r["PuzzleId"] for r in rows], pa.large_string()),
        "GameId": [r["GameUrl"].split("/")[3].split("#")[0] for r in rows],
        "FEN": pa.array([r["FEN"] for r in rows], pa.large_string()),
        "Moves": pa.array([r["Moves"] for r in rows], pa.large_string()),
        "Rating": pa.array([int(r["Rating"]) for r in rows], pa.uint16()),
        "Themes": [["short"] for _ in rows],
    }
    pq.write_table(pa.table(new), tmp_path / "new.parquet")
    old, other = read(path=str(LICHESS)), read(path=str(tmp_path / "new.parquet"))
    assert old.inputs == other.inputs
    for column in ("ids", "gold", "groups"):
        np.testing.assert_array_equal(getattr(old, column), getattr(other, column))


def test_a_compressed_table_gives_the_same(tmp_path: Path) -> None:
    plain = LICHESS.read_bytes()
    for ending, codec in (("gz", "gzip"), ("zst", "zstd")):
        with pa.output_stream(tmp_path / f"p.csv.{ending}", compression=codec) as stream:
            stream.write(plain)
        assert read(path=str(tmp_path / f"p.csv.{ending}")).inputs == read(path=str(LICHESS)).inputs


def test_a_transcript_shows_the_moves_so_far(tmp_path: Path) -> None:
    path = write(tmp_path, "id,ctx,target\na,1. f3 e5 2. g4, Qh4#\nb,1. e4 e5 2. Nf3 Nc6 3., Bb5\n")
    data = read(path=path, form="move")
    assert dict(zip(data.ids, data.inputs, strict=True)) == {"a": "1. f3 e5 2. g4", "b": "1. e4 e5 2. Nf3 Nc6 3."}
    assert dict(zip(data.ids, data.meta["answer"], strict=True)) == {"a": "Qh4", "b": "Bb5"}
    assert set(data.meta["shown"]) == {"moves"}
    uci = read(path=path, form="move", notation="uci")
    assert uci.inputs[list(uci.ids).index("a")] == "Moves: f2f3 e7e5 g2g4"


def test_a_pgn_asks_for_the_first_move_after_a_fen_and_for_the_last_of_a_game(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f'[Event "puzzle"]\n[SetUp "1"]\n[FEN "{FOOLS_MATE}"]\n[Termination "mate in 1"]\n\n1... Qh4# 0-1\n\n'
        '[Event "game"]\n\n1. e4 e5 2. Qh5 Nc6 3. Bc4 Nf6 4. Qxf7# 1-0\n',
        "mine.pgn",
    )
    data = read(path=path, form="move")
    assert list(data.ids) == ["mine-1", "mine-2"]
    assert list(data.meta["answer"]) == ["Qh4", "Qxf7"]
    assert list(data.meta["shown"]) == ["fen", "moves"]
    assert data.inputs[1] == "1. e4 e5 2. Qh5 Nc6 3. Bc4 Nf6 4."
    assert data.meta["difficulty"][0] == 1


# --- the draw ---------------------------------------------------------------------------------------------------------


def test_candidates_do_not_depend_on_other_rows(tmp_path: Path) -> None:
    lines = LICHESS.read_text().splitlines(keepends=True)
    whole = read(path=str(LICHESS))
    part = read(path=write(tmp_path, "".join([lines[0], *reversed(lines[3:9])])))
    known = dict(zip(whole.ids, whole.inputs, strict=True))
    assert len(part) == 6
    assert all(known[name] == choices for name, choices in zip(part.ids, part.inputs, strict=True))


def test_the_right_move_is_in_every_place() -> None:
    data = read(path=str(LICHESS), candidates=2)
    assert set(data.gold.tolist() if data.gold is not None else []) == {0, 1}
    assert data.classes == ("A", "B")


def test_another_mate_is_never_offered_as_wrong() -> None:
    fen = "7k/R7/8/8/8/8/8/1Q5K w - - 0 1"  # Qb8 mates, and so does Qh7
    board = chess.Board(fen)
    mates = [m for m in board.legal_moves if board.san(m).endswith("#")]
    assert len(mates) > 1
    from outgrow.tasks.catalogue.chess_puzzles import _Puzzle, _wrong

    posed = _posed(_Puzzle("here", "a", fen, (), mates[0].uci(), None, 1.0))
    assert not set(mates) & set(_wrong(posed))


def test_positions_with_too_few_moves_are_left_out_and_counted(tmp_path: Path) -> None:
    few = "x,7k/8/8/8/8/6q1/P7/7K b - - 0 1,h8g7 a2a3,900,,,,,,\n"
    path = write(tmp_path, LICHESS.read_text() + few)
    said: list[str] = []
    data = load(TaskSpec.of("chess-puzzles", path=path), Runtime(say=said.append))
    assert "x" not in data.ids
    assert len(data) == len(read(path=str(LICHESS)))
    assert any(f"1 of {len(data) + 1} puzzles are left out" in line for line in said)
    assert "x" in read(path=path, form="move").ids


def test_limit_draws_the_same_puzzles_whatever_their_order(tmp_path: Path) -> None:
    lines = LICHESS.read_text().splitlines(keepends=True)
    turned = write(tmp_path, "".join([lines[0], *reversed(lines[1:])]))
    a, b = read(path=str(LICHESS), limit=5), read(path=turned, limit=5)
    assert len(a) == 5
    assert set(a.ids) == set(b.ids)


def test_the_same_position_twice_is_one_puzzle(tmp_path: Path) -> None:
    lines = LICHESS.read_text().splitlines(keepends=True)
    path = write(tmp_path, "".join([*lines, "again," + lines[1].partition(",")[2]]))
    assert len(read(path=path)) == len(lines) - 1


def test_written_answers_are_among_the_legal_moves_and_can_be_split() -> None:
    data = read(path=str(LICHESS), form="move", position="pieces", notation="uci")
    for answer, allowed in zip(data.meta["answer"], data.meta["allowed"], strict=True):
        assert answer in allowed.split()
    assert data.classes == ("move",)
    parts = split_examples(data, Sizes(supervisor=6, transfer=6, test=6), 0).parts
    assert [len(parts[p]) for p in ("A", "A_val", "B", "B_val", "T")] == [5, 1, 5, 1, 6]
    assert "answer" not in data.without_gold().meta


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a,not a fen,e2e4 e7e5,1000,\n", "line 2: 'not a fen' is no FEN"),
        ("a,8/8/8/8/8/8/8/K7 w - - 0 1,a1a2 a2a3,1000,\n", "is no position of chess (no black king"),
        (f"a,{FOOLS_MATE},d8h5 e1e2,1000,\n", "line 2: 'd8h5' is no legal move in"),
        (f"a,{FOOLS_MATE},d8h4,1000,\n", "column 'Moves': 'd8h4' needs the opponent's move and the answer"),
        (f"a,{FOOLS_MATE},zz yy,1000,\n", "'zz' is no legal move"),
        (f"a,{FOOLS_MATE},d7d5 e2e4,strong,\n", "column 'Rating': 'strong' is no number"),
        (f",{FOOLS_MATE},d7d5 e2e4,1000,\n", "column 'PuzzleId': '' is no text"),
        (f"a,{FOOLS_MATE}\n", "line 2: 2 fields where the header has 5"),
        ("", "holds no puzzle"),
    ],
)
def test_a_mistake_in_a_table_is_one_line_with_its_place(tmp_path: Path, rows: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read(path=write(tmp_path, HEADER + rows))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[Event "x"]\n\n1. e4 e5 2. Ke3 *\n', "game 1: illegal san: 'Ke3'"),
        ('[Event "x"]\n[FEN "nonsense"]\n[SetUp "1"]\n\n1. e4 *\n', "game 1: "),
        ('[Event "x"]\n\n*\n', "game 1 has no moves"),
        ("", "holds no puzzle"),
    ],
)
def test_a_mistake_in_a_pgn_is_one_line_with_its_game(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read(path=write(tmp_path, text, "mine.pgn"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_puzzles_of_the_hub_that_are_not_here_while_offline_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    spec = TaskSpec.of("chess-puzzles", source=f"hf:EleutherAI/lichess-puzzles@{'0' * 40}")
    with pytest.raises(UserError, match=r"not in the hub.s cache and fetching is off; .* or give the path of a file"):
        load(spec, Runtime(offline=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"source": "lichess"}, "write 'packaged', or a hub data set pinned to a commit"),
        ({"source": "hf:EleutherAI/lichess-puzzles"}, "pinned to a commit"),
        (
            {"path": "nowhere.csv"},
            "nowhere.csv does not exist; give the path of a file of .*: .csv, .*, .pgn",
        ),
        ({"path": __file__}, "'.py' files cannot be read; give a file of one of these kinds: .csv, .*, .pgn"),
        ({"path": str(LICHESS), "form": "moves"}, "did you mean move"),
        ({"path": str(LICHESS), "position": "board"}, "unknown position"),
        ({"path": str(LICHESS), "notation": "pgn"}, "unknown notation"),
        ({"path": str(LICHESS), "candidates": 1}, "candidates of task chess-puzzles is 1; it must lie in"),
        ({"path": str(LICHESS), "limit": 1, "candidates": 26}, "ask for fewer candidates"),
        ({"path": str(LICHESS), "limit": 0}, "limit of task chess-puzzles is 0; it must lie at 1 or above"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(**options)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column 'Moves'"):
        read(path=write(tmp_path, "PuzzleId,FEN\na,b\n"))
    with pytest.raises(UserError, match="no column 'id'"):
        read(path=write(tmp_path, "text,label\na,b\n"))
    pq.write_table(pa.table({"id": ["a"], "ctx": ["1."]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="no column 'target'"):
        read(path=str(tmp_path / "x.parquet"))
    (tmp_path / "y.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read(path=str(tmp_path / "y.parquet"))
    (tmp_path / "z.csv").write_bytes(b"PuzzleId,FEN,Moves\n\xff\xfe,b,c\n")
    with pytest.raises(UserError, match=r"z\.csv, line 2: byte 0xff is not utf-8; save it as utf-8$"):
        read(path=str(tmp_path / "z.csv"))


# --- composed problems ------------------------------------------------------------------------------------------------

PROBLEM = """---
authors:
  - Nobody
algebraic:
  white: [{white}]
  black: [{black}]
stipulation: "{stipulation}"
solution: |
  "{solution}"
"""


def problems(tmp_path: Path, **changed: str) -> list[Any]:
    fields = {"white": "Kf6, Qb1, Sa1", "black": "Kh8", "stipulation": "#2", "solution": "1.Qb1-b7 ! zz"} | changed
    file = tmp_path / "nobody.olv"
    file.write_text(PROBLEM.format(**fields), encoding="utf-8")
    return list(_problems(file))


@pytest.mark.parametrize(
    ("solution", "key"),
    [
        ("1.Qb1-b7 ! zz", "b1b7"),
        ("1.Qb7! zz\n   1...Kg8! 2.Qg7#", "b1b7"),
        ("1.Qa2? (2.Qg8#)\n  but 1...Kh7!\n  1.Qb7!! zz", "b1b7"),
        ("1.Sa1-b3 ! threat", "a1b3"),
        ("1.Nb3[A]! zz", "a1b3"),
        ("1.Qb1-h1 + ! Kg8", "b1h1"),
    ],
)
def test_the_key_of_a_problem_is_found(tmp_path: Path, solution: str, key: str) -> None:
    (puzzle,) = problems(tmp_path, solution=solution)
    assert puzzle.answer == key
    assert puzzle.difficulty == 2
    assert puzzle.id == "nobody-1"
    assert _posed(puzzle).board.turn


@pytest.mark.parametrize(
    "changed",
    [
        {"stipulation": "h#2"},
        {"stipulation": "+"},
        {"solution": "1.Qb7! zz\n  1.Qb8! zz"},
        {"solution": "1...Kg8!"},
        {"solution": "1.Qb1-a8 !"},
        {"white": "Kf6, Gb1"},
        {"white": "Kf6, Kf5, Qb1"},
        {"solution": "1.Qb7!", "black": "Kh8: unclosed ["},
    ],
)
def test_what_is_no_proven_direct_mate_is_passed_over(tmp_path: Path, changed: dict[str, str]) -> None:
    assert problems(tmp_path, **changed) == []
