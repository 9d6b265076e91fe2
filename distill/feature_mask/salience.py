"""NTDH: measures how each input feature of the teacher changes its divergence from the student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from distill.checks import check_option
from distill.metrics import nontarget_jsd

Salience = Literal["permute", "zero", "solo"]
Predict = Callable[[dict[str, Tensor]], Tensor]


def feature_shape(modality: Tensor) -> torch.Size:
    """The shape of a modality's features: a feature is a value of ``(N, D)``, or a position of ``(N, C, *)``."""
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
    r"""The NCJSD of teacher and student with one input feature of the teacher changed.

    .. math::
        p_i = \frac1M \sum_{m=1}^M \mathrm{NCJSD}(f_a(\tilde x^a_{i, m}), f_b(x^b))

    (NTDH, Algorithm 1, steps 6 to 12), the mean over all counted positions. The changed input is

    - ``"permute"``: feature i comes from other samples, with a new permutation in each of M repeats, as printed;
    - ``"zero"``: feature i is ``fill``, M = 1;
    - ``"solo"``: all features except i are ``fill``, M = 1.

    One forward pass changes several features, each in its own copy of the samples.

    Args:
        predict: The teacher: returns logits ``(N, C, *spatial)`` for modalities by name, each ``(N, *)``.
        modalities: The teacher's inputs for the samples.
        student: The student's logits for the same samples, ``(N, C, *spatial)``.
        target: Class indices, ``(N, *spatial)``.
        features: The numbers of the features to change. Features are numbered from 0 through all modalities in order,
            and within a modality by position.
        salience: The change of a feature.
        repeats: M for ``"permute"``.
        fill: The value that replaces removed features.
        seed: The seed of the permutations. A permutation depends only on the seed, the feature and the repeat.
        rows: The approximate number of samples in one forward pass of the teacher.
        ignore_index: Positions with this target do not count.

    Returns:
        One divergence per feature in nats, float64, in the order of ``features``.

    Raises:
        ValueError: ``salience`` is unknown.

    Source: Chen et al., the non-target divergence hypothesis (NTDH), Algorithm 1; ``"solo"`` is an addition of this
    project.
    """
    check_option("salience", salience, get_args(Salience))
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
    """One copy of all samples for each feature, with that feature changed; ``(copies * N, *)`` by name."""
    changed, first = {}, 0
    for name, modality in modalities.items():
        # (N, channels, features)
        flat = modality[:, None] if modality.ndim == 2 else modality.flatten(2)
        in_modality = [
            (copy, feature - first) for copy, feature in enumerate(part) if 0 <= feature - first < flat.shape[2]
        ]
        first += flat.shape[2]
        copies = flat.expand(len(part), *flat.shape).clone()
        if salience == "solo":
            copies.fill_(fill)
        for copy, feature in in_modality:
            if salience == "permute":
                copies[copy, :, :, feature] = flat[orders[copy].to(flat.device), :, feature]
            else:
                copies[copy, :, :, feature] = fill if salience == "zero" else flat[:, :, feature]
        changed[name] = copies.view(-1, *modality.shape[1:])
    return changed
