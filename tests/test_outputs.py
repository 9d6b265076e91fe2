"""Networks of any library: their predictions, and auxiliary predictions that learn from the labels as well."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
from torch import Tensor, nn

from distill import Batch, Classification, DistillationModule, SemanticSegmentation, Supervised
from distill.feature_mask import FeatureMask
from distill.outputs import auxiliary_predictions_of, prediction_of
from distill.training.arguments import required
from tests.toys import CLASSES, DenseNet, Net, ToyData, make, make_batch, pair_arguments, quiet_trainer

logits, other, third = (torch.full((2, 4), float(value)) for value in range(3))


class Named(NamedTuple):
    logits: Tensor
    aux_logits: Tensor | None
    embedding: Tensor


@pytest.mark.parametrize(
    ("output", "auxiliary"),
    [
        (logits, []),
        (OrderedDict(out=logits, aux=other), [other]),
        ({"aux": [other, third], "logits": logits, "hidden_states": (logits,)}, [other, third]),
        (Named(logits, other, torch.zeros(2, 9, 9)), [other]),
        (Named(logits, None, torch.zeros(2, 9)), []),
        ((logits, other), [other]),
        ([logits, other, None], [other]),
    ],
)
def test_predictions_are_found_in_outputs_of_any_library(output: Any, auxiliary: list[Tensor]) -> None:
    assert prediction_of(output) is logits
    found = auxiliary_predictions_of(output)
    assert len(found) == len(auxiliary)
    assert all(one is expected for one, expected in zip(found.values(), auxiliary, strict=True))


@pytest.mark.parametrize(
    ("output", "names"),
    [
        ({"logits": logits, "aux_loss": torch.tensor(0.3), "aux_features": logits, "aux": torch.tensor(1.0)}, []),
        (
            {"out": logits, "aux_logits2": logits, "aux_outputs": [logits, logits]},
            ["aux_logits2", "aux_outputs[0]", "aux_outputs[1]"],
        ),
        ([logits, None, other], ["item 2"]),
        ((logits, torch.zeros(2, 4, 1)), []),
    ],
)
def test_only_predictions_are_auxiliary_and_have_names(output: Any, names: list[str]) -> None:
    assert list(auxiliary_predictions_of(output)) == names


@pytest.mark.parametrize(
    "output", [None, {"features": logits}, (logits, torch.zeros(2, 9)), (logits, {"feats": []}), ()]
)
def test_an_output_without_a_prediction_is_refused(output: Any) -> None:
    with pytest.raises(
        TypeError, match=f"or a tuple of a prediction and auxiliary ones .*, got {type(output).__name__}"
    ):
        prediction_of(output)


def test_outputs_of_hugging_face_have_their_logits() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, num_labels=CLASSES
    )
    network = transformers.SegformerForSemanticSegmentation(config)
    module = Supervised(network, SemanticSegmentation(CLASSES), ["x"])
    batch = {"x": torch.randn(2, 3, 32, 32), "target": torch.zeros(2, 32, 32).long()}
    loss, terms, outputs = module.training_losses(batch)
    assert outputs["prediction"].shape == (2, CLASSES, 32, 32)
    assert list(terms) == ["hard"]
    loss.backward()


class Mixture(Net):
    """Returns the balancing loss of its experts beside its logits."""

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        return {"logits": super().forward(x, *others), "aux_loss": x.mean()}


def test_a_network_with_an_auxiliary_loss_of_its_own_learns(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(make("KD", student=Mixture(4)), ToyData())
    assert "train/aux" not in trainer.callback_metrics


class Headed(Net):
    """Returns auxiliary predictions beside its own: always, or in training alone."""

    def __init__(self, in_features: int, kind: str = "training") -> None:
        super().__init__(in_features)
        self.kind = kind
        self.aux_head = nn.Linear(6, 5 if kind == "wider" else CLASSES)

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        hidden = self.norm(self.first(torch.cat([x, *others], 1)))
        out, aux = self.head(hidden), self.aux_head(hidden)
        if self.kind == "always":
            return {"out": out, "aux": aux}
        if not self.training:
            return out
        return (
            {"out": out, "aux": aux} if self.kind == "wider" else (out, aux) if self.kind == "training" else [aux, "?"]
        )


def with_heads(method: str, kind: str = "training", **changes: Any) -> DistillationModule:
    return make(method, student=Headed(4, kind), **changes)


@pytest.mark.parametrize("kind", ["always", "training"])
@pytest.mark.parametrize("method", ["KD", "Combined"])
def test_auxiliary_heads_learn_from_the_labels_with_their_weight(method: str, kind: str, tmp_path: Path) -> None:
    module = with_heads(method, kind, hard_weight=0.5, aux_weight=0.3)
    before = module.student.aux_head.weight.clone()  # type: ignore[union-attr, operator]
    batch = make_batch()
    loss, terms, _ = module.training_losses(batch)
    assert {"hard", "aux"} < terms.keys()
    others = sum(value for name, value in terms.items() if name not in ("hard", "aux"))
    torch.testing.assert_close(loss, 0.5 * (terms["hard"] + 0.3 * terms["aux"]) + others)
    loss.backward()
    assert all(
        parameter.grad is not None for parameter in required(module.student, "student", module).parameters()
    )  # or DDP fails
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, ToyData())
    assert {"train/aux", "train/hard"} < trainer.callback_metrics.keys()
    assert not torch.equal(module.student.aux_head.weight, before)  # type: ignore[union-attr, arg-type]


def test_each_auxiliary_prediction_counts_in_the_size_of_the_target() -> None:
    class Deep(DenseNet):
        def forward(self, x: Tensor, *others: Tensor) -> Any:
            out = super().forward(x, *others)
            return [out, out[:, :, ::2, ::2], 2 * out[:, :, :1, :1]]

    module = Supervised(Deep(4), SemanticSegmentation(CLASSES), ["x_b"], aux_weight=1.0)
    batch = make_batch(method="KD on maps")
    with torch.no_grad():
        torch.manual_seed(0)
        loss, terms, _ = module.training_losses(batch)
        torch.manual_seed(0)
        predictions = module.network(batch["x_b"])  # type: ignore[misc]
        losses = [module.hard_loss(module.at_targets(prediction, batch), batch) for prediction in predictions]
    torch.testing.assert_close(terms["hard"], losses[0])
    torch.testing.assert_close(terms["aux"], losses[1] + losses[2])
    torch.testing.assert_close(loss, sum(losses))
    without = Supervised(Deep(4), SemanticSegmentation(CLASSES), ["x_b"], aux_weight=0.0)
    assert list(without.training_losses(batch)[1]) == ["hard"]


def test_the_distillation_head_of_timm_learns() -> None:
    network: Any = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=CLASSES)
    network.set_distilled_training(True)
    module = Supervised(network.train(), Classification(CLASSES), ["x"])
    loss, _, _ = module.training_losses({"x": torch.randn(2, 3, 32, 32), "target": torch.arange(2)})
    loss.backward()
    assert network.head_dist.weight.grad.any()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("strange", "^the student Headed in training mode does not fit: a network must return a tensor, .* got list$"),
        (
            "wider",
            r"^an auxiliary head of the student Headed returns a prediction of shape \(2, 5\), but Classification",
        ),
    ],
)
def test_an_output_of_training_mode_that_does_not_fit_is_named_before_the_first_step(
    kind: str, message: str, tmp_path: Path
) -> None:
    module = with_heads("KD", kind)
    with pytest.raises((ValueError, TypeError), match=message):
        quiet_trainer(tmp_path, max_epochs=1).fit(module, ToyData())


@pytest.mark.parametrize(("changes", "count"), [({}, 1), ({"aux_weight": 0.0}, 0)])
def test_what_learns_as_an_auxiliary_prediction_is_told_once(
    changes: dict[str, Any], count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        quiet_trainer(tmp_path, max_epochs=1).fit(with_heads("KD", **changes), ToyData())
    line = "auxiliary predictions of the student Headed learn from the labels with aux_weight 0.4: item 1 (2, 4)"
    assert caplog.messages.count(line) == sum("auxiliary" in message for message in caplog.messages) == count


def test_heads_that_learn_nothing_are_told(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="^hard_weight is 0, so the auxiliary heads of the student Headed do not"):
        quiet_trainer(tmp_path, max_epochs=1).fit(with_heads("KD", hard_weight=0), ToyData())


class Failing(DistillationModule):
    """Has a mistake that no shape explains."""

    def distillation_step(self, teacher: Any, student: Any, batch: Batch) -> dict[str, Tensor]:
        return {"odd": torch.zeros(3).view(2)}


def test_a_mistake_in_a_step_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^Failing fails in distillation_step, line \d+ of test_outputs.py: shape '\[2\]' is invalid"
    ):
        quiet_trainer(tmp_path).fit(Failing(**pair_arguments()), ToyData())


def test_auxiliary_heads_of_both_networks_learn_where_both_are_trained() -> None:
    arguments = pair_arguments(teacher=Headed(10, "always"), student=Headed(4))
    module = FeatureMask(**arguments, aux_weight=0.3)
    loss, terms, _ = module.training_losses(make_batch())
    assert set(terms) == {"distance", "hard", "aux", "teacher_hard", "teacher_aux"}
    weights = {"aux": 0.3, "teacher_aux": 0.3}
    torch.testing.assert_close(loss, sum(weights.get(name, 1) * value for name, value in terms.items()))
    loss.backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_the_heads_of_a_trained_teacher_are_checked_before_the_first_step(tmp_path: Path) -> None:
    module = FeatureMask(**pair_arguments(teacher=Headed(10, "wider")))
    with pytest.raises(
        ValueError, match=r"^an auxiliary head of the teacher Headed returns a prediction of shape \(2, 5\)"
    ):
        quiet_trainer(tmp_path, max_epochs=1).fit(module, ToyData())
