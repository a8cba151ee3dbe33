"""A ladder of chess models made from nothing but games, and weak-to-strong on chess puzzles with it.

    python experiments/chess_ladder.py --folder chess-ladder            (needs Stockfish: apt-get install stockfish)
    python experiments/chess_ladder.py --folder chess-ladder --pgn my-games.pgn

Stockfish plays itself at four strengths (or the games are yours); three small GPT-2s learn to write the move that was
played (UCI) after the list of pieces; what they can do is measured on games they have not seen; then each weaker one
supervises each stronger one on puzzles, by probes that choose among four moves and by the paper's generative recipe.
Every stage keeps what it has done: a killed run goes on. About an hour and a half on two busy cores. Expected: 6 to
10 % legal moves, so no ladder worth the name, and PGR undefined; see docs/chess.md, docs/log.md, and --epochs for more.
"""

import argparse
import json
import random
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from outgrow import Experiment, Runtime, sweep
from outgrow.tasks.catalogue.chess_puzzles import Wording

if TYPE_CHECKING:
    import chess
    import chess.engine

NODES = (100, 300, 1000, 3000)
"""Strengths: nodes a move that Stockfish may look at; each side of each game draws one."""
OPENING_PLIES = (2, 10)
"""Random legal moves that open each game, so that no two are alike; none of them is ever learned."""
MAX_PLIES = 160
HELD_OUT_GAMES = 50
WORDING = Wording(position="pieces", notation="uci")
TASK = "position='pieces', notation='uci'"


class Size(NamedTuple):
    """One rung of the ladder."""

    width: int
    layers: int


SIZES = {"small": Size(32, 1), "medium": Size(64, 2), "large": Size(128, 3)}
"""0.05, 0.16 and 0.71 million parameters: what two busy cores train in half an hour."""


# --- games ------------------------------------------------------------------------------------------------------------


def make_games(file: Path, engine_path: str, count: int, seed: int) -> None:
    """Stockfish against itself until ``file`` holds ``count`` games; what is there is kept, so a killed run goes on.

    Game i depends on ``seed`` and i alone: random opening moves, then a fixed number of nodes a move, one thread, a
    cleared hash table; the same build of the engine plays it the same.
    """
    import chess.engine

    done = _num_games(file)
    if done >= count:
        return
    with chess.engine.SimpleEngine.popen_uci(engine_path) as engine, file.open("a", encoding="utf-8") as out:
        engine.configure({"Threads": 1, "Hash": 16})
        for number in range(done, count):
            out.write(_game(engine, seed, number))
            out.flush()
            if (number + 1) % 100 == 0:
                print(f"{number + 1} of {count} games", file=sys.stderr)


def _num_games(file: Path) -> int:
    """Whole games in the file; half a game at its end, which a kill leaves, is cut off."""
    if not file.exists():
        return 0
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n\n\n") + 3] if "\n\n\n" in text else ""
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    return whole.count("\n\n\n")


def _game(engine: "chess.engine.SimpleEngine", seed: int, number: int) -> str:
    import chess
    import chess.engine
    import chess.pgn

    rng = random.Random(f"{seed}-{number}")
    board = chess.Board()
    nodes = {chess.WHITE: rng.choice(NODES), chess.BLACK: rng.choice(NODES)}
    for _ in range(rng.randint(*OPENING_PLIES)):
        moves = sorted(board.legal_moves, key=chess.Move.uci)
        if moves:
            board.push(rng.choice(moves))
    opening = board.ply()
    while not board.is_game_over(claim_draw=True) and board.ply() < MAX_PLIES:
        played = engine.play(board, chess.engine.Limit(nodes=nodes[board.turn]), game=number).move
        assert played is not None
        board.push(played)
    game = chess.pgn.Game.from_board(board)
    game.headers.update(
        Event="Self-play",
        Round=str(number),
        White=f"Stockfish, {nodes[chess.WHITE]} nodes",
        Black=f"Stockfish, {nodes[chess.BLACK]} nodes",
        OpeningPlies=str(opening),
    )
    return f"{game}\n\n\n"


class Position(NamedTuple):
    """One position of a game, and what was played."""

    fen: str
    question: str
    move: str


def positions_of(pgn: Path, games: int) -> tuple[list[Position], list[Position]]:
    """Positions to learn from, and those of the first ``HELD_OUT_GAMES`` games, whose positions the others never hold.

    Lost games of the weaker side are kept: moves as they were played, as in the paper.
    """
    import chess.pgn

    train: list[Position] = []
    held_out: list[Position] = []
    with pgn.open(encoding="utf-8") as lines:
        for number in range(games):
            game = chess.pgn.read_game(lines)
            if game is None:
                break
            board = game.board()
            for ply, move in enumerate(game.mainline_moves()):
                if ply >= int(game.headers.get("OpeningPlies", 0)):
                    position = Position(board.fen(), WORDING.question(board), WORDING.move(board, move))
                    (held_out if number < HELD_OUT_GAMES else train).append(position)
                board.push(move)
    unseen = {p.question for p in held_out}
    return [p for p in train if p.question not in unseen], held_out


# --- models -----------------------------------------------------------------------------------------------------------


