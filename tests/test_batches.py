"""Batches as users have them: tuples, values that no network uses, sequences, and modalities that samples lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from distill import Batch, Classification, Supervised
from distill.batches import chosen_samples, modalities, named_batch, present, samples_in
from distill.feature_mask import FeatureMask
from distill.methods import KD, SP
from distill.outputs import NetworkOutput
from distill.training.presence import on_complete_samples
from distill.weighting import NontargetSampleMask
from tests.toys import CLASSES, Net, Samples, ToyData, make, make_batch, pair_arguments, quiet_trainer

NAMES = ["x_a", "x_b", "target", "index"]


class Pair(NamedTuple):
    x_a: Tensor
    x_b: Tensor
    target: Tensor


def tuples(batch: Batch, batch_size: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*(batch[name] for name in NAMES)), batch_size=batch_size)


def collated(samples: list[dict[str, Any]]) -> Batch:
    """Tensors of one size stacked, everything else in lists."""
    columns = {name: [sample[name] for sample in samples] for name in samples[0]}
    stacked = ("x_a", "x_b", "target", "index", "ids", "attention", "x_a_present", "x_b_present")
    return {name: torch.stack(values) if name in stacked else values for name, values in columns.items()}


class Seen(Callback):
    """Keeps the batches that callbacks get, and what the steps return for them."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.outputs: list[Any] = []

    def keep(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.batches.append(batch)
        self.outputs.append(outputs)

    on_train_batch_end: Any = keep
    on_validation_batch_end: Any = keep


def fitted(folder: Path, module: Any, loader: Any, **settings: Any) -> tuple[dict[str, Tensor], Seen]:
    """The weights after an epoch, and what a callback saw."""
    pl.seed_everything(3, verbose=False)
    seen = Seen()
    quiet_trainer(folder, max_epochs=1, callbacks=[seen], **settings).fit(module, loader, loader)
    return module.state_dict(), seen


def test_tuples_of_a_plain_loader_train_validate_and_predict_as_dictionaries_do(tmp_path: Path) -> None:
    batch = make_batch(10)
    expected, _ = fitted(tmp_path, make("CRD"), ToyData(batch).val_dataloader())
    module = make("CRD", batch_names=NAMES)
    found, seen = fitted(tmp_path, module, tuples(batch))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(list(one) == NAMES for one in seen.batches)
    trainer = quiet_trainer(tmp_path)
    (scores,) = trainer.test(module, tuples(batch), verbose=False)
    assert {"test/accuracy", "test/hard"} <= scores.keys()
    predictions: Any = trainer.predict(module, tuples(batch))
    assert torch.equal(torch.cat([part["index"] for part in predictions]), batch["index"])
    assert module.batch_names == tuple(NAMES)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            (),
            r"^the batch is a list of 4 items without names, \(2, 6\), .*: name .*as in \[x_a, x_b, x_c, target\]$",
        ),
        (("x_a", "x_b"), r"^batch_names has 2 names, x_a, x_b, but a batch has 4 items: \(2, 6\), \(2, 4\), "),
    ],
)
def test_a_tuple_without_names_for_its_items_is_one_sentence_before_the_first_step(
    names: Any, message: str, tmp_path: Path
) -> None:
    module = make("KD", batch_names=names)
    with pytest.raises((TypeError, ValueError), match=message):
        quiet_trainer(tmp_path).fit(module, tuples(make_batch(10)))
    assert module.global_step == 0


def test_the_last_tuple_of_one_sample_is_tried_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the last of an epoch's 4 batches has one sample, on which the network Net"):
        quiet_trainer(tmp_path).fit(make("KD", batch_names=NAMES), tuples(make_batch(10), batch_size=3))


def test_names_are_a_list_with_one_for_each_item() -> None:
    for wrong in ("x_b", ["x_a", "x_a"]):
        with pytest.raises(ValueError, match=r"^batch_names must be a list with a name of its own for each item"):
            make("KD", batch_names=wrong)


