"""Several loaders to validate, test and predict on: each has scores of its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
from torch.utils.data import DataLoader

from distill.command.checkpoints import BestCheckpoint
from distill.training.loaders import loader_names
from distill.training.monitors import MonitorCheck
from tests.toys import Samples, ToyData, make, make_batch, quiet_trainer

SIZES = {"day": 10, "night": 7, "fog": 4}


def loaders() -> dict[str, DataLoader[Any]]:
    return {
        name: DataLoader(Samples(make_batch(size, seed)), batch_size=4)
        for seed, (name, size) in enumerate(SIZES.items())
    }


class Several(pl.LightningDataModule):
    """A plain data module with a dictionary, or a list, of loaders."""

    def __init__(self, *, listed: bool = False, names: Any = None) -> None:
        super().__init__()
        self.listed = listed
        if names is not None:
            self.val_loader_names = names

    def train_dataloader(self) -> Any:
        return ToyData().train_dataloader()

    def val_dataloader(self) -> Any:
        return list(loaders().values()) if self.listed else loaders()

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader


def alone(method: str, folder: Path, stage: str = "validate") -> dict[str, dict[str, float]]:
    """The scores of each loader by itself."""
    scores = {}
    for name, loader in loaders().items():
        (scores[name],) = getattr(quiet_trainer(folder), stage)(make(method), loader, verbose=False)
    return scores


@pytest.mark.parametrize(("stage", "prefix"), [("validate", "val"), ("test", "test")])
@pytest.mark.parametrize(
    ("data", "names"),
    [
        (Several(), ["day", "night", "fog"]),
        (Several(listed=True), ["0", "1", "2"]),
    ],
)
def test_each_loader_has_the_scores_that_it_has_alone(
    stage: str, prefix: str, data: Several, names: list[str], tmp_path: Path
) -> None:
    expected: dict[str, float] = {}
    for number, scores in enumerate(alone("KD", tmp_path, stage).values()):
        expected |= {f"{name}/{names[number]}" if number else name: value for name, value in scores.items()}
    trainer = quiet_trainer(tmp_path)
    (found, *_) = getattr(trainer, stage)(make("KD"), data, verbose=False)
    assert found == pytest.approx(expected)
    assert f"{prefix}/accuracy/{names[1]}" in found


def test_a_fit_ranks_by_the_first_loader_and_may_monitor_another(tmp_path: Path) -> None:
    best, module = BestCheckpoint(tmp_path, "val/accuracy", "max"), make("KD")
    stopping = pl.callbacks.EarlyStopping("val/accuracy/night", mode="max", strict=True)
    callbacks = [MonitorCheck(), best, stopping]
    trainer = quiet_trainer(tmp_path, max_epochs=1, enable_checkpointing=True, callbacks=callbacks)
    trainer.fit(module, Several())
    expected = {}
    for name, loader in loaders().items():
        (expected[name],) = quiet_trainer(tmp_path).validate(module, loader, verbose=False)
    assert best.best_model_score == pytest.approx(expected["day"]["val/accuracy"])
    assert float(trainer.callback_metrics["val/loss/fog"]) == pytest.approx(expected["fog"]["val/loss"])
    wrong = pl.callbacks.EarlyStopping("val/accuracy/dusk")
    with pytest.raises(ValueError, match=r"monitors 'val/accuracy/dusk', .* val/accuracy/fog, val/accuracy/night,"):
        quiet_trainer(tmp_path, callbacks=[MonitorCheck(), wrong]).fit(make("KD"), Several())


def test_predictions_come_loader_by_loader(tmp_path: Path) -> None:
    predictions: Any = quiet_trainer(tmp_path).predict(make("KD"), Several())
    assert [sum(len(part["prediction"]) for part in parts) for parts in predictions] == list(SIZES.values())


def test_names_come_from_keys_from_the_data_module_or_from_numbers() -> None:
    def names(given: Any, found: Any) -> list[str]:
        trainer: Any = SimpleNamespace(
            datamodule=SimpleNamespace(**({} if given is None else {"val_loader_names": given}))
        )
        return loader_names(trainer, "val", found)

    one, two = loaders()["day"], loaders()["night"]
    assert names(None, one) == [""]
    assert names(None, [one, two]) == ["0", "1"]
    assert names(["clear", "rain"], [one, two]) == ["clear", "rain"]
    assert names(None, {"city": {"day": one, "night": two}, "road": one}) == ["city/day", "city/night", "road"]
    with pytest.raises(
        ValueError, match=r"^val_loader_names of SimpleNamespace must be a list of 2 names, one for each"
    ):
        names(["clear"], [one, two])
    assert names(["a file", "another"], one) == [""]
    with pytest.raises(ValueError, match=r"^the loaders 'a' and 'a' to validate on need names that differ$"):
        names(["a", "a"], [one, two])
    with pytest.raises(ValueError, match=r"^the loaders 'city/day' and 'city_day' to validate on"):
        names(None, {"city": {"day": one}, "city_day": two})


def test_a_batch_of_another_loader_is_checked_before_a_test_and_the_loader_is_named(tmp_path: Path) -> None:
    lacking = make_batch(4)
    del lacking["x_b"]
    given = {"day": loaders()["day"], "night": DataLoader(Samples(lacking), batch_size=4)}
    with pytest.raises(KeyError, match=r"^of the loader 'night': the batch has no modality 'x_b'"):
        quiet_trainer(tmp_path).test(make("KD"), given, verbose=False)


def test_several_loaders_to_fit_on_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^a fit takes one loader of training data, got 3: "):
        quiet_trainer(tmp_path).fit(make("KD"), loaders())
