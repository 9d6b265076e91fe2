"""Features have their channels on dim 1, however a network stores them; tokens of images are maps."""

from __future__ import annotations

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import Tensor, nn

from distill.layouts import FeatureLayout
from distill.taps import FeatureTaps

image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
wide = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0))


def raw(network: nn.Module, layer: str, *inputs: Tensor) -> Tensor:
    """What a layer returns."""
    outputs: list[Any] = []
    with network.get_submodule(layer).register_forward_hook(lambda module, inputs, output: outputs.append(output)):
        network(*inputs)
    output: Tensor = outputs[-1][0] if isinstance(outputs[-1], tuple) else outputs[-1]
    return output


def on_map(tokens: Tensor, prefix: int, height: int, width: int) -> Tensor:
    """Tokens row by row as a map."""
    rows = [tokens[:, prefix + row * width : prefix + (row + 1) * width] for row in range(height)]
    return torch.stack(rows, 1).permute(0, 3, 1, 2)


def vit(**settings: Any) -> Any:
    """A vision transformer of timm with patches of 8."""
    small = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 4}
    return timm.models.VisionTransformer(img_size=settings.pop("img_size", 32), **small | settings)


@pytest.mark.parametrize(
    ("settings", "inputs", "prefix", "size"),
    [
        ({}, image, 1, (4, 4)),
        ({"class_token": False, "global_pool": "avg"}, image, 0, (4, 4)),
        ({"reg_tokens": 4}, image, 5, (4, 4)),
        ({"img_size": (32, 64)}, wide, 1, (4, 8)),
    ],
)
def test_tokens_of_a_timm_network_are_a_map_of_its_patches(
    settings: Any, inputs: Tensor, prefix: int, size: tuple[int, int]
) -> None:
    net = vit(**settings).eval()
    layers = ["patch_embed", "blocks.0", "blocks.1.norm1", "norm", "fc_norm"]
    _, features = FeatureTaps(net, layers)(inputs)
    assert torch.equal(features["patch_embed"], net.patch_embed.proj(inputs))
    for layer in layers[1:4]:
        assert torch.equal(features[layer], on_map(raw(net, layer, inputs), prefix, *size))
    assert features["fc_norm"].shape == (2, 24)  # pooled


def test_tokens_are_a_map_at_every_size_of_the_image() -> None:
    net = vit(dynamic_img_size=True, reg_tokens=2).eval()
    taps = FeatureTaps(net, ["blocks.1"])
    assert taps(image)[1]["blocks.1"].shape == (2, 24, 4, 4)
    for inputs, size in ((wide, (4, 8)), (wide.mT.contiguous(), (8, 4)), (image, (4, 4))):
        assert torch.equal(taps(inputs)[1]["blocks.1"], on_map(raw(net, "blocks.1", inputs), 3, *size))


def test_the_distillation_token_is_no_patch() -> None:
    net: Any = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1)
    _, features = FeatureTaps(net.eval(), ["blocks.0"])(image)
    assert torch.equal(features["blocks.0"], on_map(raw(net, "blocks.0", image), 2, 2, 2))


@pytest.mark.parametrize("embed_dim", [8, 16])  # with 16 both layouts have the same shape
def test_maps_of_swin_have_their_channels_first(embed_dim: int) -> None:
    settings: dict[str, Any] = {"depths": (1, 2), "embed_dim": embed_dim, "num_heads": (1, 2), "num_classes": 4}
    of_timm: Any = timm.models.SwinTransformer(img_size=64, patch_size=4, window_size=4, **settings).eval()
    large = torch.cat([wide, wide], 2)
    layers = ["patch_embed", "layers.0", "layers.1.blocks.1", "layers.1"]
    _, features = FeatureTaps(of_timm, layers)(large)
    for layer in layers:
        assert torch.equal(features[layer], raw(of_timm, layer, large).permute(0, 3, 1, 2))
    assert features["layers.1"].shape == (2, 2 * embed_dim, 8, 8)
    of_torchvision = torchvision.models.SwinTransformer([4, 4], embed_dim, [1, 2], [2, 2], [4, 4], num_classes=4).eval()
    _, features = FeatureTaps(of_torchvision, ["features.1", "features.3.0", "permute"])(large)
    for layer in ("features.1", "features.3.0"):
        assert torch.equal(features[layer], raw(of_torchvision, layer, large).permute(0, 3, 1, 2))
    assert torch.equal(features["permute"], raw(of_torchvision, "permute", large))


