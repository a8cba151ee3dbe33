"""Other losses: bounded, mode-seeking, windowed, evidential. Probes take their gradient by autograd."""

import math
from typing import TYPE_CHECKING, Annotated

from outgrow.losses.base import Loss, certain, loss, ramp, smoothed
from outgrow.registry import Range

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CACE", "EDL", "GCE", "Complementary", "Entropy", "ReverseKL", "ReverseXent", "Symmetric", "Window"]

_AUTOGRAD = "autograd on the logits"


@loss
class Entropy(Loss):
    """Confidence without hardening: (1 - a) CE(f, weak) + a H(f), H the student's entropy.

    EleutherAI's soft form of the confidence loss. Their code (w2s/loss.py) takes CE(f, f) without a gradient through
    the second f. The gradient of that term is zero, so it changes nothing but the size of the steps; here the entropy
    itself is differentiated.
    """

    version = 1
    source = "EleutherAI/w2s, loss entropy (blog.eleuther.ai/weak-to-strong)"
    cost = _AUTOGRAD

    alpha: Annotated[float, Range(0, 1)] = 0.5
    """Final weight of the entropy; 0 is Xent."""
    warmup: Annotated[float, Range(0, 1)] = 0.2
    """Share of training over which the weight rises."""

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        log_probs = logits.log_softmax(dim=-1)
        weight = ramp(self.warmup, progress).to(logits.dtype) * self.alpha
        return -((targets * (1 - weight) + log_probs.exp() * weight) * log_probs).sum(dim=-1)


@loss
class Window(Loss):
    """Cross-entropy only where the student is unsure: its highest probability is below 1/C + radius; else 0.

    EleutherAI/w2s confidence_window_loss, which has 1/2 for 1/C. For its other choice of radius, the median weak
    confidence (``midweak``), compute that number from the labels and pass it.
    """

    version = 1
    source = "EleutherAI/w2s, loss window (blog.eleuther.ai/weak-to-strong)"
    cost = _AUTOGRAD

    radius: Annotated[float, Range(0, 1)] = 0.15
    """1 takes every example, which is Xent."""

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        log_probs = logits.log_softmax(dim=-1)
        unsure = log_probs.detach().exp().amax(dim=-1, keepdim=True) < 1 / logits.shape[-1] + self.radius
        return -(targets * unsure * log_probs).sum(dim=-1)


@loss
class ReverseKL(Loss):
    """Mode-seeking divergence KL(f || weak) = sum_c f_c log(f_c / weak_c), the label smoothed by eps.

    Yao et al. 2025: the student may ignore the classes over which the supervisor spreads its doubt. Without smoothing,
    a certain label would make the loss infinite.
    """

    version = 1
    source = "Yao et al. 2025 (arXiv 2502.11107), reverse KL"
    cost = _AUTOGRAD

    eps: Annotated[float, Range(0, 1)] = 0.01
    """Share of the uniform distribution in the label."""

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        log_probs = logits.log_softmax(dim=-1)
        return (log_probs.exp() * (log_probs - smoothed(targets, self.eps).log())).sum(dim=-1)


@loss
class ReverseXent(Loss):
    """Reverse cross-entropy -sum_c f_c log weak_c, the label smoothed by eps: linear in the student's probabilities.

    Yao et al. 2025; arXiv 2505.24313 shows that it depends less on the supervisor's own doubt. A label with even odds
    has no gradient.
    """

    version = 1
    source = "Yao et al. 2025 (arXiv 2502.11107); arXiv 2505.24313"
    cost = _AUTOGRAD

    eps: Annotated[float, Range(0, 1)] = 0.01
    """Share of the uniform distribution in the label; bounds the loss by log(C / eps)."""

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        return _reverse(logits, targets, self.eps).sum(dim=-1)


@loss
class Symmetric(Loss):
    """Symmetric cross-entropy: alpha CE(f, weak) + beta RCE(f, weak), the second with the label smoothed by eps.

    Wang et al. 2019 for noisy labels, where the logarithm of 0 is cut at -4; the code of arXiv 2505.24313 uses it for
    weak labels, with alpha 1 and beta 0.1.
    """

    version = 1
    source = "Wang et al. 2019 (arXiv 1908.06112); arXiv 2505.24313"
    cost = _AUTOGRAD

    alpha: Annotated[float, Range(0)] = 1.0
    """Weight of the cross-entropy."""
    beta: Annotated[float, Range(0)] = 0.1
    """Weight of the reverse cross-entropy; 0 (with ``alpha`` 1) is Xent."""
    eps: Annotated[float, Range(0, 1)] = 0.01
    """Share of the uniform distribution in the label of the reverse cross-entropy."""

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        forward = -targets * logits.log_softmax(dim=-1)
        return (self.alpha * forward + self.beta * _reverse(logits, targets, self.eps)).sum(dim=-1)


