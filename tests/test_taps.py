from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import Tensor, nn

from distill.taps import FeatureTaps
from tests.toys import Net, ToyData, make, quiet_trainer


class Odd(nn.Module):
    """Layers that return a tuple, a list and nothing, one that runs twice, one never, and one with two names."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(3, 3)
        self.pair = Returning(lambda x: (x + 1, x + 2))
        self.pyramid = Returning(lambda x: [x, x[:, :1]])
        self.nothing = Returning(lambda x: None)
        self.empty = Returning(lambda x: ())
        self.unused = nn.Linear(3, 3)
        self.alias = self.twice

    def forward(self, x: Tensor) -> Tensor:
        self.pair(x), self.pyramid(x), self.nothing(x), self.empty(x)
        out: Tensor = self.twice(self.twice(x))
        return out


class Returning(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def test_features_are_what_the_layers_return_beside_the_networks_output() -> None:
    net = Net(3).eval()
    output, features = FeatureTaps(net, ["first", "norm"])(x)
    assert torch.equal(output, net(x))
    assert torch.equal(features["first"], net.first(x))
    assert torch.equal(features["norm"], net.norm(net.first(x)))


def test_features_come_in_the_order_in_which_layers_were_named_each_once() -> None:
    _, features = FeatureTaps(Net(3), ["head", "first", "head", "norm", "first"])(x)
    assert list(features) == ["head", "first", "norm"]


def test_gradients_flow_through_features() -> None:
    net = Net(3)
    _, features = FeatureTaps(net, ["first"])(x)
    features["first"].sum().backward()
    assert net.get_parameter("first.weight").grad is not None
    assert net.get_parameter("head.weight").grad is None


def test_without_layers_there_are_no_features() -> None:
    assert FeatureTaps(Net(3), [])(x)[1] == {}


def test_the_network_itself_can_be_tapped() -> None:
    net = Net(3).eval()
    assert torch.equal(FeatureTaps(net, [""])(x)[1][""], net(x))


def test_several_inputs_are_passed_on() -> None:
    net = Net(6).eval()
    output, _ = FeatureTaps(net, ["first"])(x, x + 1)
    assert torch.equal(output, net(x, x + 1))


def test_of_a_layer_that_runs_twice_the_last_output_is_kept_and_its_other_name_works_as_well() -> None:
    net = Odd()
    output, features = FeatureTaps(net, ["twice", "alias"])(x)
    assert torch.equal(features["twice"], output)
    assert torch.equal(features["alias"], output)


def test_of_a_tuple_the_first_tensor_is_kept() -> None:
    assert torch.equal(FeatureTaps(Odd(), ["pair"])(x)[1]["pair"], x + 1)


@pytest.mark.parametrize(("layer", "kind"), [("pyramid", "list"), ("nothing", "NoneType"), ("empty", "tuple")])
def test_a_layer_without_one_tensor_is_refused_and_spoils_no_other_call(layer: str, kind: str) -> None:
    net = Odd()
    taps = FeatureTaps(net, [layer])
    with pytest.raises(TypeError, match=f"layer '{layer}' returns {kind}, but only tensors can be tapped"):
        taps(x)
    assert net(x).shape == (5, 3)
    assert FeatureTaps(net, ["twice"])(x)[1]["twice"].shape == (5, 3)


def test_a_layer_that_does_not_run_is_named() -> None:
    with pytest.raises(KeyError, match="layer 'unused' took no part in the forward pass"):
        FeatureTaps(Odd(), ["twice", "unused"])(x)


@pytest.mark.parametrize(
    ("layer", "suggestion"),
    [
        ("fist", "did you mean one of 'first'"),
        ("heads", "did you mean one of 'head'"),
        ("encoder.stage9", "did you mean one of 'first', 'norm', 'dropout', 'head'"),  # nothing like it: what there is
    ],
)
def test_an_unknown_layer_is_answered_with_similar_ones(layer: str, suggestion: str) -> None:
    with pytest.raises(KeyError, match=f"Net has no layer '{layer}'; {suggestion}"):
        FeatureTaps(Net(3), ["first", layer])


def test_an_unknown_layer_leaves_no_hook_behind() -> None:
    net = Net(3)
    with pytest.raises(KeyError):
        FeatureTaps(net, ["first", "fist"])
    assert not net.first._forward_hooks


def test_nothing_is_kept_of_other_calls_of_the_network() -> None:
    net = Net(3).eval()
    taps = FeatureTaps(net, ["first"])
    net(x)
    assert taps._features == {}
    _, features = taps(x)
    net(2 * x)
    assert torch.equal(features["first"], net.first(x))
    assert taps._features == {}


def test_a_failed_call_leaves_nothing_behind() -> None:
    net = Net(3).eval()
    taps = FeatureTaps(net, ["first"])
    hook = net.norm.register_forward_hook(lambda *_: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception, match="stopped"):
        taps(x)
    assert taps._features == {}
    hook.remove()
    net(x)
    assert taps._features == {}


def test_two_taps_on_one_network_hear_their_own_layers_and_calls() -> None:
    net = Net(3).eval()
    first, both = FeatureTaps(net, ["first"]), FeatureTaps(net, ["head", "first"])
    assert list(first(x)[1]) == ["first"]
    assert list(both(x)[1]) == ["head", "first"]
    assert first._features == {}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda taps: pickle.loads(pickle.dumps(taps))])
def test_a_copy_is_wired_to_its_own_network(copied: Callable[[FeatureTaps], FeatureTaps]) -> None:
    taps = FeatureTaps(Net(3).eval(), ["first"])
    twin = copied(taps)
    assert twin.network is not taps.network
    nn.init.zeros_(twin.network.get_parameter("first.weight"))
    nn.init.zeros_(twin.network.get_parameter("first.bias"))
    assert not twin(x)[1]["first"].any()
    assert taps(x)[1]["first"].all()
    assert taps._features == twin._features == {}


def test_a_compiled_network_is_tapped_also_after_calls_without_taps() -> None:
    net = Net(3).eval()
    compiled = cast(nn.Module, torch.compile(net, backend="eager"))
    taps = FeatureTaps(compiled, ["_orig_mod.first"])
    for scale in (1, 2, 3):
        _, features = taps(scale * x)
        assert torch.equal(features["_orig_mod.first"], net.first(scale * x))
        compiled(x)


class InPlace(nn.Module):
    """Changes the output of its first layer in place: always, and once more in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 4)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(self.second(self.relu(self.first(x))))
        return out


