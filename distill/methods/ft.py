"""FT: a paraphraser shortens the teacher's features to factors, a translator predicts them from the student's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.base import Batch, NetworkOutput
from distill.checks import check_positive, check_weights
from distill.losses import factor_loss, hint_loss
from distill.losses.parts.pooling import to_common_size
from distill.methods.parts.adaptors import Convolution
from distill.methods.parts.pairs import as_map, feature_pairs, require_pairs
from distill.methods.parts.staged import StagedDistillation


class FT(StagedDistillation):
    """Factor transfer (Kim et al., NeurIPS 2018, eqs. 1 to 4).

    Needs: pairs of layers.

    Trains: a paraphraser for each pair, in the first stage; a translator for each pair.

    The first ``stage_one_epochs`` train a paraphraser on each of the teacher's layers: an autoencoder with ``rate * C``
    channels in its middle, which reconstructs the features (eq. 1). The student does not learn in this stage. After it
    the paraphrasers are frozen, and the student trains on
    ``hard_weight * CE + weight * sum over the pairs of layers of the mean absolute difference`` between the teacher's
    factor and the translator's output on the student's features, both of length 1 (eqs. 2 to 4).

    Encoder, decoder and translator are three 3x3 convolutions with a leaky ReLU (0.1) after each, as in the paper,
    except after the decoder's last, because features may be negative. There is no batch normalisation between them,
    which some published code has. They have as many dims as the features; vectors are maps of one position. The larger
    factor of a pair is pooled (:func:`~distill.losses.parts.pooling.to_common_size`). The paper takes eq. 4 without the
    mean, with p = 1; published code takes the mean.

    Args:
        *args: As in :class:`~distill.base.DistillationModule`; ``teacher_layers`` and ``student_layers`` are pairs of
            maps or vectors, in the paper one pair: the ends of the last groups of convolutions.
        stage_one_epochs: The number of epochs of the first stage; 30 in published code.
        rate: k, the channels of a factor divided by those of the teacher; 0.5 to 4 in the paper, 0.5 in most tables.
        weight: The weight of the term; 500 in the authors' code on CIFAR-100.
        **kwargs: As in :class:`~distill.base.DistillationModule`.

    Raises:
        ValueError: There is no layer, teacher and student have different numbers of layers, or the rate is not
            positive; and as :class:`~distill.methods.parts.staged.StagedDistillation` does.
    """

    def __init__(
        self, *args: Any, stage_one_epochs: int = 30, rate: float = 0.5, weight: float = 500.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, stage_one_epochs=stage_one_epochs, **kwargs)
        require_pairs(self)
        check_positive(rate=rate)
        check_weights(self.hard_weight, weight=weight)
        self.rate = rate
        self.weight = weight
        self.encoders = nn.ModuleList(_Convolutions() for _ in self.teacher_layers)
        self.decoders = nn.ModuleList(_Convolutions(linear_end=True) for _ in self.teacher_layers)
        self.translators = nn.ModuleList(_Convolutions() for _ in self.student_layers)

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        """Equation 1 in the first stage, equation 4 in the second, for each sample."""
        modules = zip(self.encoders, self.decoders, self.translators, strict=True)
        values = []
        for (encoder, decoder, translator), pair in zip(modules, feature_pairs(self, student, teacher), strict=True):
            of_student, of_teacher = map(as_map, pair)
            channels = of_teacher.shape[1]
            factor_channels = max(1, round(self.rate * channels))
            factor = encoder(of_teacher, (channels, factor_channels, factor_channels))
            # also in the first stage, so that the translator's channels are found before training
            translated = translator(of_student, (of_student.shape[1], factor_channels, factor_channels))
            if self.in_stage_one:
                reconstruction = decoder(factor, (factor_channels, channels, channels))
                values.append(hint_loss(reconstruction, of_teacher, reduction="none"))
            else:  # the paraphraser is frozen: no gradient of the loss flows to its factor
                values.append(factor_loss(*to_common_size(translated, factor), reduction="none"))
        total, none = torch.stack(values).sum(0), student.prediction.new_zeros(())
        if self.in_stage_one:
            return {"reconstruction": total, "ft": none}
        return {"reconstruction": none, "ft": self.weight * total}


class _Convolutions(nn.Module):
    """Three 3x3 convolutions with a leaky ReLU after each; the first call tells their channels."""

    def __init__(self, linear_end: bool = False) -> None:
        super().__init__()
        self.slopes = (0.1, 0.1, 1.0 if linear_end else 0.1)
        self.layers = nn.ModuleList(Convolution() for _ in self.slopes)

    def forward(self, feature: Tensor, channels: Sequence[int]) -> Tensor:
        """``(N, C, *)`` to ``(N, channels[-1], *)``."""
        for layer, count, slope in zip(self.layers, channels, self.slopes, strict=True):
            feature = F.leaky_relu(layer(feature, count), slope)
        return feature
