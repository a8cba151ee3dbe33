"""The scoreboard: every method a probe can be trained with, against naive, on seven to twelve kinds of text.

    python experiments/methods_board.py --accept-license topics-20news,topics-r8,topics-bbc --data-dir FOLDER
    python experiments/methods_board.py --tune ...      settings chosen by weak validation labels, never gold

Rated sentences of four domains and three sets of topics; with a folder of public sets also those five of the paper that
showed a gap between GloVe and MiniLM-L6 (``paper_sets.py``). At most 2,400 rows a task, 64 tokens a text; a ladder of
four, so six pairs; 5 seeds; every method of the registries at its documented defaults. All was fixed before the first
run. Tasks are the unit of evidence: with seven the least p-value is 0.016, with twelve it is 0.0005. To test two
methods that you chose before you saw any number, beside all others:

    python experiments/methods_board.py --primary confidence --primary "regularised(l2=(10.0,))" --out outgrow-board-few

What is stored is not run again.
"""

import os
import sys

from outgrow.cli import main

OFFLINE = (
    "sentiment-movies(limit=2400)",
    "sentiment-news(limit=2400)",
    "sentiment-tweets(limit=2400)",
    "sentiment-reviews(limit=2400)",
    "topics-20news(limit=2400)",
    "topics-r8(limit=2400, min_rows=200)",
    "topics-bbc",
)
FOLDER = (
    "amazon-polarity(limit=2000)",
    "sst2(limit=2000)",
    "twitter-sentiment(limit=2000)",
    "ethics-deontology(limit=2000)",
    "sciq(limit=2000)",
)
LADDER = "glove,minilm-l3,minilm-l6,mpnet-base"

if __name__ == "__main__":
    has_folder = "--data-dir" in sys.argv or "OUTGROW_DATA_DIR" in os.environ
    tasks = OFFLINE + (FOLDER if has_folder else ())
    given = ["--task", *tasks, "--ladder", LADDER, "--train", "probe(max_tokens=64)", "--seeds", "5"]
    main(["board", *given, *sys.argv[1:]])
