from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.checkpoint import load_network, looks_untrained
from distill.models import HuggingFaceDepth
from tests.test_checkpoint import assert_equal_weights
from tests.weight_files.hub_cache import REVISION, cached, empty_cache

pytest.importorskip("transformers")

GLPN = {
    "model_type": "glpn",
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 8,
    "max_depth": 80,
}
DINO = {
    "model_type": "dinov2",
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
    "reshape_hidden_states": False,
}
DEPTH_ANYTHING = {
    "model_type": "depth_anything",
    "depth_estimation_type": "metric",
    "max_depth": 80,
    "backbone_config": DINO,
    "reassemble_hidden_size": 16,
    "neck_hidden_sizes": [8, 8, 8, 8],
    "fusion_hidden_size": 8,
    "head_hidden_size": 8,
}
DPT = {
    "model_type": "dpt",
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 16,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [8, 8, 8, 8],
    "fusion_hidden_size": 8,
}
ZOE = {
    "model_type": "zoedepth",
    "backbone_config": DINO | {"model_type": "beit", "patch_size": 16, "image_size": 64},
    "backbone_hidden_size": 16,
    "neck_hidden_sizes": [8, 8, 8, 8],
    "fusion_hidden_size": 8,
    "bottleneck_features": 8,
    "bin_embedding_dim": 8,
    "num_attractors": [4, 2, 2, 1],
    "bin_configurations": [{"n_bins": 8, "min_depth": 0.001, "max_depth": 80.0, "name": "kitti"}],
}
CONFIGS: dict[str, dict[str, Any]] = {"glpn": GLPN, "depth_anything": DEPTH_ANYTHING, "dpt": DPT, "zoedepth": ZOE}


class Answer(nn.Module):
    """Answers with the first channel of what it sees, and remembers it."""

    config = SimpleNamespace(patch_size=14)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        self.seen = pixel_values
        return SimpleNamespace(predicted_depth=pixel_values[:, 0])


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answer:
    answer = Answer()
    monkeypatch.setattr("distill.models.hugging_face._network", lambda name_or_config: answer)
    return answer


@pytest.mark.parametrize("model_type", CONFIGS)
def test_depth_has_the_size_of_the_image_whatever_it_is(model_type: str) -> None:
    network = HuggingFaceDepth(CONFIGS[model_type])
    depth = network(torch.randn(2, 3, 50, 75))
    assert depth.shape == (2, 1, 50, 75)
    assert ((depth >= 1e-3) & (depth <= 80)).all()


@pytest.mark.parametrize("model_type", ["glpn", "depth_anything"])
def test_a_metric_network_is_trained_as_a_student(model_type: str) -> None:
    torch.manual_seed(0)
    network = HuggingFaceDepth(CONFIGS[model_type])
    image = torch.randn(2, 3, 50, 75)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    errors = []
    for _ in range(10):
        error = (network(image) - 20).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.95 * errors[0]


def test_weights_of_a_folder_are_loaded_and_known_as_such(tmp_path: Path) -> None:
    original = HuggingFaceDepth(GLPN)
    assert looks_untrained(original)
    original.network.save_pretrained(tmp_path)
    loaded = HuggingFaceDepth(str(tmp_path))
    assert not looks_untrained(loaded)
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(image), original.eval()(image))


def test_a_network_of_hugging_face_takes_its_weights_by_name_or_starts_from_those_of_its_own_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = empty_cache(tmp_path, monkeypatch)
    original = HuggingFaceDepth(GLPN)
    original.network.save_pretrained(tmp_path / "saved")
    cached(hub, {name: (tmp_path / "saved" / name).rename for name in ("config.json", "model.safetensors")})
    for name in ("org/name", "hf://org/name", f"hf://org/name@{REVISION}"):
        assert_equal_weights(HuggingFaceDepth(pretrained=name), original)
    untrained = HuggingFaceDepth("org/name", pretrained=False)
    assert looks_untrained(untrained)
    load_network(untrained, "hf://org/name")
    assert_equal_weights(untrained, original)
    with pytest.raises(OSError, match=r"^org/other is no depth network with safetensors: "):
        HuggingFaceDepth(pretrained="org/other")
    with pytest.raises(OSError, match=r"^org/other has no configuration: "):
        HuggingFaceDepth("org/other", pretrained=False)
    with pytest.raises(ValueError, match="pretrained 'org/name' is a model of its own: leave out name_or_config"):
        HuggingFaceDepth(GLPN, pretrained="org/name")
    with pytest.raises(ValueError, match="has no model: give pretrained, a name of the hub or a local folder"):
        HuggingFaceDepth()


