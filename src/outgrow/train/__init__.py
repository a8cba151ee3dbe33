"""The finetuning engine."""