def test_a_named_tuple_has_its_names_and_a_hook_of_the_data_module_gets_what_the_loader_gives(tmp_path: Path) -> None:
    batch, given = make_batch(10), []

    class Own(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            pairs = [Pair(*(batch[name][at] for name in NAMES[:3])) for at in range(10)]
            return DataLoader(pairs, batch_size=5)  # type: ignore[arg-type]

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            given.append(type(batch))
            return batch

    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(make("KD"), Own())
    assert set(given) == {Pair}
    assert trainer.global_step == 2


EXTRAS: dict[str, Any] = {
    "name": "a/b.png",
    "note": None,
    "size": (3, 4),
    "meta": {"camera": "left", "boxes": [torch.zeros(2, 4)]},
    "boxes": torch.full((1, 4), torch.nan),
}


@pytest.mark.parametrize("method", ["KD", "static mask", "feature mask"])
def test_values_that_no_network_uses_pass_through_a_fit(method: str, tmp_path: Path) -> None:
    batch = make_batch(10)
    torch.save(Net(4).state_dict(), tmp_path / "reference.pt")

    def module() -> Any:
        if method == "feature mask":
            return FeatureMask(**pair_arguments(), repeats=1)
        if method == "KD":
            return make("KD")
        return KD(
            **pair_arguments(), weighting=NontargetSampleMask(0.5, reference_checkpoint=tmp_path / "reference.pt")
        )

    def loader(extras: dict[str, Any]) -> Any:
        samples = [Samples(batch)[at] | {"scale": 0.5 * at} | extras for at in range(10)]
        return DataLoader(samples, batch_size=5, collate_fn=collated)  # type: ignore[arg-type]

    expected, _ = fitted(tmp_path, module(), loader({}))
    found, seen = fitted(tmp_path, module(), loader(EXTRAS), enable_progress_bar=False)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert seen.batches[0]["name"] == ["a/b.png"] * 5
    (predicted, _) = quiet_trainer(tmp_path).predict(module(), loader(EXTRAS))  # type: ignore[misc]
    assert predicted["name"] == ["a/b.png"] * 5  # type: ignore[call-overload]


def test_a_value_that_no_network_sees_is_not_named_as_the_cause_of_a_loss_of_nan(tmp_path: Path) -> None:
    batch = make_batch(10)
    batch |= {"weight": torch.full((10,), torch.nan), "x_a_present": torch.arange(10) != 7}
    batch["x_a"][7:9] = torch.nan
    with pytest.raises(ValueError, match=r"the loss is nan .*: 'x_a' is not finite in samples 8 of the data set$"):
        quiet_trainer(tmp_path, max_epochs=1).fit(make("KD"), DataLoader(Samples(batch), batch_size=10))


class Text(nn.Module):
    """Embeds tokens and averages those that the mask keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.first = nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)
        self.kinds: list[torch.dtype] = []

    def forward(self, ids: Tensor, attention: Tensor) -> Tensor:
        self.kinds = [ids.dtype, attention.dtype]
        tokens = self.first(self.embedding(ids)) * attention[..., None]
        logits: Tensor = self.head(tokens.sum(1) / attention.sum(1, keepdim=True))
        return logits


class Points(nn.Module):
    """The mean of the points of each cloud."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, clouds: list[Tensor]) -> Tensor:
        logits: Tensor = self.head(self.first(torch.stack([cloud.mean(0) for cloud in clouds])))
        return logits


def sentences_and_clouds(count: int = 6) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "ids": torch.randint(9, (5,), generator=generator),
            "attention": torch.arange(5) <= at % 5,
            "points": torch.randn(at + 1, 3, generator=generator),
            "target": torch.tensor(at % CLASSES),
            "index": torch.tensor(at),
        }
        for at in range(count)
    ]


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_tokens_with_a_mask_teach_a_student_of_point_clouds(precision: Any, tmp_path: Path) -> None:
    teacher = Text().eval()
    loader: Any = DataLoader(sentences_and_clouds(), batch_size=3, collate_fn=collated)  # type: ignore[arg-type]
    arguments = pair_arguments(
        teacher=teacher,
        student=Points(),
        teacher_inputs=["ids", "attention"],
        student_inputs=["points"],
        teacher_precision=precision,
        teacher_layers=["first"],
        student_layers=["first"],
    )
    module = SP(**arguments)
    _, seen = fitted(tmp_path, module, loader)
    assert teacher.kinds == [torch.int64, torch.bool]
    assert seen.outputs[0]["teacher_features"]["first"].shape == (3, 6, 5)
    assert [tuple(cloud.shape) for cloud in seen.outputs[-1]["inputs"][0]] == [(4, 3), (5, 3), (6, 3)]