def test_a_base_model_takes_its_weights_from_the_file_of_a_model_with_a_head(tmp_path: Path) -> None:
    whole = HuggingFaceDepth(GLPN).network
    whole.save_pretrained(tmp_path)
    base = type(whole.glpn)(whole.config)
    load_network(base, tmp_path)
    assert_equal_weights(base, whole.glpn)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    network = HuggingFaceDepth(GLPN).network
    network.config.save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="is no depth network with safetensors"):
        HuggingFaceDepth(str(tmp_path))


@pytest.mark.parametrize(
    ("processor", "mean", "std"),
    [
        (None, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ({"image_processor_type": "DPTImageProcessor", "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]},
         [0.5, 0.4, 0.3], [0.5, 0.6, 0.7]),
        ({"image_processor_type": "GLPNImageProcessor"}, [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    ],
    ids=["folder of weights alone", "DPT", "GLPN"],
)  # fmt: skip
def test_the_image_is_normalised_as_the_models_own_processor_does(
    tmp_path: Path, answering: Answer, processor: dict[str, Any] | None, mean: list[float], std: list[float]
) -> None:
    if processor is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    colour = torch.tensor([0.2, 0.5, 0.9])
    normalised = (colour - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    HuggingFaceDepth(str(tmp_path))(normalised.view(1, 3, 1, 1).expand(1, 3, 28, 28))
    expected = (colour - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(answering.seen[0, :, 5, 5], expected)


def test_a_normalisation_can_be_given(answering: Answer) -> None:
    black = -torch.tensor([0.485, 0.456, 0.406]) / torch.tensor([0.229, 0.224, 0.225])
    network = HuggingFaceDepth({}, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.125))
    network(black.view(1, 3, 1, 1).expand(1, 3, 28, 28))
    torch.testing.assert_close(answering.seen[0, :, 0, 0], torch.tensor([-1.0, -2.0, -4.0]))


def test_the_network_sees_the_nearest_multiple_of_its_patches_and_answers_in_the_images_size(
    answering: Answer,
) -> None:
    image = torch.rand(1, 3, 50, 5) + 1
    depth = HuggingFaceDepth({})(image)
    assert answering.seen.shape == (1, 3, 56, 14)
    torch.testing.assert_close(answering.seen, F.interpolate(image, size=(56, 14), mode="bilinear"))
    torch.testing.assert_close(depth, F.interpolate(answering.seen[:, :1], size=(50, 5), mode="bilinear"))


@pytest.mark.parametrize(
    ("arguments", "answer", "depth"),
    [
        ({}, 12.0, 12.0),
        ({}, 100.0, 80.0),
        ({}, -1.0, 0.001),
        ({"scale": 2.0, "shift": 1.0}, 12.0, 25.0),
        ({"inverse": True, "scale": 0.01, "shift": 0.05}, 15.0, 5.0),
        ({"inverse": True}, 0.0, 80.0),
        ({"inverse": True}, -3.0, 80.0),
        ({"inverse": True, "min_depth": 0.5}, 10.0, 0.5),
    ],
)
def test_an_answer_becomes_metres(answering: Answer, arguments: dict[str, Any], answer: float, depth: float) -> None:
    torch.testing.assert_close(
        HuggingFaceDepth({}, **arguments)(torch.full((1, 3, 14, 14), answer)), torch.full((1, 1, 14, 14), depth)
    )


def test_the_infinite_depth_of_a_pixel_does_not_bleed_into_its_neighbours(answering: Answer) -> None:
    image = torch.full((1, 3, 28, 50), 0.1)
    image[..., :13] = 0
    depth = HuggingFaceDepth({}, inverse=True)(image)
    metres = 1 / answering.seen[:, :1].clamp(min=1 / 80)
    torch.testing.assert_close(depth, F.interpolate(metres, size=(28, 50), mode="bilinear"))


def test_inverse_depth_is_not_taken_for_metres() -> None:
    relative = DEPTH_ANYTHING | {"depth_estimation_type": "relative"}
    with pytest.raises(ValueError, match="returns inverse depth: give inverse=True with scale and shift"):
        HuggingFaceDepth(relative)
    assert HuggingFaceDepth(relative, inverse=True)(torch.randn(1, 3, 28, 28)).shape == (1, 1, 28, 28)


@pytest.mark.parametrize(
    ("name_or_config", "arguments", "message"),
    [
        (GLPN, {"mean": (0.5, 0.5, 0.5)}, "mean and std must be given together"),
        ({"depths": [1]}, {}, r"needs its model_type, got \['depths'\]"),
        (GLPN, {"min_depth": 0.0}, "0 < min_depth < max_depth"),
    ],
)
def test_what_makes_no_network_is_refused(
    name_or_config: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        HuggingFaceDepth(name_or_config, **arguments)


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing is no depth network with safetensors: "):
        HuggingFaceDepth(str(tmp_path / "nothing"))


def test_without_transformers_the_error_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'crossdistill\[hf\]'"):
        HuggingFaceDepth(GLPN)
