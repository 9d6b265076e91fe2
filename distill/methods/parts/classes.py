"""What methods that compare classes need of their targets."""

from __future__ import annotations

from torch import Tensor

from distill.base import Batch, DistillationModule
from distill.errors import UserError
from distill.tasks import Classification, MultiLabelClassification


def target_classes(method: DistillationModule, batch: Batch) -> Tensor:
    """The one class of each position, ``(N, *)``, for methods that compare it with the other classes.

    Raises:
        KeyError: The batch has no target.
        ValueError: There may be several classes at a position, the labels are soft, or there are no classes.
    """
    target: Tensor = batch["target"]
    name = type(method).__name__
    if isinstance(method.task, MultiLabelClassification):
        raise UserError(
            f"{name} compares the class of a sample with the other classes, but with "
            f"{type(method.task).__name__} a sample may have several: KD compares each of them"
        )
    if not target.is_floating_point():
        return target
    if isinstance(method.task, Classification):
        raise UserError(
            f"{name} needs one class index for each sample, but the targets are soft labels of shape "
            f"{tuple(target.shape)}: KD takes soft labels"
        )
    raise UserError(
        f"{name} compares classes, but {type(method.task).__name__} has none: ResKD compares depths and other values"
    )