def test_a_list_that_a_network_cannot_take_is_named_with_its_shapes_and_none_is_said(tmp_path: Path) -> None:
    batch = collated(sentences_and_clouds(2))
    module = Supervised(Net(3), Classification(CLASSES), ["points"])
    with pytest.raises(ValueError, match=r"^the network Net cannot take points list of 2 \(\(1, 3\), \(2, 3\)\): "):
        module.check_batch(batch)
    with pytest.raises(KeyError, match=r"^the batch has None as the modality 'points', which a network sees$"):
        module.check_batch(batch | {"points": None})


def test_a_teacher_of_point_clouds_runs_once_per_sample_with_a_cache(tmp_path: Path) -> None:
    class Data(pl.LightningDataModule):
        fixed_modalities = ("points",)

        def train_dataloader(self) -> Any:
            return DataLoader(sentences_and_clouds(), batch_size=3, shuffle=True, collate_fn=collated)  # type: ignore[arg-type]

    arguments = pair_arguments(
        teacher=Points().eval(), student=Text(), teacher_inputs=["points"], student_inputs=["ids", "attention"]
    )
    asked: list[int] = []
    trainer = quiet_trainer(tmp_path, max_epochs=3)

    def count(layer: Any, inputs: Any, output: Any) -> None:
        if trainer.training and trainer.fit_loop.epoch_loop.batch_idx >= 0:
            asked.append(len(inputs[0]))

    arguments["teacher"].register_forward_hook(count)
    trainer.fit(KD(**arguments, cache_teacher=str(tmp_path / "cache")), Data())
    assert sum(asked) == 6


def test_the_number_of_samples_is_that_of_the_labels_or_of_any_tensor_or_list() -> None:
    assert samples_in({"x": torch.zeros(()), "other": torch.zeros(3, 2), "target": torch.zeros(5)}) == 5
    assert samples_in({"scale": torch.zeros(()), "points": [torch.zeros(1)] * 4}) == 4
    assert samples_in({"views": {"left": torch.zeros(3, 2)}}) == 3
    with pytest.raises(ValueError, match="no tensor and no list with one value for each sample"):
        samples_in({"scale": 0.5})


def test_samples_are_chosen_from_values_of_every_kind() -> None:
    batch = {
        "target": torch.arange(4),
        "name": ["a", "b", "c", "d"],
        "views": {"left": torch.arange(4.0), "path": ["w", "x", "y", "z"]},
        "size": [torch.arange(4), torch.arange(4)],
        "scale": 0.5,
        "note": None,
    }
    assert chosen_samples(batch, [])["name"] == chosen_samples(batch, [])["target"].tolist() == []
    chosen = chosen_samples(batch, [1, 3])
    assert chosen["target"].tolist() == [1, 3]
    assert chosen["name"] == ["b", "d"]
    assert chosen["views"] == {"left": pytest.approx(torch.tensor([1.0, 3.0])), "path": ["x", "z"]}
    assert [size.tolist() for size in chosen["size"]] == [[1, 3], [1, 3]]
    assert (chosen["scale"], chosen["note"]) == (0.5, None)


