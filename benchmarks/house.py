"""The size and shape of the library, measured from its source: what a newcomer has to read.

    python benchmarks/house.py [CHECKOUT ...]

One column for each checkout (this one where none is named), so that an edition stands beside the one before. Counts are
of ``src/outgrow``: its files, the lines with and without comments and docstrings, functions, and which parts import
which. A part is a module at the top or a folder. ``frames`` are those of the package between ``outgrow run --train
finetune`` and the backward pass, counted in a small run on a random model.
"""

import argparse
import ast
import io
import os
import statistics
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path

TRAINERS = {
    "Probe", "Logistic", "Finetune", "Generate", "Head", "ProbeSettings", "LogisticSettings", "FinetuneSettings",
    "GenerateSettings",
}  # fmt: skip
FRAMES = """
import sys, traceback
from pathlib import Path
sys.path.insert(0, "tests")
from tiny_models import make_model
import torch
backward, found = torch.autograd.backward, []
def counted(*args, **options):
    if not found:
        frames = [f for f in traceback.extract_stack() if f"src{os.sep}outgrow{os.sep}" in f.filename]
        found.extend(f"{Path(f.filename).stem}.{f.name}" for f in frames)
    return backward(*args, **options)
import os
torch.autograd.backward = counted
folder = Path(sys.argv[1])
make_model(folder / "model", "bert")
rows = [f'{{"text": "{word} w{i}", "gold": "{word}"}}' for i in range(60) for word in ("good", "bad")]
(folder / "rows.jsonl").write_text("\\n".join(rows))
from outgrow.cli import main
try:
    main(["run", "--task", f"table(path='{folder}/rows.jsonl', text='text', label='gold')", "--weak",
          str(folder / "model"), "--strong", str(folder / "model"), "--strategy", "naive", "--no-controls", "--seeds",
          "1", "--train", "finetune(epochs=1, max_tokens=8)", "--store", str(folder / "store"), "--report",
          str(folder / "report")])
except SystemExit:
    pass
print("FRAMES", " > ".join(found))
"""


def code_lines(text: str, tree: ast.Module) -> int:
    """Lines that hold code: neither blank, nor comment, nor docstring."""
    lines = set()
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def part_of(module: str, parts: set[str]) -> str | None:
    """``outgrow.train.loop`` -> ``train``; None for what is no part, such as the package itself."""
    names = module.split(".")
    return names[1] if len(names) > 1 and names[0] == "outgrow" and names[1] in parts else None


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def measured(checkout: Path) -> dict[str, int | float | str]:
    root = checkout / "src" / "outgrow"
    files = sorted(root.rglob("*.py"))
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    trees = {file: ast.parse(text) for file, text in texts.items()}
    lengths = [
        (node.end_lineno or 0) - node.lineno + 1
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    parts = {file.relative_to(root).parts[0].removesuffix(".py") for file in files} - {"__init__"}
    modules = {".".join(("outgrow", *file.relative_to(root).with_suffix("").parts)) for file in files}
    arrows, edges = set(), set()
    for file, tree in trees.items():
        own = file.relative_to(root).parts[0].removesuffix(".py")
        name = ".".join(("outgrow", *file.relative_to(root).with_suffix("").parts))
        for other in imported(tree):
            target = part_of(other, parts)
            if target and target != own:
                arrows.add((own, target))
            found = next((m for m in (other, other.rpartition(".")[0]) if m in modules), None)
            if found and found != name:
                edges.add((name, found))
    switches = sum(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "isinstance"
        and bool({n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)} & TRAINERS)
        for tree in trees.values()
        for node in ast.walk(tree)
    )
    path = frames(checkout)
    return {
        "modules at the top": len([f for f in files if f.parent == root]),
        "folders": len({f.relative_to(root).parts[0] for f in files if f.parent != root}),
        "files": len(files),
        "lines": sum(text.count("\n") for text in texts.values()),
        "lines of code": sum(code_lines(texts[f], trees[f]) for f in files),
        "longest file, lines": max(text.count("\n") for text in texts.values()),
        "functions": len(lengths),
        "median function, lines": statistics.median(lengths),
        "95th percentile function, lines": statistics.quantiles(lengths, n=20)[-1],
        "isinstance on trainers": switches,
        "imports between parts": len(arrows),
        "imports between modules": len(edges),
        "frames to the backward pass": len(path),
        "the frames": " > ".join(path),
    }


def frames(checkout: Path) -> list[str]:
    """The package's frames when the first backward pass of a finetuning begins, outermost first."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": f"{checkout / 'src'}", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", FRAMES, folder],
            capture_output=True, text=True, check=False, cwd=checkout, env=environment,
        )  # fmt: skip
    said = [line for line in done.stdout.splitlines() if line.startswith("FRAMES ")]
    if said in ([], ["FRAMES "]):
        sys.exit(f"no backward pass in {checkout}:\n{done.stderr}")
    return said[0].removeprefix("FRAMES ").split(" > ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("checkouts", nargs="*", type=Path, default=[Path(__file__).parent.parent])
    columns = [measured(checkout.resolve()) for checkout in parser.parse_args().checkouts]
    for name in columns[0]:
        values = [f"{c[name]:,}" if not isinstance(c[name], str) else str(c[name]) for c in columns]
        print(
            f"{name:<34}"
            + ("".join(f"{v:>12}" for v in values) if name != "the frames" else "\n    " + "\n    ".join(values))
        )
