"""What planning, looking up and tabulating cost, and how it grows: nothing is trained here, all is bookkeeping.

    python benchmarks/planning.py [--seeds 5] [--sizes 1000,3000,10000] [--rounds 3]

* plan: wiring and planning a sweep of so many experiments over an empty store, as `outgrow plan` does. Pairs of models
  x 25 strategies and settings x as many trainers as it takes; 25 experiments share their supervisors and ceilings.
* look-up: in a store that holds so many results, for one of them: is it done, its record, its value by its key.
* table: a finished sweep of so many experiments read back and tabulated, as `outgrow ls` and `outgrow.results` do. The
  first `--run` experiments are really run; the other records are theirs, written under the keys of the rest.
* report: the page that `outgrow report` writes of that sweep.

Shown are processor seconds, the median over rounds, and beside it the cost of one, which is to stay flat. The time of a
fixed piece of plain Python stands first, so that figures of two machines can be compared.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from outgrow import Runtime
from outgrow.engine.graph import Step
from outgrow.engine.store import Store
from outgrow.experiment import Experiment, open_store, plan, run_steps, wire_all
from outgrow.report.provenance import provenance
from outgrow.report.run import write_report
from outgrow.results import table_of

TASK = "synthetic-gaussian"
PAIRS = [("vectors(dims=2)", "vectors"), ("vectors(dims=4)", "vectors"), ("random-features(width=8)", "vectors")]
STRATEGIES = [
    "naive",
    *(f"confidence(loss=LogConf(alpha={a / 20}))" for a in range(1, 16)),
    *(f"naive(transforms=(KeepConfident(share={s / 10}),))" for s in range(1, 10)),
]


def main() -> None:
    arguments = argparse.ArgumentParser(description="Planning, look-up and tables, and how they grow.")
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--sizes", default="1000,3000,10000")
    arguments.add_argument("--tables", default="100,1000,10000")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--run", type=int, default=20, help="experiments really run for the tables")
    options = arguments.parse_args()

    print(f"10 million additions: {median(options.rounds, additions):.2f} s; {options.seeds} seeds an experiment")
    for size in map(int, options.sizes.split(",")):
        found = [planning(size, options.seeds) for _ in range(options.rounds)]
        took, steps = statistics.median(seconds for seconds, _ in found), found[0][1]
        print(f"plan     {size:6} experiments, {steps:7} steps: {took:6.2f} s, {took / size * 1e6:5.0f} us each")
    with tempfile.TemporaryDirectory() as folder:
        store, held = open_store(folder), 0
        for size in map(int, options.tables.split(",")):
            fill(store, size, options.run, options.seeds, held)
            held = size
            tabulated(store, size, options.rounds, wire_all(sweep(1, options.seeds))[0])


def fill(store: Store, size: int, run: int, seeds: int, held: int) -> None:
    """Finish a sweep: its first experiments by running them, the rest by their records."""
    experiments = sweep(size, seeds)
    if not held:
        run_steps(experiments[:run], store, Runtime(device="cpu"))
    targets = wire_all(experiments)
    facts = store.record(targets[0])
    kept = {
        name: facts[name] for name in facts if name not in ("key", "fn", "version", "args", "inputs", "kind", "files")
    }
    for target in targets[max(held, run) :]:
        store.write(target, facts["result"], {**kept, "note": target.note})


def tabulated(store: Store, size: int, rounds: int, target: Step) -> None:
    looks: dict[str, Callable[[], object]] = {
        "done": lambda: store.is_done(target),
        "record": lambda: store.record(target),
        "by key": lambda: store.read_key(target.key),
    }
    times = {name: statistics.median(hundredth(look) for _ in range(rounds)) for name, look in looks.items()}
    print(f"look-up  {size:6} results: " + ", ".join(f"{name} {took * 1e6:.0f} us" for name, took in times.items()))
    took = median(rounds, lambda: seconds(lambda: table_of(store.records("compare"))))
    print(f"table    {size:6} experiments: {took:6.2f} s, {took / size * 1e6:5.0f} us each")
    if size <= 1000:
        table = table_of(store.records("compare"))
        with tempfile.TemporaryDirectory() as folder:
            facts = provenance(table, store, [], "benchmark", None)
            took = seconds(lambda: write_report(table, Path(folder), title="A sweep", provenance=facts))
        print(f"report   {size:6} experiments: {took:6.2f} s")


def sweep(size: int, seeds: int) -> list[Experiment]:
    """So many experiments, all different."""
    cell = [(pair, strategy) for pair in PAIRS for strategy in STRATEGIES]
    return [
        Experiment(
            task=TASK,
            weak=cell[i % len(cell)][0][0],
            strong=cell[i % len(cell)][0][1],
            strategy=cell[i % len(cell)][1],
            train=f"probe(l2={(i // len(cell) + 1) / 1e4}, epochs=2)",
            weak_train="probe(epochs=2)",
            seeds=tuple(range(seeds)),
        )
        for i in range(size)
    ]


def planning(size: int, seeds: int) -> tuple[float, int]:
    """Seconds, and the steps planned."""
    experiments, found = sweep(size, seeds), []
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        took = seconds(lambda: found.append(plan(experiments, store)))
    return took, len(found[0].to_run)


def hundredth(look: Callable[[], object]) -> float:
    return seconds(lambda: [look() for _ in range(100)]) / 100


def additions() -> float:
    def loop() -> None:
        total = 0
        for i in range(10_000_000):
            total += i

    return seconds(loop)


def median(rounds: int, timed: Callable[[], float]) -> float:
    return statistics.median(timed() for _ in range(rounds))


def seconds(work: Callable[[], object]) -> float:
    """Of the processor: all of it is one thread's work, and other work on the machine then counts less."""
    gc.collect()
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