def test_a_mask_of_presence_is_refused_in_another_form_and_left_to_a_network_that_sees_it() -> None:
    batch = make_batch(3) | {"x_a_present": torch.ones(3, 1), "x_b_present": [True] * 3}
    with pytest.raises(
        ValueError, match=r"^'x_a_present' must tell .* shape \(3,\), got torch.float32 of shape \(3, 1\)$"
    ):
        present(batch, ["x_a"])
    with pytest.raises(ValueError, match=r"^'x_b_present' must tell .* as a bool tensor of shape \(3,\), got list$"):
        present(batch, ["x_b"])
    assert present(batch, ["x_a", "x_a_present"]) is None
    assert len(modalities(batch, ["x_a", "x_a_present"])) == 2


def lacking(batch: Batch, modality: str, samples: list[int]) -> Batch:
    """The batch with NaN in place of a modality of these samples, and the mask that tells it."""
    rows = torch.tensor(samples)
    mask = torch.ones(samples_in(batch), dtype=torch.bool).index_fill(0, rows, False)
    return batch | {modality: batch[modality].index_fill(0, rows, torch.nan), f"{modality}_present": mask}


def without(batch: Batch, samples: list[int]) -> Batch:
    return chosen_samples(batch, [at for at in range(samples_in(batch)) if at not in samples])


@pytest.mark.parametrize(
    ("method", "modality"), [("CRD", "x_b"), ("hint and relations", "x_b"), ("feature mask", "x_a")]
)
def test_samples_that_lack_a_modality_of_a_trained_network_count_nowhere(
    method: str, modality: str, tmp_path: Path
) -> None:
    batch, missing = make_batch(10), [2, 3, 9]
    results = []
    for samples in (without(batch, missing), lacking(batch, modality, missing)):
        module: Any = FeatureMask(**pair_arguments(), repeats=1) if method == "feature mask" else make(method)
        loader = DataLoader(Samples(samples), batch_size=10)
        weights, seen = fitted(tmp_path, module, loader)
        (scores,) = quiet_trainer(tmp_path).validate(module, loader, verbose=False)
        assert [len(outputs["prediction"]) for outputs in seen.outputs] == [7, 7, 7]
        results.append((weights, scores))
    (expected, scores), (found, other) = results
    assert scores == pytest.approx(other)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("case", ["alone", "static mask", "cache"])
def test_a_fit_without_labels_leaves_out_samples_that_the_teacher_does_not_see(case: str, tmp_path: Path) -> None:
    batch, missing = make_batch(10), [2, 3, 9]
    torch.save(nn.Linear(4, CLASSES).state_dict(), tmp_path / "reference.pt")
    results = []
    for samples in (without(batch, missing), lacking(batch, "x_a", missing)):
        torch.manual_seed(1)
        settings: dict[str, Any] = {"hard_weight": 0, "student": nn.Linear(4, CLASSES)}
        if case == "static mask":
            settings["weighting"] = NontargetSampleMask(0.5, reference_checkpoint=tmp_path / "reference.pt")
        samples["index"] = torch.arange(samples_in(samples))
        if case == "cache":
            settings["cache_teacher"] = str(tmp_path / "cache")
        module, trainer = KD(**pair_arguments(**settings)), quiet_trainer(tmp_path)
        trainer.fit(module, ToyData(samples, batch_size=10))
        results.append((module.state_dict(), float(trainer.callback_metrics["val/kd"])))
    (expected, loss), (found, other) = results
    assert loss == pytest.approx(other)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_a_batch_of_which_no_sample_has_the_students_modality_counts_nowhere(tmp_path: Path) -> None:
    batch = make_batch(4) | {"x_b_present": torch.tensor([True, True, False, False])}
    loader, module = DataLoader(Samples(batch), batch_size=2), make("KD")
    half = DataLoader(Samples(chosen_samples(batch, [0, 1])), batch_size=2)
    (scores,) = quiet_trainer(tmp_path).validate(module, loader, verbose=False)
    (expected,) = quiet_trainer(tmp_path).validate(module, half, verbose=False)
    assert scores == pytest.approx(expected)
    losses = []
    for samples in (half, loader):
        pl.seed_everything(3, verbose=False)
        trainer = quiet_trainer(tmp_path, max_epochs=1)
        trainer.fit(make("KD"), samples)
        losses.append(float(trainer.callback_metrics["train/loss"]))
    assert losses[0] == pytest.approx(losses[1])


