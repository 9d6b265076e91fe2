"""The multilayer perceptrons of the PSSM and NTDH experiments."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected layers with ReLU between them, on the flattened input.

    NTDH (Table I) uses 25-40-8 (0.0014 M parameters) on scikit-learn data and three layers of 0.53 M parameters on
    MNIST; PSSM two layers. Without hidden layers it is a linear classifier. Layers to tap are ``hidden.0``,
    ``hidden.1``, ... (after ReLU, ``(N, width)``) and ``classifier``.

    Args:
        in_features: Values in one sample, such as 784 for ``(1, 28, 28)``.
        num_classes: C, the number of logits.
        hidden: The widths of the hidden layers.
        dropout: The share of hidden values that are dropped in training.
    """

    def __init__(self, in_features: int, num_classes: int, hidden: Sequence[int] = (), dropout: float = 0.0) -> None:
        super().__init__()
        widths = [in_features, *hidden]
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(before, after), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else []))
            for before, after in pairwise(widths)
        )
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, C)`` for samples ``(N, *)``."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = layer(x)
        logits: Tensor = self.classifier(x)
        return logits
