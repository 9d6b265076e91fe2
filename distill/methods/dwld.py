"""DWLD: a small network weights every non-target class of every pixel."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill.base import Batch, DistillationModule, NetworkOutput
from distill.checks import check_at_least, check_finite, check_option, check_positive, check_weights
from distill.errors import UserError
from distill.losses import dwld_terms
from distill.losses.dwld import Form
from distill.methods.parts.adaptors import convolve_to
from distill.methods.parts.classes import target_classes
from distill.methods.parts.warmup import warmup_share


class DynamicWeightController(nn.Module):
    r"""Computes the weight of every class at every position, by an MLP on the prediction there (LIX, eqs. 6-9).

    .. math::
        \beta = (\beta_{\max} - \beta_{\min}) \, \mathrm{sigmoid}(\mathrm{MLP}(\Omega)) + \beta_{\min}, \quad
        \Omega = \mathrm{Concat}(p, c), \quad c = -\sum_i p_i \log p_i

    All positions share the MLP, so its layers are 1x1 convolutions with a ReLU between them. Each has as many outputs
    as there are classes. The prediction is a constant: no gradient flows to it.

    Args:
        layers: The number of layers of the MLP, 1 or more; 3 in the paper, which tries 1 to 5.
        confidence: Whether the entropy c, in nats, is an input beside the probabilities p; True in the paper.
        source: Whose prediction is the input; the student's in the paper.
        dropout: The share of hidden units dropped in training; 0 in the paper, which tries it.
        beta_min: The lowest weight; the paper names no value. 1 is the lowest beta that DKD's authors tried.
        beta_max: The highest weight; the paper names no value. 10 is the highest beta that DKD's authors tried.

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
        check_at_least(1, layers=layers)
        if not 0 <= dropout < 1:
            raise UserError(f"dropout must lie in [0, 1), got {dropout}")
        check_option("source", source, ("student", "teacher"))
        check_finite(beta_min=beta_min, beta_max=beta_max)
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
        values = logits.unsqueeze(-1).flatten(2).softmax(1)
        if self.confidence:
            values = torch.cat([values, torch.special.entr(values).sum(1, keepdim=True)], 1)
        for index, layer in enumerate(self.layers):
            if index > 0:
                values = self.dropout(values.relu())
            values = convolve_to(logits.shape[1], layer, values)
        return self.beta_min + (self.beta_max - self.beta_min) * values.sigmoid().view(logits.shape)


class DWLD(DistillationModule):
    """Dynamically-weighted logit distillation (LIX, Guo et al., IEEE TIP 2025, arXiv:2403.08215, eqs. 6-12).

    Needs: ``target``.

    Trains: the controller, an MLP on the classes.

    ``hard_weight * CE + weight * (alpha TCLD + NCLD)``: DKD with a weight for the divergence at every non-target class
    of every pixel. A small network, the controller, computes the weights from the student's prediction. It trains with
    the student and on the same loss, as in the paper, so it learns to lower the weights.

    With the paper's sum (``kl``) the controller finds weights that make the loss negative, and the student gets worse,
    see ``docs/lix_ablation.md``. So the default here is ``bregman``; the loss functions have the paper's form as their
    default. With ``bregman`` the weights end near ``beta_min``, which is close to DKD with that ``beta``.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`.
        alpha: The weight of TCLD; 1 in the paper.
        temperature: T, which divides the logits of both networks in the loss; 1 in the paper.
        form: How unequal weights enter the divergence of the non-target classes; see
            :func:`~distill.losses.dwld_terms`.
        weight: The weight of the term, lambda_L of eq. 21; the best of the paper's ratios to the hard loss is 1 : 2.
        controller: Computes the weights; by default as in the paper.
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
        check_weights(self.hard_weight, weight=weight)
        check_at_least(0, alpha=alpha, warmup_epochs=warmup_epochs)
        check_positive(temperature=temperature)
        self.alpha = alpha
        self.temperature = temperature
        self.form = form
        self.weight = weight
        self.controller = controller or DynamicWeightController()
        self.warmup_epochs = warmup_epochs

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms of equation 10."""
        target = target_classes(self, batch)
        ignored = (target == self.ignore_index).unsqueeze(1)
        predictions = (output.prediction.detach().masked_fill(ignored, 0) for output in (student, teacher))
        tcld, ncld = dwld_terms(
            student.prediction,
            teacher.prediction,
            target,
            self.controller(*predictions),
            temperature=self.temperature,
            form=self.form,
            ignore_index=self.ignore_index,
        )
        weight = self.weight * warmup_share(self.current_epoch, self.warmup_epochs)
        return {"tcld": weight * self.alpha * tcld, "ncld": weight * ncld}
