"""DWLD: a small network weighs every non-target class of every pixel."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.errors import UserError
from distill.losses import dwld_terms
from distill.losses.dwld import Form
from distill.methods.parts.adaptors import convolve_to


class DynamicWeightController(nn.Module):
    r"""The weight of every class at every position, by an MLP on the prediction there (LIX, eqs. 6-9).

    .. math::
        \beta = (\beta_{\max} - \beta_{\min}) \, \mathrm{sigmoid}(\mathrm{MLP}(\Omega)) + \beta_{\min}, \quad
        \Omega = \mathrm{Concat}(p, c), \quad c = -\sum_i p_i \log p_i

    The MLP is one for all positions, so its layers are 1x1 convolutions, each with as many outputs as there are classes
    and a ReLU between. The prediction is taken as a constant: what the weights depend on does not learn through them.

    Args:
        layers: How many layers the MLP has, 1 or more; 3 in the paper, which tries 1 to 5.
        confidence: Whether the entropy c, in nats, is an input beside the probabilities p; so in the paper.
        source: Whose prediction it is; the student's in the paper.
        dropout: The share of hidden units dropped in training; 0 in the paper, which tries it.
        beta_min: The lowest weight; the paper names no value. 1 is the lowest that DKD's authors tried.
        beta_max: The highest; the paper names no value. 10 is the highest of DKD's.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        layers: int = 3,
        confidence: bool = True,
        source: Literal["student", "teacher"] = "student",
        dropout: float = 0.0,
        beta_min: float = 1.0,
        beta_max: float = 10.0,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise UserError(f"layers must be at least 1, got {layers}")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must lie in [0, 1), got {dropout}")
        if source not in ("student", "teacher"):
            raise UserError(f"source must be student or teacher, got {source!r}")
        if not 0 <= beta_min <= beta_max:
            raise UserError(f"the range of beta must be 0 <= beta_min <= beta_max, got [{beta_min}, {beta_max}]")
        self.confidence = confidence
        self.source = source
        self.beta_min = beta_min
        self.beta_max = beta_max
        self.layers = nn.ModuleList(nn.LazyConv1d(1, kernel_size=1) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The weights beta ``(N, C, *)`` for the logits of student and teacher, ``(N, C, *)`` each."""
        logits = (student if self.source == "student" else teacher).detach()
        log_p = logits.reshape(*logits.shape[:2], -1).log_softmax(1)
        values = log_p.exp()
        if self.confidence:
            values = torch.cat([values, -(values * log_p).sum(1, keepdim=True)], 1)
        for index, layer in enumerate(self.layers):
            if index > 0:
                values = self.dropout(values.relu())
            values = convolve_to(logits.shape[1], layer, values)
        return self.beta_min + (self.beta_max - self.beta_min) * values.sigmoid().view(logits.shape)


class DWLD(DistillationModule):
    """Dynamically-weighted logit distillation (LIX, Guo et al., IEEE TIP 2025, arXiv:2403.08215, eqs. 6-12).

    ``hard_weight * CE + weight * (alpha TCLD + NCLD)``: DKD, with a weight for the divergence at every non-target class
    of every pixel, which a small network makes of the student's prediction. That network trains with the student, by
    the same loss, as in the paper; a network that lowers the loss that it weighs lowers the weights where it can.

    Measured by ``train.py study --config configs/studies/lix_forms.yaml`` (rendered scenes, T = 4, 5 seeds, 240 steps):

    =========== ============ =========== =================================
    form        mIoU [%]     mean beta   NCLD in the last epoch
    =========== ============ =========== =================================
    ``bregman`` 34.5 +- 0.8  1.06        +0.55, never negative
    ``kl``      28.7 +- 1.1  4.43        -30.5, negative for every seed
    =========== ============ =========== =================================

    With the paper's sum (``kl``) the controller finds the weights that make the loss negative, and the student gets
    worse; so ``bregman`` is the default here, where the loss functions have the paper's. With ``bregman`` the weights
    end near ``beta_min``: what is left is close to DKD with that ``beta``.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        alpha: The weight of TCLD; 1 in the paper.
        temperature: T, by which the logits of both are divided in the loss; 1 in the paper.
        form: How unequal weights enter the divergence of the non-target classes; see
            :func:`~distill.losses.dwld_terms`.
        weight: The weight of the term, lambda_L of eq. 21; the best of the paper's ratios to the hard loss is 1 : 2.
        controller: Makes the weights; the paper's by default.
        warmup_epochs: Over this many epochs the weight of both terms grows linearly to its full value, as in DKD's
            code; the paper names none.
        **kwargs: As in :class:`~distill.base.DistillationModule`.
    """

    def __init__(
        self,
        *args: Any,
        alpha: float = 1.0,
        temperature: float = 1.0,
        form: Form = "bregman",
        weight: float = 0.5,
        controller: DynamicWeightController | None = None,
        warmup_epochs: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.alpha = alpha
        self.temperature = temperature
        self.form = form
        self.weight = weight
        self.controller = controller or DynamicWeightController()
        self.warmup_epochs = warmup_epochs

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 10, its terms apart."""
        ignored = (batch["target"] == self.ignore_index).unsqueeze(1)
        seen = (output.prediction.detach().masked_fill(ignored, 0) for output in (student, teacher))
        tcld, ncld = dwld_terms(
            student.prediction,
            teacher.prediction,
            batch["target"],
            self.controller(*seen),
            temperature=self.temperature,
            form=self.form,
            ignore_index=self.ignore_index,
        )
        weight = self.weight * min((self.current_epoch + 1) / max(self.warmup_epochs, 1), 1.0)
        return {"tcld": weight * self.alpha * tcld, "ncld": weight * ncld}
