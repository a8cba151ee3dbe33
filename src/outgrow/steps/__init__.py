"""The steps: the only place where the science meets the graph. Each is a plain function of values."""

from outgrow.steps.answers import compare_answers, decode, finetune_lm, gold_answers, shuffle_answers
from outgrow.steps.compare import against_controls, compare, contrast, weak_agreement
from outgrow.steps.examples import (
    gold,
    keep,
    keep_judged,
    load,
    pooled,
    second_column,
    split,
    texts,
    weak_column,
)
from outgrow.steps.fit import (
    embed,
    embed_bf16,
    finetune,
    fit_logistic,
    fit_probe,
    measure_reading,
    predict_finetuned,
    predict_probe,
)
from outgrow.steps.labels import cluster, combine, judged_by, relabel, shuffle

__all__ = [
    "against_controls",
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
    "judged_by",
    "keep",
    "keep_judged",
    "load",
    "measure_reading",
    "pooled",
    "predict_finetuned",
    "predict_probe",
    "relabel",
    "second_column",
    "shuffle",
    "shuffle_answers",
    "split",
    "texts",
    "weak_agreement",
    "weak_column",
]
