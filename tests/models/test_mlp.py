from __future__ import annotations

import pytest
import torch
from torch import nn

from distill.models import MLP
from distill.taps import FeatureTaps


@pytest.mark.parametrize(
    ("in_features", "classes", "hidden", "parameters"),
    [
        (25, 8, [40], 1_368),  # NTDH Table I: 0.0014 M
        (784, 10, [512, 256], 535_818),  # three layers
        (25, 2, [], 52),
    ],
)
def test_parameters_are_counted_as_in_the_papers(
    in_features: int, classes: int, hidden: list[int], parameters: int
) -> None:
    assert sum(p.numel() for p in MLP(in_features, classes, hidden).parameters()) == parameters


def test_without_hidden_layers_it_is_a_linear_classifier_of_the_flattened_sample() -> None:
    mlp, x = MLP(12, 3), torch.randn(5, 1, 3, 4)
    torch.testing.assert_close(mlp(x), x.reshape(5, 12) @ mlp.classifier.weight.T + mlp.classifier.bias)


def test_layers_are_tapped_after_their_relu_by_the_names_of_the_documentation() -> None:
    mlp, x = MLP(6, 3, [5, 4]), torch.randn(7, 6)
    prediction, features = FeatureTaps(mlp, ["hidden.0", "hidden.1", "classifier"])(x)
    assert [tuple(feature.shape) for feature in features.values()] == [(7, 5), (7, 4), (7, 3)]
    first = mlp.get_submodule("hidden.0.0")
    torch.testing.assert_close(features["hidden.0"], first(x).relu())
    assert features["hidden.1"].min() >= 0
    torch.testing.assert_close(mlp.classifier(features["hidden.1"]), prediction)


def test_dropout_drops_its_share_of_hidden_values_in_training_alone() -> None:
    torch.manual_seed(0)
    mlp = MLP(2, 2, [4000], dropout=0.25)
    nn.init.ones_(mlp.get_parameter("hidden.0.0.bias"))
    taps = FeatureTaps(mlp, ["hidden.0"])
    x = torch.zeros(1, 2)
    dropped = (taps(x)[1]["hidden.0"] == 0).float().mean().item()
    assert dropped == pytest.approx(0.25, abs=0.03)
    assert taps.network.eval() is mlp
    assert taps(x)[1]["hidden.0"].ne(0).all()


def test_without_dropout_training_and_evaluation_agree() -> None:
    mlp, x = MLP(6, 3, [5]), torch.randn(4, 6)
    assert torch.equal(mlp(x), mlp.eval()(x))
