"""The steps: the only place where the science meets the graph. Each is a plain function of values."""

from outgrow.steps.answers import compare_answers, decode, finetune_lm, gold_answers, shuffle_answers
from outgrow.steps.compare import against_controls, compare, contrast, weak_agreement
from outgrow.steps.examples import gold, keep, load, pooled, split, texts, weak_column
from outgrow.steps.fit import (
    ask,
    embed,
    embed_bf16,
    finetune,
    fit_logistic,
    fit_probe,
    measure_asking,
    measure_reading,
    predict_finetuned,
    predict_probe,
)
from outgrow.steps.labels import cluster, combine, relabel, shuffle

__all__ = [
    "against_controls",
    "ask",
    "cluster",
    "combine",
    "compare",
    "compare_answers",
    "contrast",
    "decode",
    "embed",
    "embed_bf16",
    "finetune",
    "finetune_lm",
    "fit_logistic",
    "fit_probe",
    "gold",
    "gold_answers",
    "keep",
    "load",
    "measure_asking",
    "measure_reading",
    "pooled",
    "predict_finetuned",
    "predict_probe",
    "relabel",
    "shuffle",
    "shuffle_answers",
    "split",
    "texts",
    "weak_agreement",
    "weak_column",
]
