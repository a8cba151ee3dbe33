"""The registry of model readers: what turns a task's inputs into frozen features. Any Python file can add one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar, dataclass_transform

import numpy as np
import numpy.typing as npt

from outgrow.errors import UserError
from outgrow.identity import code_name, is_inside
from outgrow.models.packaged import PACKAGED
from outgrow.registry import Registry
from outgrow.runtime import Runtime

__all__ = ["MODELS", "Array", "ModelReader", "model"]

Array = npt.NDArray[np.float32]


class ModelReader(Protocol):
    """A model that gives frozen features and is never trained itself. Its fields are its options.

    A file that an option names is part of the model's identity. Anything else that ``embed`` reads is not.
    """

    version: ClassVar[int] = 1
    """Raise it when the same inputs give other features."""
    reads: ClassVar[str]
    """``text`` or ``image``."""

    def embed(self, inputs: Sequence[Any], runtime: Runtime) -> Array | Mapping[str, Array]:
        """Features of n inputs: one (n, d) matrix, or one for each view in :data:`outgrow.models.settings.VIEWS`.

        A row must depend on its own input only.

        Args:
            inputs: texts (str), or images (``PIL.Image``), which are opened one by one as you ask for them.
            runtime: the device, and ``runtime.report(done, total, unit)`` for progress.
        """
        ...


MODELS: Registry[type[Any]] = Registry("model", "models", ModelReader)
"""Model readers by name. Models that transformers loads are not among them: see :class:`outgrow.models.spec.ModelSpec`.
"""

T = TypeVar("T", bound=type[Any])


@dataclass_transform(frozen_default=True, kw_only_default=True)
def model(name: str) -> Callable[[T], T]:
    """Register a :class:`ModelReader` class under ``name``.

    Raises:
        UserError: if the name is taken, or the class lacks ``embed`` or a valid ``reads``.
    """

    def register(cls: T) -> T:
        if name in PACKAGED and not is_inside(cls):
            raise UserError(
                f"two models are called {name}: the packaged one (outgrow.models.packaged) and {code_name(cls)}; give "
                "yours another name"
            )
        if not hasattr(cls, "embed") or getattr(cls, "reads", None) not in ("text", "image"):
            raise UserError(f"the model {name} needs a method embed(inputs, runtime), and reads = 'text' or 'image'")
        return MODELS.add_class(name, cls)

    return register
