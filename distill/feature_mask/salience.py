"""NTDH: how much each input feature of the teacher has to do with its divergence from the student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from distill.errors import UserError
from distill.metrics import nontarget_jsd

Salience = Literal["permute", "zero", "solo"]
Predict = Callable[[dict[str, Tensor]], Tensor]


def feature_shape(modality: Tensor) -> torch.Size:
    """What one feature of a modality is: a value of ``(N, D)``, a position with all its channels of ``(N, C, *)``."""
    return modality.shape[1:] if modality.ndim == 2 else modality.shape[2:]


def count_features(modalities: Mapping[str, Tensor]) -> int:
    """The number of features of all modalities."""
    return sum(feature_shape(modality).numel() for modality in modalities.values())


def feature_divergence(
    predict: Predict,
    modalities: Mapping[str, Tensor],
    student: Tensor,
    target: Tensor,
    features: Iterable[int],
    *,
    salience: Salience = "permute",
    repeats: int = 10,
    fill: float = 0.0,
    seed: int = 0,
    rows: int = 4096,
    ignore_index: int = 255,
) -> Tensor:
    r"""The NCJSD of teacher and student where one input feature of the teacher is changed.

    .. math::
        p_i = \frac1M \sum_{m=1}^M \mathrm{NCJSD}(f_a(\tilde x^a_{i, m}), f_b(x^b))

    (NTDH, Algorithm 1, steps 6 to 12), the mean over all positions that count. The changed input is

    - ``"permute"``: feature i comes from other samples, shuffled anew in each of M repeats, as printed;
    - ``"zero"``: feature i is ``fill``, once;
    - ``"solo"``: all features but i are ``fill``, once.

    Several features are changed in one forward pass, each in a copy of the samples of its own.

    Args:
        predict: The teacher: makes logits ``(N, C, *spatial)`` of modalities by name, ``(N, *)`` each.
        modalities: What it sees of the samples.
        student: The student's logits for the same samples, ``(N, C, *spatial)``.
        target: Class indices, ``(N, *spatial)``.
        features: Which features to change: numbers from 0 on, through one modality after the other in the order of its
            positions.
        salience: How a feature is changed.
        repeats: M.
        fill: The value in place of what is taken away.
        seed: Of the permutations, which depend on it, the feature and the repeat alone.
        rows: About so many samples pass the teacher at once.
        ignore_index: Positions with this target do not count.

    Returns:
        One divergence a feature in nats, float64, in the order of ``features``.

    Raises:
        ValueError: ``salience`` is unknown.

    Source: Chen et al., the non-target divergence hypothesis (NTDH), Algorithm 1; ``"solo"`` is ours.
    """
    if salience not in get_args(Salience):
        raise UserError(f"salience must be one of {', '.join(get_args(Salience))}, got {salience!r}")
    count, copies = len(target), max(1, rows // len(target))
    wanted = list(features)
    divergences = []
    for repeat in range(repeats if salience == "permute" else 1):
        for part in (wanted[start : start + copies] for start in range(0, len(wanted), copies)):
            orders = [np.random.default_rng([seed, feature, repeat]).permutation(count) for feature in part]
            changed = _changed(modalities, part, torch.from_numpy(np.stack(orders)), salience, fill)
            logits = torch.cat(
                [
                    predict({name: values[start : start + rows] for name, values in changed.items()})
                    for start in range(0, len(part) * count, rows)
                ]
            )
            copied = [tensor.repeat(len(part), *[1] * (tensor.ndim - 1)) for tensor in (student, target)]
            jsd = nontarget_jsd(copied[0], logits, copied[1], ignore_index=ignore_index).double()
            divergences.append(jsd.view(len(part), -1).sum(1) / (target != ignore_index).sum().clamp(min=1))
    return torch.cat(divergences).view(-1, len(wanted)).mean(0)


def _changed(
    modalities: Mapping[str, Tensor], part: list[int], orders: Tensor, salience: Salience, fill: float
) -> dict[str, Tensor]:
    """A copy of all samples for each feature, in which that feature is changed, ``(copies * N, *)`` by name."""
    changed, first = {}, 0
    for name, modality in modalities.items():
        # (N, channels, features)
        flat = modality[:, None] if modality.ndim == 2 else modality.flatten(2)
        own = [(copy, feature - first) for copy, feature in enumerate(part) if 0 <= feature - first < flat.shape[2]]
        first += flat.shape[2]
        copies = flat.expand(len(part), *flat.shape).clone()
        if salience == "solo":
            copies.fill_(fill)
        for copy, feature in own:
            if salience == "permute":
                copies[copy, :, :, feature] = flat[orders[copy].to(flat.device), :, feature]
            else:
                copies[copy, :, :, feature] = fill if salience == "zero" else flat[:, :, feature]
        changed[name] = copies.view(-1, *modality.shape[1:])
    return changed