@pytest.mark.parametrize("compiled", [False, True])
def test_a_feature_is_what_the_layer_returned_before_it_was_changed_in_place(compiled: bool) -> None:
    torch.manual_seed(0)
    net = InPlace().eval()
    taps = FeatureTaps(net, ["first", "second"])
    if compiled:
        net.compile(backend="eager")
    for mode in (False, True, True, False):  # what is changed in training alone is found in training
        net.train(mode)
        output, features = taps(x)
        first, second = net.first(x), net.second(net.first(x).relu())
        assert first.min() < 0
        assert torch.equal(features["first"], first)
        if not (compiled and mode):  # of compiled code only what was found before is known
            torch.testing.assert_close(features["second"], second)
        assert bool((output == 0).any()) is mode
    of_taps = torch.autograd.grad(features["first"].sin().sum(), list(net.first.parameters()))
    alone = torch.autograd.grad(net.first(x).sin().sum(), list(net.first.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(of_taps, alone, strict=True))


def test_a_change_in_place_is_found_in_inference_mode_and_moves_no_buffer_twice() -> None:
    net = InPlace().eval()
    with torch.inference_mode():
        assert torch.equal(FeatureTaps(net, ["first"])(x)[1]["first"], net.first(x))
    counting, twin = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True)) for _ in range(2))
    twin.load_state_dict(counting.state_dict())
    output, features = FeatureTaps(counting, ["1"])(x)
    assert features["1"].min() < 0
    (output.sum() + features["1"].square().sum()).backward()
    twin(x)
    for name, buffer in counting.named_buffers():
        torch.testing.assert_close(buffer, twin.get_buffer(name))