@loss
class CACE(Loss):
    """Confidence-adaptive cross-entropy: CE where the supervisor is sure, reverse CE where it is not.

    arXiv 2505.24313 and its code: sure means |weak - 1/2| >= threshold for two classes; for C classes, here,
    max_c weak_c - 1/C >= threshold.
    """

    version = 1
    source = "arXiv 2505.24313, CACE, and Gengze/W2SG-Bregman loss.py"
    cost = _AUTOGRAD

    threshold: Annotated[float, Range(0, 1)] = 0.1
    """0 counts every label as sure, which is Xent. The code's default is 0.01; its runs use quantiles of the labels."""
    eps: Annotated[float, Range(0, 1)] = 0.01
    """Share of the uniform distribution in the label of the reverse cross-entropy."""

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        sure = targets.amax(dim=-1, keepdim=True) - 1 / logits.shape[-1] >= self.threshold
        forward = -targets * logits.log_softmax(dim=-1)
        return forward.where(sure, _reverse(logits, targets, self.eps)).sum(dim=-1)


@loss
class GCE(Loss):
    """Generalized cross-entropy sum_c weak_c (1 - f_c^q) / q: cross-entropy at q = 0, absolute error at q = 1.

    Zhang & Sabuncu 2018 (equation 6), linear in the soft label. Bounded by 1/q, so an example far off pulls little.
    """

    version = 1
    source = "Zhang & Sabuncu 2018 (arXiv 1805.07836), eq. 6"
    cost = _AUTOGRAD

    q: Annotated[float, Range(0, 1)] = 0.7
    """0.7 is the paper's; 0 is Xent."""

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        import torch

        log_probs = logits.log_softmax(dim=-1)
        q = torch.as_tensor(self.q, dtype=logits.dtype, device=logits.device)
        share = torch.where(q > 0, -torch.expm1(q * log_probs) / q.clamp_min(1e-12), -log_probs)
        return (targets * share).sum(dim=-1)


@loss
class EDL(Loss):
    """Evidential loss of Bayesian WeakS-to-Strong: the logits are evidence for a Dirichlet distribution over beliefs.

    Cui et al. 2024 (equations 4 and 5) with one supervisor: (1 - gamma) sum_k weak_k l_k + gamma l_own, where own is
    the student's class, l_k = log S - log alpha_k + progress KL(Dir(alpha with alpha_k = 1) || Dir(1)),
    alpha = relu(z) + 1 and S = sum_c alpha_c.

    Here z are the logits minus their mean: in Outgrow only differences of logits mean anything (a two-class head may be
    one log-odds), so evidence for all classes at once cannot be expressed. The predicted class is that of the
    Dirichlet's mean; the student's probabilities are the softmax, as everywhere.
    """

    version = 1
    source = "Cui et al. 2024 (arXiv 2406.03199), eq. 4-5"
    cost = "autograd through gamma functions on the logits"

    gamma: Annotated[float, Range(0, 1)] = 0.5
    """Weight of the student's own class; 0 trusts the labels alone."""

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        num_classes = logits.shape[-1]
        # clamp, not relu: its slope at 0 is 1, so that a head that starts at zero learns.
        alpha = (logits - logits.mean(dim=-1, keepdim=True)).clamp_min(0) + 1
        total = alpha.sum(dim=-1, keepdim=True)
        surprise = total.log() - alpha.log()
        # For each k: all classes but k, whose own alpha is 1 and adds nothing.
        others, log_gamma, lift = total - alpha + 1, alpha.lgamma(), (alpha - 1) * alpha.digamma()
        divergence = (
            others.lgamma()
            - math.lgamma(num_classes)
            - (log_gamma.sum(dim=-1, keepdim=True) - log_gamma)
            + (lift.sum(dim=-1, keepdim=True) - lift)
            - (others - num_classes) * others.digamma()
        )
        weight = targets * (1 - self.gamma) + certain(logits.detach()) * self.gamma
        return (weight * (surprise + progress * divergence)).sum(dim=-1)


@loss
class Complementary(Loss):
    """For labels that only exclude: -log sum_c f_c t_c, t the label over its highest value.

    A label that says "not this class" and gives all others the same probability (transform ``Complement``) has the loss
    -log(1 - f of the excluded class). If every wrong class is excluded as often, it is least where f are the
    probabilities of the classes, as class c is then excluded in (1 - p_c) / (C - 1) of the rows. The partitioned
    supervision of Yin et al. 2026 trains on such labels. A certain label has the loss Xent; of two classes there are no
    others.

    Held-out labels that tie cannot say when to stop: train with early_stopping=False.
    """

    version = 1
    source = "Yin, Ishida & Sugiyama 2026 (arXiv 2510.22500); Ishida et al. 2017 (arXiv 1705.07541)"
    cost = _AUTOGRAD

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        import torch

        allowed = targets / targets.amax(dim=-1, keepdim=True)
        floor = torch.finfo(logits.dtype).tiny
        return -(logits.log_softmax(dim=-1) + allowed.clamp_min(floor).log()).logsumexp(dim=-1)


def _reverse(logits: "Tensor", targets: "Tensor", eps: "float | Tensor") -> "Tensor":
    return -logits.softmax(dim=-1) * smoothed(targets, eps).log()