def test_tokens_of_torchvision_and_of_a_mix_transformer_of_smp_are_maps() -> None:
    net = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=4).eval()
    layer = "encoder.layers.encoder_layer_0"
    assert torch.equal(FeatureTaps(net, [layer])(image)[1][layer], on_map(raw(net, layer, image), 1, 4, 4))
    unet: Any = smp.Unet("mit_b0", encoder_weights=None, decoder_channels=(16, 8, 8, 4, 4)).eval()
    layers = ["encoder.block1.0.attn", "encoder.block2", "decoder"]
    _, features = FeatureTaps(unet, layers)(wide)
    assert [tuple(feature.shape[1:]) for feature in features.values()] == [(32, 8, 16), (64, 4, 8), (4, 32, 64)]
    assert torch.equal(features[layers[0]], on_map(raw(unet, layers[0], wide), 0, 8, 16))


@pytest.mark.parametrize(
    "net",
    [
        timm.create_model("test_resnet", pretrained=False),
        timm.create_model("test_convnext", pretrained=False),
        torchvision.models.mobilenet_v3_small(num_classes=4),
        smp.Unet("resnet18", encoder_weights=None, decoder_channels=(16, 8, 8, 4, 4)),
    ],
)
def test_maps_of_convolutional_networks_stay_as_they_are(net: Any) -> None:
    stages = ["layer1", "layer4", "stages.1", "features.1", "encoder.layer2", "decoder"]
    names = dict(net.named_modules())
    taps = FeatureTaps(net.eval(), [stage for stage in stages if stage in names])
    assert taps.layers
    taps(image)
    assert set(taps.layouts.values()) == {FeatureLayout("channels_first")}


def test_tokens_of_hugging_face_are_maps() -> None:
    transformers = pytest.importorskip("transformers")
    settings: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    dino = transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**settings)).eval()
    assert FeatureTaps(dino, ["layernorm"])(torch.zeros(2, 3, 28, 56))[1]["layernorm"].shape == (2, 16, 2, 4)
    swin = transformers.SwinModel(
        transformers.SwinConfig(
            image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
        )
    ).eval()
    _, features = FeatureTaps(swin, ["encoder.layers.0", "layernorm"])(image)
    assert torch.equal(features["layernorm"], on_map(raw(swin, "layernorm", image), 0, 8, 8))
    assert features["encoder.layers.0"].shape == (2, 16, 8, 8)


class Recurrent(nn.Module):
    """A sequence ``(N, L, C)`` through layers of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 8, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.convolution = nn.Conv1d(8, 6, 3)
        self.scale = nn.Softplus()

    def forward(self, x: Tensor) -> Tensor:
        encoded = self.encoder(self.rnn(x)[0])
        out: Tensor = self.scale(self.convolution(encoded.mT)).mean(2)
        return out


def test_sequences_have_their_channels_first() -> None:
    net = Recurrent().eval()
    sequence = torch.randn(2, 9, 3)
    layers = ["rnn", "encoder", "convolution", "scale"]
    _, features = FeatureTaps(net, layers)(sequence)
    assert [tuple(feature.shape) for feature in features.values()] == [(2, 8, 9), (2, 8, 9), (2, 6, 7), (2, 6, 7)]
    assert FeatureTaps(net, ["rnn"])(sequence[:, :3])[1]["rnn"].shape == (2, 8, 3)
    one = FeatureTaps(nn.Sequential(nn.Linear(3, 8)), ["0"])
    assert [one(sequence[:, :length])[1]["0"].shape[2] for length in (1, 9)] == [1, 9]
    with torch.no_grad():  # a fast path of torch runs no layer inside
        torch.testing.assert_close(features["encoder"], raw(net, "encoder", sequence).mT)
    with pytest.raises(ValueError, match=r"layer '0' returns \(9, 2, 8\), .* build the network with batch_first=True"):
        FeatureTaps(Swapped(), ["0"])(sequence)


class Swapped(nn.Sequential):
    """Stores ``(L, N, C)``."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self[0](x.transpose(0, 1)).mean(0)
        return out