def test_a_named_batch_keeps_what_has_names_already() -> None:
    assert named_batch({"x": 1}, ["y"]) == {"x": 1}
    assert named_batch((1, 2), ["x", "y"]) == {"x": 1, "y": 2}
    assert named_batch((1, 2), []) == (1, 2)
    one = torch.zeros(1)
    assert named_batch(one, ["x"]) is one


class Cloud(nn.Module):
    """A network for a list of points, or a tensor, that cannot take a batch without samples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, CLASSES)
        self.norm = nn.BatchNorm1d(CLASSES)

    def forward(self, points: Any) -> Tensor:
        output: Tensor = self.norm(self.layer(torch.stack([*points])))
        return output


@pytest.mark.parametrize("stage", ["fit", "test", "predict"])
def test_networks_that_cannot_take_no_sample_go_on_where_none_has_the_modality(stage: str, tmp_path: Path) -> None:
    batch = make_batch(6)
    batch |= {"x_b_present": torch.tensor([True, True, False, False, True, True])}
    batch["x_b"][2:4] = torch.nan
    module = KD(**pair_arguments(teacher=Cloud(), student=Cloud(), teacher_inputs=["x_b"]))
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    getattr(trainer, stage)(module, DataLoader(Samples(batch), batch_size=2))
    assert all(values.isfinite().all() for values in module.state_dict().values())


def test_a_step_without_samples_changes_no_buffer_and_gives_zero_gradients(tmp_path: Path) -> None:
    batch = make_batch(2) | {"x_b_present": torch.zeros(2, dtype=torch.bool)}
    batch["x_b"][:] = torch.nan
    module = Supervised(Cloud(), Classification(CLASSES), ["x_b"], torch.optim.SGD)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    loss, _, _ = module.training_losses(module.after_transfer(batch, dict(batch)))
    loss.backward()
    assert loss == 0
    assert not any(parameter.grad.any() for parameter in module.parameters() if parameter.grad is not None)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_data_without_any_sample_of_the_modality_are_one_sentence(tmp_path: Path) -> None:
    batch = make_batch(4) | {"x_b_present": torch.zeros(4, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"^no sample of the first 2 batches has the modality 'x_b': see 'x_b_pre"):
        quiet_trainer(tmp_path).fit(make("KD"), DataLoader(Samples(batch), batch_size=2))


def test_a_target_of_none_is_absent_and_one_of_another_kind_is_one_sentence(tmp_path: Path) -> None:
    module = make("KD")
    assert "target" not in module.before_transfer({"x_a": torch.zeros(2, 4), "target": None})
    with pytest.raises(TypeError, match=r"^the batch's 'target' must be a tensor, got list of 2 "):
        module.before_transfer({"x_a": torch.zeros(2, 4), "target": [0, 1]})


def test_integer_layers_of_a_teacher_spread_over_samples_that_it_does_not_see() -> None:
    batch = {"x": torch.arange(2), "x_present": torch.tensor([False, True])}
    run = lambda samples: NetworkOutput(samples["x"] + 0.5, {"ids": samples["x"]})  # noqa: E731
    output = on_complete_samples(run, run, batch, ["x"])
    assert output.features["ids"].tolist() == [0, 1]
    assert output.prediction.isnan().tolist() == [True, False]
