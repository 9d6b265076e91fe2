from __future__ import annotations

import math
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from distill import Batch, Classification, Task
from distill.methods import KD
from tests.losses.cases import IGNORED, assert_near, by_equation, kl, random_case, softmax
from tests.methods.steps import Fixed, terms_of
from tests.toys import ON_DEPTH, Net, ToyData, make, make_batch, pair_arguments, quiet_trainer


@pytest.mark.parametrize("spatial", [(), (2, 3)])
def test_the_term_is_the_weighted_softened_divergence_of_each_position(spatial: tuple[int, ...]) -> None:
    case = random_case(samples=5, spatial=spatial)
    (name, term), *others = terms_of(KD(temperature=3.0, weight=0.7), case).items()
    assert (name, others) == ("kd", [])
    expected = by_equation(case, lambda s, t, _: 0.7 * 9 * kl(softmax(t / 3), softmax(s / 3)))
    labelled = case.target != IGNORED
    assert_near(term[labelled], expected[labelled])


def test_a_weighting_multiplies_each_sample_by_what_it_makes_of_both_predictions_and_the_labels() -> None:
    case, weighting = random_case(samples=5), Fixed()
    term = terms_of(KD(weighting=weighting), case)["kd"]
    assert_near(term, terms_of(KD(), case)["kd"] * torch.arange(5) / 5)
    assert weighting.asked is not None
    assert all(map(torch.equal, weighting.asked, case))