class ChangesInput(nn.Module):
    """Changes its input in place, and what its layer returned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Linear(3, 4), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.first(x.mul_(0.5)))
        return out


@pytest.mark.parametrize("inference", [False, True])
def test_an_input_that_the_network_changes_in_place_is_changed_once(inference: bool) -> None:
    net = ChangesInput().eval()
    taps = FeatureTaps(net, ["first"])
    with torch.inference_mode(inference):
        for _ in range(2):
            output, features = taps(x.clone())
            torch.testing.assert_close(features["first"], net.first(0.5 * x))
            torch.testing.assert_close(output, features["first"].relu())


class Replacing(Net):
    """Changes in place what its normalisation returned."""

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        normalised = self.norm(self.first(torch.cat([x, *others], dim=1)))
        logits: Tensor = self.head(self.dropout(nn.functional.relu_(normalised)))
        return logits


@pytest.mark.parametrize(
    ("method", "changes"), [("ARFD", {}), ("ARFD", {"compile": "aot_eager"}), ("LIX", {"cache_teacher": "cache"})]
)
def test_a_fit_with_changes_in_place_ends_as_one_without(method: str, changes: dict[str, Any], tmp_path: Path) -> None:
    if "cache_teacher" in changes:
        changes = {"cache_teacher": tmp_path}
    weights = []
    for network, settings in ((Net, {}), (Replacing, changes)):
        torch.manual_seed(0)
        module = make(method, teacher=network(10).eval(), student=network(4), **settings)
        torch.manual_seed(0)
        quiet_trainer(tmp_path).fit(module, ToyData())
        weights.append(module.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, msg=name)


@pytest.mark.parametrize("mode", [False, True])
def test_features_of_residual_networks_are_not_those_after_their_activations(mode: bool) -> None:
    for net, layers in (
        (timm.create_model("test_resnet", pretrained=False), ["conv1.1", "bn1", "layer1.0.bn1"]),
        (torchvision.models.resnet18(num_classes=4), ["bn1", "layer1.0.bn2"]),
        (smp.Unet("resnet18", encoder_weights=None, decoder_channels=(16, 8, 8, 4, 4)), ["encoder.bn1"]),
    ):
        network = cast(nn.Module, net).train(mode)
        before: dict[str, Tensor] = {}
        for layer in layers:
            keep = partial(before.__setitem__, layer)
            hook = lambda module, inputs, output, keep=keep: keep(output.clone())  # noqa: E731
            network.get_submodule(layer).register_forward_hook(hook)
        _, features = FeatureTaps(network, layers)(images)
        for layer in layers:
            assert features[layer].min() < 0
            assert torch.equal(features[layer], before[layer])


images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_stages_of_a_timm_network() -> None:
    net: Any = timm.create_model("test_resnet", pretrained=False, num_classes=4).eval()
    logits, features = FeatureTaps(net, ["layer2", "layer4"])(images)
    assert torch.equal(logits, net(images))
    assert torch.equal(features["layer4"], net.forward_features(images))
    assert features["layer2"].shape[2:] == (4, 4)


def test_layers_of_an_smp_u_net() -> None:
    net: Any = smp.Unet("resnet18", encoder_weights=None, classes=3, decoder_channels=(32, 16, 16, 8, 8)).eval()
    logits, features = FeatureTaps(net, ["decoder", "encoder.layer3"])(images)
    assert torch.equal(logits, net.segmentation_head(features["decoder"]))
    assert features["encoder.layer3"].shape == (2, 256, 2, 2)
    # the first of the encoder's maps is the image itself, which is no feature
    with pytest.raises(TypeError, match="layer 'encoder' returns list"):
        FeatureTaps(net, ["encoder"])(images)


def test_blocks_of_a_hugging_face_network() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=16
    )
    net = transformers.ViTForImageClassification(config).eval()
    names = [name for name, _ in net.named_modules()]
    block = "vit.layers.1" if "vit.layers.1" in names else "vit.encoder.layer.1"  # the latter before transformers 5
    output, features = FeatureTaps(net, [block, "vit.layernorm"])(images)
    assert torch.equal(output.logits, net(images).logits)
    assert features[block].shape == (2, 16, 2, 2)  # without the class token
    of_tokens = net.vit.layernorm(features[block].flatten(2).mT).mT.unflatten(2, (2, 2))
    torch.testing.assert_close(features["vit.layernorm"], of_tokens)
    with pytest.raises(TypeError, match=r"layer 'vit' returns BaseModelOutput.*: name a layer in it"):
        FeatureTaps(net, ["vit"])(images)