class Volume(nn.Module):
    """Maps of three dims whose channels are last, and their tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv3d(1, 6, 2, 2)
        self.last = nn.Linear(6, 7)
        self.tokens = nn.Flatten(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.tokens(self.last(self.embed(x).movedim(1, -1))).mean(1)
        return out


def test_volumes_have_their_channels_first() -> None:
    net = Volume()
    _, features = FeatureTaps(net, ["last", "tokens"])(torch.randn(2, 1, 4, 6, 8))
    assert features["last"].shape == (2, 7, 2, 3, 4)
    assert torch.equal(features["tokens"], features["last"])


class Merging(nn.Module):
    """Merges the tokens of a volume over time, to more channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv3d(1, 6, 2, 2)
        self.norm, self.layer = nn.LayerNorm(6), nn.Linear(6 * 12, 9)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.embed(x).flatten(2).mT)
        out: Tensor = self.layer(tokens.reshape(len(x), -1, 6 * 12)).mean(1)
        return out


def test_tokens_that_were_merged_over_time_are_asked_for() -> None:
    with pytest.raises(ValueError, match="not clear which of the 12 tokens of layer 'layer' of Merging are positions"):
        FeatureTaps(Merging(), ["layer"])(torch.randn(2, 1, 48, 4, 6))


class Opaque(nn.Module):
    """A layer of no known kind between layers of both kinds."""

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 3, 1), nn.Linear(3, 3)
        self.layer = Constant(*size)

    def forward(self, x: Tensor) -> Tensor:
        self.layer(self.before(x))
        out: Tensor = self.after(x.mT.mT.movedim(1, -1)).mean((1, 2))
        return out