def step(module: KD, batch: Batch) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are trying to `self.log")
        return module.training_step(batch, 0)


def test_loss_is_a_tenth_cross_entropy_and_nine_tenths_divergence_over_the_labelled_samples() -> None:
    module = KD(**pair_arguments(student=Net(4).eval())).double()
    batch = {name: x.double() if x.is_floating_point() else x for name, x in make_batch().items()}
    batch["target"][2] = IGNORED
    output = step(module, batch)
    losses = [
        0.1 * -softmax(s).log()[label] + 0.9 * 16 * kl(softmax(t / 4), softmax(s / 4))
        for s, t, label in zip(
            output["prediction"], output["teacher_prediction"], batch["target"].tolist(), strict=True
        )
        if label != IGNORED
    ]
    assert len(losses) == 5
    assert_near(output["loss"], torch.stack(losses).mean())


def test_ignored_samples_teach_nothing() -> None:
    module = KD(**pair_arguments(student=Net(4).eval()))
    batch = make_batch()
    batch["target"][0] = IGNORED
    changed = {name: x.clone() for name, x in batch.items()}
    changed["x_a"][0], changed["x_b"][0] = 9.0, -9.0
    assert torch.equal(step(module, batch)["loss"], step(module, changed)["loss"])


def test_without_a_hard_weight_labels_only_tell_which_samples_count() -> None:
    module = KD(**pair_arguments(student=Net(4).eval()), hard_weight=0.0)
    batch = make_batch()
    other = batch | {"target": (batch["target"] + 1) % 4}
    assert torch.equal(step(module, batch)["loss"], step(module, other)["loss"])


class Unlabelled(ToyData):
    """Pairs without labels to train on, labelled ones to validate on."""

    def train_dataloader(self) -> Any:
        pairs = [{name: self.samples[i][name] for name in ("x_a", "x_b")} for i in range(10)]
        return torch.utils.data.DataLoader(pairs, batch_size=4)  # type: ignore[arg-type]


def test_without_a_hard_weight_pairs_need_no_labels(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(make("KD", hard_weight=0.0), Unlabelled())
    assert trainer.global_step == 3
    assert trainer.callback_metrics["train/kd"] > 0


def test_predictions_of_one_channel_are_refused_before_the_first_step_since_their_softmax_is_always_one(
    tmp_path: Path,
) -> None:
    arguments = pair_arguments(ON_DEPTH, hard_weight=0.1)
    sentence = r"^KD compares probabilities of classes, but the predictions have one channel, \(2, 1, 3, 4\): ResKD"
    with pytest.raises(ValueError, match=sentence):
        quiet_trainer(tmp_path).fit(KD(**arguments), ToyData(method=ON_DEPTH))


@pytest.mark.parametrize(("temperature", "wrong"), [(0.0, "positive"), (-1.0, "positive"), (math.nan, "finite")])
def test_a_temperature_that_is_not_positive_ends_before_the_first_step(
    temperature: float, wrong: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"temperature must be {wrong}, got {temperature}"):
        quiet_trainer(tmp_path).fit(KD(**pair_arguments(), temperature=temperature), ToyData())


class Pixels(Task):
    """One of three classes for each pixel."""

    monitor, mode, ignore_index = "val/accuracy", "max", IGNORED

    def loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(prediction, target, ignore_index=IGNORED, reduction="none")

    def counts(self, target: Tensor) -> Tensor:
        return (target != IGNORED).float()

    def metrics(self) -> MetricCollection:
        return MetricCollection({"accuracy": MulticlassAccuracy(3, average="micro", ignore_index=IGNORED)})

    def check(self, prediction: Tensor, target: Tensor, *, model: str, data: str) -> None:
        assert prediction.shape == (len(target), 3, *target.shape[1:])


class Scenes(ToyData):
    """Images and depth of 32 x 32 pixels, with a label for each scene or for each pixel."""

    num_classes = 3

    def __init__(self, *label_shape: int) -> None:
        target = torch.randint(3, (4, *label_shape))
        super().__init__({"image": torch.randn(4, 3, 32, 32), "depth": torch.rand(4, 1, 32, 32), "target": target})


def vit() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
        num_labels=3,
    )
    net: nn.Module = transformers.ViTForImageClassification(config)
    return net


def timm_teacher() -> nn.Module:
    net: nn.Module = timm.create_model("test_resnet", pretrained=False, in_chans=1, num_classes=3)
    return net.eval()


def u_net(channels: int) -> nn.Module:
    net: nn.Module = smp.Unet(
        "resnet18", encoder_weights=None, in_channels=channels, classes=3, decoder_channels=(16, 16, 8, 8, 8)
    )
    return net


def scene_arguments(**arguments: Any) -> dict[str, Any]:
    sgd = partial(torch.optim.SGD, lr=0.1)
    return {"teacher_inputs": ["depth"], "student_inputs": ["image"], "optimizer": sgd, **arguments}


@pytest.mark.parametrize("family", ["timm to Hugging Face", "smp to smp", "Hugging Face to timm"])
def test_networks_of_timm_smp_and_hugging_face_serve_unchanged(family: str, tmp_path: Path) -> None:
    task: Task = Classification(3)
    data, teacher_inputs = Scenes(), ["depth"]
    if family == "timm to Hugging Face":
        networks = {"teacher": timm_teacher(), "student": vit()}
    elif family == "Hugging Face to timm":
        student, teacher_inputs = timm.create_model("test_resnet", pretrained=False, num_classes=3), ["image"]
        networks = {"teacher": vit().eval(), "student": student}
    else:
        task, data = Pixels(), Scenes(32, 32)
        networks = {"teacher": u_net(1).eval(), "student": u_net(3)}
    module = KD(**scene_arguments(**networks, teacher_inputs=teacher_inputs), task=task)
    assert module.network is not None
    before = [parameter.clone() for parameter in module.network.parameters()]
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, data)
    assert trainer.callback_metrics["train/kd"] > 0
    assert 0 <= trainer.callback_metrics["val/accuracy"] <= 1
    assert any(not torch.equal(b, after) for b, after in zip(before, module.network.parameters(), strict=True))
    image = data.samples.batch["image"]
    assert module(image).shape == (4, 3, *data.samples.batch["target"].shape[1:])


def test_a_pretrained_hugging_face_student_arrives_in_eval_mode_and_trains_in_train_mode(tmp_path: Path) -> None:
    net: Any = vit()
    net.save_pretrained(tmp_path / "vit")
    student = type(net).from_pretrained(tmp_path / "vit")
    assert not student.training
    modes = []
    student.register_forward_hook(lambda module, *_: modes.append(module.training) if torch.is_grad_enabled() else None)
    module = KD(**scene_arguments(teacher=timm_teacher(), student=student), task=Classification(3))
    quiet_trainer(tmp_path, max_epochs=1).fit(module, Scenes())
    assert modes == [True]
