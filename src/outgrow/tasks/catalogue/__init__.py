"""One module for each kind of data set; importing this package registers them all."""

from outgrow.tasks.catalogue import chess_puzzles, nlp, preference, sentences, sentiment, synthetic, topics, vision

__all__ = ["chess_puzzles", "nlp", "preference", "sentences", "sentiment", "synthetic", "topics", "vision"]