class Constant(nn.Module):
    def __init__(self, *size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(1.0, len(x) + 1).view(-1, *[1] * len(self.size)).expand(-1, *self.size)


def test_an_ambiguous_layout_is_asked_for_in_one_sentence_and_taken_as_it_is_given() -> None:
    with pytest.raises(
        ValueError,
        match=r"^it is not clear which dim of layer 'layer' of Opaque, which returns \(2, 5, 6, 7\), is that of the "
        "channels: give student_layout channels_first or channels_last$",
    ):
        FeatureTaps(Opaque(5, 6, 7), ["layer"], option="student_layout")(image)
    for layout, shape in (("channels_last", (2, 7, 5, 6)), ("channels_first", (2, 5, 6, 7))):
        taps = FeatureTaps(Opaque(5, 6, 7), ["layer", "before"], {"layer": layout})  # type: ignore[dict-item]
        features = taps(image)[1]
        assert features["layer"].shape == shape
        assert features["before"].shape == (2, 3, 32, 32)


class Latents(nn.Module):
    """A number of tokens that belongs to no map."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 2, 2)
        self.layer = nn.Linear(4, 4)
        self.tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(self.embed(x).flatten(2).mT[:, : self.tokens]).mean(1)
        return out


def test_tokens_that_belong_to_no_map_are_asked_for() -> None:
    with pytest.raises(
        ValueError,
        match=r"^it is not clear which of the 41 tokens of layer 'layer' of Latents are positions of an image: give "
        "layout tokens if the last ones are, else channels_last$",
    ):
        FeatureTaps(Latents(41), ["layer"])(image)
    assert FeatureTaps(Latents(41), ["layer"], "tokens")(image)[1]["layer"].shape == (2, 4, 6, 6)
    assert FeatureTaps(Latents(41), ["layer"], "tokens")(wide)[1]["layer"].shape == (2, 4, 4, 8)
    assert FeatureTaps(Latents(41), ["layer"], "channels_last")(image)[1]["layer"].shape == (2, 4, 41)
    assert FeatureTaps(Latents(1), ["layer"])(image)[1]["layer"].shape == (2, 4)  # a class token alone
    assert FeatureTaps(Linear(), ["layer"])(image)[1]["layer"].shape == (2, 5, 4, 4)


class Linear(nn.Module):
    """Embeds patches of 8 by a linear layer, beside a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = nn.functional.unfold(x, 8, stride=8).mT
        out: Tensor = self.layer(torch.cat([patches[:, :1], patches], 1)).mean(1)
        return out


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("nhwc", "layout must be one of channels_first, channels_last, tokens, got 'nhwc'"),
        ({"other": "tokens"}, r"layout names 'other', but the tapped layers are \['before'\]"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(layout: Any, message: str) -> None:
    with pytest.raises((ValueError, KeyError), match=message):
        FeatureTaps(Opaque(5), ["before"], layout)
    with pytest.raises(ValueError, match=r"tokens have the shape \(N, L, C\), but layer 'before' returns \(2, 3, 32"):
        FeatureTaps(Opaque(5), ["before"], "tokens")(image)


class Heard(nn.Module):
    """A spectrogram through a convolution, then its frames through a linear and a recurrent layer."""

    def __init__(self, averaged: bool) -> None:
        super().__init__()
        self.averaged = averaged
        self.convolution = nn.Conv2d(1, 8, 3, stride=4, padding=1)
        self.frames = nn.Linear(8 if averaged else 8 * 16, 6)
        self.recurrent = nn.GRU(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        map_of_x = self.convolution(x)
        frames = map_of_x.mean(2).mT if self.averaged else map_of_x.permute(0, 3, 1, 2).flatten(2)
        out: Tensor = self.recurrent(self.frames(frames))[0].mean(1)
        return out


@pytest.mark.parametrize("averaged", [True, False])
def test_frames_of_a_spectrogram_are_a_sequence_of_any_length(averaged: bool) -> None:
    net = Heard(averaged).eval()
    layers = ["frames", "recurrent"]
    taps = FeatureTaps(net, layers)
    for length in (256, 200, 300):
        spectrogram = torch.randn(2, 1, 64, length)
        _, features = taps(spectrogram)
        for layer in layers:
            assert torch.equal(features[layer], raw(net, layer, spectrogram).mT)
    assert FeatureTaps(net, ["convolution"])(spectrogram)[1]["convolution"].shape == (2, 8, 16, 75)


class Fused(nn.Module):
    """The tokens of two inputs, and those of learned queries, in one row."""

    def __init__(self, queries: int = 0, last: bool = False) -> None:
        super().__init__()
        self.last = last
        self.colours, self.depths = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(1, 8, 8, 8)
        self.queries = nn.Parameter(torch.randn(1, queries, 8))
        self.points = nn.Linear(4, 8)
        self.layer = nn.Linear(8, 8)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        parts = [self.colours(x).flatten(2).mT]
        if other is not None:
            parts.append(self.points(other) if other.ndim == 3 else self.depths(other).flatten(2).mT)
        queries = self.queries.expand(len(x), -1, -1)
        if queries.shape[1]:
            self.decoder(queries, parts[0])
        out: Tensor = self.layer(torch.cat([*parts, queries] if self.last else [queries, *parts], 1)).mean(1)
        return out


@pytest.mark.parametrize(
    ("net", "layer", "inputs"),
    [
        (Fused(), "layer", (image, image[:, :1])),  # 16 + 16
        (Fused(), "layer", (torch.cat([wide, wide], 2), wide[:, :1, :8, :16])),  # 64 + 2
        (Fused(18), "decoder", (image,)),  # queries: 2 more than positions
        (Fused(16), "decoder", (image,)),
        (Fused(3), "layer", (image,)),
        (Fused(), "points", (image, torch.randn(2, 16, 4))),  # as many points as patches
    ],
)
def test_tokens_of_two_kinds_are_asked_for(net: nn.Module, layer: str, inputs: tuple[Tensor, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^it is not clear which of the \d+ tokens of layer '{layer}' of Fused are"):
        FeatureTaps(net.eval(), [layer])(*inputs)


@pytest.mark.parametrize("count", [100, 1024])
def test_points_beside_an_image_are_a_sequence(count: int) -> None:
    net, points = Fused().eval(), torch.randn(2, count, 4)
    inputs = torch.randn(2, 3, 64, 64), points
    assert torch.equal(FeatureTaps(net, ["points"])(*inputs)[1]["points"], net.points(points).mT)


def test_a_class_token_after_the_positions_is_refused() -> None:
    assert FeatureTaps(Fused(1).eval(), ["layer"])(image)[1]["layer"].shape == (2, 8, 4, 4)
    net = Fused(1, last=True).eval()
    with pytest.raises(
        ValueError, match=r"^the class tokens of layer 'layer' of Fused do not come before the positions"
    ):
        FeatureTaps(net, ["layer"])(image)
    tapped = FeatureTaps(net, ["layer"], "channels_last")(image)[1]["layer"]
    assert torch.equal(tapped, raw(net, "layer", image).mT)


def test_tokens_in_another_order_than_row_by_row_are_refused() -> None:
    settings: Any = {"embed_dim": 8, "num_heads": 1, "stages": (1, 1), "mask_unit_size": (2, 2), "num_classes": 4}
    hiera = timm.models.Hiera(img_size=(32, 32), q_pool=1, **settings).eval()
    with pytest.raises(ValueError, match=r"^the tokens of layer 'blocks.0' of Hiera do not come row by row .* unrolls"):
        FeatureTaps(hiera, ["blocks.0"])(image)
    assert torch.equal(FeatureTaps(hiera, ["patch_embed"])(image)[1]["patch_embed"], hiera.patch_embed.proj(image))
    settings = {"num_levels": 2, "embed_dims": (8, 16), "num_heads": (1, 1), "depths": (1, 1), "num_classes": 4}
    nest = timm.models.Nest(img_size=32, patch_size=4, **settings).eval()
    with pytest.raises(ValueError, match=r"returns blocks of positions, \(2, 4, 16, 8\), and no map: name the level"):
        FeatureTaps(nest, ["levels.0.transformer_encoder"])(image)
    assert FeatureTaps(nest, ["levels.0"])(image)[1]["levels.0"].shape == (2, 8, 8, 8)


class Windows(nn.Module):
    """Stores windows or groups of positions, and gives them to a linear layer."""

    def __init__(self, samples: bool) -> None:
        super().__init__()
        self.samples = samples
        self.embed, self.layer = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.embed(x).unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3).flatten(3).permute(0, 2, 3, 1)
        out: Tensor = (
            self.layer(windows if self.samples else windows.flatten(0, 1)).flatten(0, -2).unflatten(0, (2, -1))
        )
        return out.mean(1)


def test_windows_are_no_maps_and_no_samples() -> None:
    with pytest.raises(ValueError, match=r"layer 'layer' returns \(8, 16, 5\), but its first dim .* of the 2 samples"):
        FeatureTaps(Windows(samples=False), ["layer"])(image)
    with pytest.raises(ValueError, match=r"which dim of layer 'layer' of Windows, which returns \(2, 4, 16, 5\), is"):
        FeatureTaps(Windows(samples=True), ["layer"])(image)


class Wrapped(nn.Module):
    """Normalises channels-first maps over their channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return out


def test_a_wrapped_normalisation_of_maps_that_are_as_high_as_they_have_channels_is_asked_for() -> None:
    for channels in (6, 8):
        net = nn.Sequential(nn.Conv2d(3, channels, 4, 4), Wrapped(channels), nn.GELU()).eval()
        taps = FeatureTaps(net, ["1"])
        if channels == 8:
            with pytest.raises(ValueError, match=r"layer '1' of Sequential, which returns \(2, 8, 8, 8\), is that of"):
                taps(image)
        else:
            assert torch.equal(taps(image)[1]["1"], raw(net, "1", image))


@pytest.mark.parametrize("over", [nn.Linear(8, 8), nn.LayerNorm(8)])
def test_a_layer_over_the_width_of_a_map_says_nothing_of_its_channels(over: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.Sequential(over, nn.GELU()), nn.Conv2d(5, 4, 1)).eval()
    _, features = FeatureTaps(net, ["0", "1", "2"])(image)
    assert [feature.shape[1] for feature in features.values()] == [5, 5, 4]
    with pytest.raises(ValueError, match=r"layer '1.0' of Sequential, which returns \(2, 5, 8, 8\), is that of the"):
        FeatureTaps(net, ["1.0"])(image)
    over_time = nn.Sequential(nn.Linear(9, 7), nn.Conv1d(3, 4, 1)).eval()
    with pytest.raises(
        ValueError, match=r"layer '0' of Sequential, which returns \(2, 3, 7\), is that of the channels"
    ):
        FeatureTaps(over_time, ["0"])(torch.randn(2, 3, 9))


def test_frames_of_a_spectrogram_without_convolutions_are_not_taken_for_patches() -> None:
    class Frames(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self[0](x.squeeze(1).mT).mean(1)
            return out

    with pytest.raises(ValueError, match="which of the 64 tokens of layer '0' of Frames are positions of an image"):
        FeatureTaps(Frames(nn.Linear(64, 5)), ["0"])(torch.randn(2, 1, 64, 64))
