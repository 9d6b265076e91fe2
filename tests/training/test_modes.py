"""Modes and types of the parts of a module when a fit begins."""

from __future__ import annotations

import torch

from distill.training.modes import ready_to_train
from tests.toys import make, prepared


def test_a_network_in_eval_mode_is_put_in_training_mode_and_single_layers_in_eval_mode_stay_so() -> None:
    module = make("KD")
    assert module.network is not None
    module.network.eval()
    ready_to_train(module, module.network)
    assert all(part.training for part in module.network.modules())
    module.network.get_submodule("norm").eval()
    ready_to_train(module, module.network)
    assert not module.network.get_submodule("norm").training


def test_losses_and_scores_stay_in_float32_beside_a_network_in_half_precision() -> None:
    module = prepared(make("hint and relations")).to(torch.bfloat16)
    assert module.network is not None
    ready_to_train(module, module.network)
    assert {weight.dtype for weight in module.network.parameters()} == {torch.bfloat16}
    others = [weight for name, weight in module.named_parameters() if not name.startswith("network.")]
    assert others
    assert {weight.dtype for weight in others} == {torch.float32}
