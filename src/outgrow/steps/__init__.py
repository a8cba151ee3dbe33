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
from outgrow.steps.forecast import forecast, shift
from outgrow.steps.heads import NOT_T, blend_heads, fit_cloud_head, guard_shares, match_shares
from outgrow.steps.labels import cluster, combine, relabel, shuffle

__all__ = [
    "NOT_T",
    "against_controls",
    "ask",
    "blend_heads",
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
    "fit_cloud_head",
    "fit_logistic",
    "fit_probe",
    "forecast",
    "gold",
    "gold_answers",
    "guard_shares",
    "keep",
    "load",
    "match_shares",
    "measure_asking",
    "measure_reading",
    "pooled",
    "predict_finetuned",
    "predict_probe",
    "relabel",
    "shift",
    "shuffle",
    "shuffle_answers",
    "split",
    "texts",
    "weak_agreement",
    "weak_column",
]
