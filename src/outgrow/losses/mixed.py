"""Cross-entropies with changed targets: their gradient in the logits is softmax minus targets, no autograd needed."""

from typing import TYPE_CHECKING, Annotated

from outgrow.errors import UserError
from outgrow.losses.base import Loss, MixesTargets, certain, loss, ramp
from outgrow.losses.hardening import harden
from outgrow.registry import ClassShares, OneOf, Range

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KL", "AdaptConf", "LogConf", "Product", "Xent"]


@loss
class Xent(MixesTargets, Loss):
    """Cross-entropy with soft targets: -sum_c target_c log softmax(logits)_c."""

    version = 1
    source = "Burns et al. 2023 (arXiv 2312.09390), section 3"
    cost = "the least"


@loss
class KL(MixesTargets, Loss):
    """Forward divergence KL(weak || f) = sum_c weak_c log(weak_c / f_c): trains as Xent does, and its minimum is 0.

    It is the cross-entropy minus the entropy of the label, which does not depend on the student.
    """

    version = 1
    source = "EleutherAI/weak-to-strong, loss kl; Mulgund & Pabbaraju 2025 (arXiv 2501.19105)"
    cost = "as Xent"

    def __call__(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        return super().__call__(logits, targets, progress) + targets.xlogy(targets).sum(dim=-1)


@loss
class LogConf(MixesTargets, Loss):
    """The auxiliary confidence loss: (1 - a) CE(f, weak) + a CE(f, hardened f).

    Burns et al. 2023 (section 4.3.2, appendix A.4), for C classes. Hardened f is the student's own prediction made
    certain; no gradient flows through it. ``a`` rises linearly from 0 to ``alpha`` over the first ``warmup`` of
    training.

    A row takes the class whose log probability lies highest above that class's threshold. In every batch the thresholds
    are set such that the classes come out as often as ``shares`` says, to rounding. By default that is how often the
    weak labels of the batch say each class, as in the released code, so that labels far from balanced keep their shares
    (12.7 % positive: 87 % of synthetic rows right, 79 % by ``uniform``). ``uniform`` gives two classes half of the
    batch each, as in the paper, whose data is balanced; more classes are our extension. A row exactly at its threshold
    has no belief to trust and is shared equally; the released code gives the whole batch to class 0.
    """

    version = 2
    per_example = False
    source = "Burns et al. 2023 (arXiv 2312.09390), section 4.3.2, appendix A.4"
    cost = "a sort of each batch; finetuned in microbatches, one more forward pass"

    alpha: Annotated[float, Range(0, 1)] = 0.5
    """Final weight of the student's own beliefs; the paper uses 0.75 for its largest students and 0.5 otherwise."""
    warmup: Annotated[float, Range(0, 1)] = 0.2
    """Share of training over which the weight rises."""
    shares: Annotated[str | tuple[float, ...], ClassShares("weak", "uniform", "none")] = "weak"
    """How often each class comes out in a batch: ``weak``, as the weak labels of the batch say (the released code),
    ``uniform`` (the paper), the shares given, or ``none``: each row takes the student's class, whatever comes out."""
    schedule: Annotated[str, OneOf("linear", "released")] = "linear"
    """``linear`` (the paper) or ``released``: progress itself up to ``warmup``, then 1 at once, so the weight jumps
    from ``warmup * alpha`` to ``alpha`` in one step (openai/weak-to-strong loss.py line 96)."""

    def weight(self, progress: float) -> "Tensor":
        """The weight ``a`` at this share of training."""
        import torch

        if self.schedule == "released":
            return torch.where(torch.as_tensor(self.warmup) < progress, 1.0, progress) * self.alpha
        return ramp(self.warmup, progress) * self.alpha

    def targets(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """Weak labels mixed with the student's hardened beliefs; cross-entropy is linear in its target, so this is
        the whole loss."""
        import torch

        return torch.lerp(targets, self._own(logits, targets), self.weight(progress).to(targets.dtype))

    def _own(self, logits: "Tensor", targets: "Tensor") -> "Tensor":
        """The student's classes, as often as ``shares`` says."""
        import torch

        columns = logits.shape[-1]
        match self.shares:
            case "none":
                return (logits.sign() + 1) / 2 if columns == 1 else certain(logits)
            case "weak":
                shares = targets.mean(dim=-2, keepdim=True)
            case "uniform":
                shares = torch.as_tensor(0.5 if columns == 1 else 1 / columns)
            case given:
                if len(given) != max(2, columns):
                    raise UserError(f"LogConf has {len(given)} shares and the task {max(2, columns)} classes")
                shares = targets.new_tensor([given[-columns:]])
        return harden(logits, shares)


@loss
class Product(MixesTargets, Loss):
    """The product confidence loss: CE(f, t) with t proportional to f^beta weak^alpha, a log-linear pool.

    openai/weak-to-strong loss.py lines 37 to 68, where alpha = beta = 1; no gradient flows through t. The released
    code has a warm-up argument that it never reads; there is none here. A certain label stays as it is.
    """

    version = 1
    source = "openai/weak-to-strong, loss.py, product_loss_fn; Burns et al. 2023, appendix"
    cost = "as Xent"

    alpha: Annotated[float, Range(0)] = 1.0
    """Exponent of the weak label."""
    beta: Annotated[float, Range(0)] = 1.0
    """Exponent of the student's own belief; 0 (with ``alpha`` 1) is Xent."""

    def targets(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """The pool of the label and the student's belief."""
        import torch

        tiny = torch.finfo(targets.dtype).tiny
        log_targets = targets.clamp_min(tiny).log()
        if logits.shape[-1] == 1:
            return (self.beta * logits + self.alpha * (log_targets - (1 - targets).clamp_min(tiny).log())).sigmoid()
        return (self.beta * logits + self.alpha * log_targets).softmax(dim=-1)


@loss
class AdaptConf(MixesTargets, Loss):
    """Adaptive confidence: (1 - b) CE(f, weak) + b CE(f, own class), with its own b for each example.

    Guo et al. 2024, as in ggjy/vision_weak_to_strong adaptconf.py:
    b = exp(CE(f, own) / T) / (exp(CE(f, own) / T) + exp(CE(f, weak class) / T)), no gradient through it. The own class
    is the student's best, so b is at most 1/2, which it reaches where student and supervisor agree; where they differ,
    b falls the more the student is convinced against the weak class.
    """

    version = 1
    source = "Guo et al. 2024 (arXiv 2402.03749), adaptive confidence loss, and its code"
    cost = "as Xent"

    temperature: Annotated[float, Range(1e-3)] = 0.5
    """T; a small one makes b all or nothing."""
    warmup: Annotated[float, Range(0, 1)] = 0.0
    """Share of training over which b rises from 0; the code ramps only its other, constant weight."""

    def targets(self, logits: "Tensor", targets: "Tensor", progress: float) -> "Tensor":
        """The label mixed with the student's own class."""
        import torch

        if logits.shape[-1] == 1:
            own, weak = (logits.sign() + 1) / 2, ((targets - 0.5).sign() + 1) / 2
            # CE(f, own) - CE(f, weak class) is the log-odds times what the two classes differ by.
            behind = logits * (weak - own)
        else:
            own, weak = certain(logits), certain(targets)
            behind = (logits * (weak - own)).sum(dim=-1, keepdim=True)
        weight = (behind / self.temperature).sigmoid() * ramp(self.warmup, progress)
        return torch.lerp(targets, own, weight.to(targets.dtype))
