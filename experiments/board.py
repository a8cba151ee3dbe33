"""The scoreboard: every method a probe can be trained with, against naive, on seven kinds of text.

    python experiments/board.py --accept-license topics-20news,topics-r8,topics-bbc
    python experiments/board.py --tune ...      settings chosen by weak validation labels, never gold

Rated sentences of four domains and three sets of topics, a ladder of three, 5 seeds: 7 tasks, 21 cells; every method of
the registries at its documented defaults, all fixed before the first run. Tasks are the unit of evidence: seven give
a p-value of 0.016 at best, which the correction for some forty methods puts far above 0.05. So the whole board ranks
methods and bounds their effects; to be called better, a method must be among the two or three that are asked for:

    python experiments/board.py --methods confidence "regularised(l2=(10.0,))" --out outgrow-board-few

Three of these tasks take about a quarter of an hour on 2 cores, features included; what is stored is not run again.
"""

import sys

from outgrow.cli import main

TASKS = (
    "sentiment-movies",
    "sentiment-news",
    "sentiment-tweets",
    "sentiment-reviews",
    "topics-20news(limit=3000)",
    "topics-r8(limit=3500, min_rows=200)",
    "topics-bbc",
)

if __name__ == "__main__":
    main(["board", "--task", *TASKS, "--ladder", "glove,minilm-l3,minilm-l6", "--seeds", "5", *sys.argv[1:]])
