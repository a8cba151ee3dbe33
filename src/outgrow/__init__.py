"""Outgrow: weak-to-strong generalization, measured honestly."""