def save_start(folder: Path, size: Size, seed: int) -> None:
    """A GPT-2 with random weights and a tokenizer whose words are pieces on squares, squares, and little else."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    squares = [f"{file}{rank}" for rank in range(1, 9) for file in "abcdefgh"]
    words = [*"KQkqrbn", "castling", "passing", "White", "Black", "to", "move:"]
    words += [piece + square for piece in "KQRBNPkqrbnp" for square in squares] + squares
    ids = {word: i for i, word in enumerate(["<end>", "<unknown>", *words])}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unknown>"))
    cut = pre_tokenizers.Split(Regex("[KQRBNPkqrbnp][a-h][1-8]|[a-h][1-8]"), "isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), cut])
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", unk_token="<unknown>")
    config = GPT2Config(
        vocab_size=len(ids),
        n_positions=64,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.width // 32,
        bos_token_id=0,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_model(folder: Path, size: Size, train: list[Position], epochs: int, seed: int) -> None:
    """Train a model and save it as a folder that ``--ladder`` takes; checkpoints lie beside it until it is done."""
    from outgrow.models.transformer import load_language_model
    from outgrow.train.lm import finetune_lm
    from outgrow.train.model import set_trained
    from outgrow.train.settings import GenerateSettings

    if (folder / "trained.json").exists():
        return
    start = folder.with_name(folder.name + ".start")
    save_start(start, size, seed)
    settings = GenerateSettings(epochs=epochs, lr=1e-3, batch_size=32, weight_decay=0.01, max_tokens=64, max_answer=4)
    runtime = Runtime(scratch=folder.with_name(folder.name + ".scratch"), report=partial(_report, folder.name))
    prompts, answers = [p.question for p in train], [p.move for p in train]
    fitted = finetune_lm(start, prompts, answers, settings, seed, runtime)
    model = load_language_model(start)
    set_trained(model, fitted.state)
    shutil.copytree(start, folder, dirs_exist_ok=True)
    model.save_pretrained(folder)
    (folder / "trained.json").write_text(json.dumps({"positions": len(train), "history": fitted.history}))
    shutil.rmtree(start)
    shutil.rmtree(folder.with_name(folder.name + ".scratch"), ignore_errors=True)


def _report(name: str, done: int, total: int, unit: str) -> None:
    if done % 200 == 0 or done == total:
        print(f"{name}: {done} of {total} {unit}", file=sys.stderr)


def strength(folder: Path, held_out: list[Position]) -> dict[str, float]:
    """Shares of held-out positions where the model writes a legal move, and the move that was played."""
    import chess

    from outgrow.train.lm import decode
    from outgrow.train.settings import GenerateSettings

    moves = decode(
        folder, None, [p.question for p in held_out], GenerateSettings(max_tokens=64, max_answer=4), Runtime()
    )
    legal = [move in {m.uci() for m in chess.Board(p.fen).legal_moves} for p, move in zip(held_out, moves, strict=True)]
    same = [move == p.move for p, move in zip(held_out, moves, strict=True)]
    return {"positions": len(same), "legal": sum(legal) / len(legal), "as_played": sum(same) / len(same)}


# --- weak to strong ---------------------------------------------------------------------------------------------------


def experiments(models: list[str], puzzles: str | None, seeds: int) -> list[Experiment]:
    """Every weaker model supervises every stronger one: probes on four candidates, and written moves."""
    where = f"path={puzzles!r}, " if puzzles else ""
    base = Experiment(seeds=tuple(range(seeds)))
    pairs = [(weak, strong) for i, weak in enumerate(models) for strong in models[i + 1 :]]
    found = []
    for weak, strong in pairs:
        pair = replace(base, weak=weak, strong=strong)
        probed = replace(pair, task=f"chess-puzzles({where}{TASK})", train="probe(max_tokens=64)")
        found += [replace(probed, strategy=s) for s in ("naive", "confidence", "shuffled")]
        written = f"chess-puzzles({where}form='move', {TASK})"
        generate = "generate(lr=3e-4, max_tokens=64, max_answer=4)"
        found.append(replace(pair, task=written, train=generate, strategy="naive"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("chess-ladder"), help="where everything is kept")
    parser.add_argument("--pgn", type=Path, help="games of your own, in place of Stockfish's")
    parser.add_argument(
        "--engine", default=shutil.which("stockfish") or "/usr/games/stockfish", help="path of Stockfish"
    )
    parser.add_argument("--games", type=int, default=1200)
    parser.add_argument("--positions", type=int, default=50_000, help="to learn from, drawn from the games")
    parser.add_argument("--epochs", type=int, default=1, help="passes over them")
    parser.add_argument("--puzzles", help="a table of puzzles (Lichess's columns); else the packaged ones")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=["games", "models"], help="stop after this stage")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    pgn = given.pgn or given.folder / "games.pgn"
    if not given.pgn:
        make_games(pgn, given.engine, given.games, seed=0)
    if given.only == "games":
        return
    train, held_out = positions_of(pgn, given.games)
    train = random.Random(0).sample(train, min(given.positions, len(train)))
    for name, size in SIZES.items():
        train_model(given.folder / name, size, train, given.epochs, seed=0)
        print(name, size, {"learned_from": len(train)} | strength(given.folder / name, held_out), flush=True)
    if given.only == "models":
        return
    models = [str((given.folder / name).resolve()) for name in SIZES]
    columns = [
        "task",
        "weak",
        "strong",
        "strategy",
        "weak_accuracy",
        "student_accuracy",
        "ceiling_accuracy",
        "gain",
        "pgr",
    ]
    print(sweep(experiments(models, given.puzzles, given.seeds), str(given.folder / "store")).select(columns))


if __name__ == "__main__":
    main()
