"""Ask a language model the question of each task, and store its features: one pass for every view and the zero-shot.

The pass is the expensive part of all that a large student does, so it can be run ahead, for many tasks, overnight. It
can be killed at any time and started again: finished tasks are read from the store, and the one under way continues
with the same bits.

    python experiments/ask_language_model.py --store my-store "sentiment-movies(limit=2400)" "sst2(limit=2400)"

What it stores is what ``--train "probe(view='asked')"`` needs for the same task, as are the token counts of the texts.
Zero-shot accuracies are printed; where two words begin alike there are none.
"""

import argparse
import sys

import numpy as np

from outgrow import steps
from outgrow.engine import runner
from outgrow.engine.graph import Step
from outgrow.engine.progress import Progress
from outgrow.errors import UserError
from outgrow.experiment import open_store
from outgrow.models.spec import ModelSpec
from outgrow.runtime import Runtime, stopped_by_signals
from outgrow.strategies.trainers import Learner, Probe
from outgrow.tasks import TaskSpec, question_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", help='tasks with their options, such as "sst2(limit=2400)"')
    parser.add_argument("--model", default="qwen2.5-coder-1.5b", help="a language model")
    parser.add_argument("--max-tokens", type=int, help="of a text and its question; default 512")
    parser.add_argument("--store", help="folder of results; default $OUTGROW_STORE, or outgrow-store")
    given = parser.parse_args()
    store, model = open_store(given.store), ModelSpec.parse(given.model)
    for text in given.tasks:
        spec = TaskSpec.parse(text)
        pool = Step(steps.load, task=spec)
        trainer = Probe(view="asked", max_tokens=given.max_tokens)
        texts = Step(steps.texts, pool=pool)
        learner = Learner(model=model, trainer=trainer, texts=texts, question=question_of(spec))
        asked, reading = learner.features[0], trainer.reading(learner)
        assert reading is not None
        with stopped_by_signals(), Progress(runner.plan([asked], store)) as progress:
            runner.run([pool, asked, reading], store, Runtime(), progress)
        gold, views = store.read(pool).gold, store.read(asked).views
        print(f"{text}: ask/{asked.key[:12]}, {store.read(reading)}", flush=True)
        for name in ("words", "words_calibrated"):
            if name in views:
                logs = views[name][..., 1] - views[name][..., 0] if views[name].ndim == 3 else views[name]
                print(f"  zero-shot by {name}: {np.mean(logs.argmax(axis=1)[gold >= 0] == gold[gold >= 0]):.3f}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped; start the same command again, and it goes on from here")
    except UserError as error:
        sys.exit(f"error: {error}")
