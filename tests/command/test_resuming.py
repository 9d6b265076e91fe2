"""A fit that resumes or that is started twice, on the command line."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from distill import Supervised
from distill.cli import main
from distill.resume.differences import Difference, differences
from tests.command.endings import error_of
from tests.toys import ToyData, make_batch

TWO_EPOCHS: dict[str, Any] = {
    "model": {
        "class_path": "distill.Supervised",
        "init_args": {
            "network": {"class_path": "distill.models.MLP", "init_args": {"in_features": 4, "num_classes": 4}},
            "task": {"class_path": "distill.Classification", "init_args": {"num_classes": 4}},
            "inputs": ["x_b"],
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
        },
    },
    "data": {"class_path": f"{__name__}.Samples", "init_args": {"batch_size": 4}},
    "trainer": {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "name": "run",
    "version": "a",
}


class Samples(ToyData):
    """Twenty samples in batches of a size."""

    def __init__(self, batch_size: int = 4, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__(make_batch(20), batch_size)


class Stopped(Callback):
    """Asks the fit to stop in the middle of its second epoch, as a cluster does."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def fail(*_: Any) -> None:
    """What fails in the first step, after all checks have passed."""
    raise RuntimeError("it failed")


def arguments(folder: Path, *more: str) -> list[str]:
    (folder / "run.yaml").write_text(yaml.safe_dump(TWO_EPOCHS))
    return ["fit", "--config", str(folder / "run.yaml"), "--logs_dir", str(folder / "logs"), *more]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if " from here on; " in message or " is ignored" in message]


LAST = ["--ckpt_path", "last"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logs of a fit of two epochs."""
    folder = tmp_path_factory.mktemp("finished")
    main(arguments(folder))
    return folder / "logs"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """The folder of that fit, to be changed."""
    return shutil.copytree(finished, tmp_path / "logs") / "run/a"


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_fit_does_not_overwrite_the_first(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(run)
    line = error_of(arguments(tmp_path), capsys)
    assert line == f"{run} holds a run already: choose another --version, resume it with --ckpt_path last, or delete it"
    assert files(run) == before


def test_a_fit_that_was_stopped_before_its_first_checkpoint_may_start_again(tmp_path: Path) -> None:
    (tmp_path / "logs/run/a").mkdir(parents=True)
    (tmp_path / "logs/run/a/fit.yaml").touch()
    with pytest.warns(UserWarning, match="training starts from the beginning"):
        main(arguments(tmp_path, *LAST))
    assert (tmp_path / "logs/run/a/checkpoints/last.ckpt").is_file()


def test_a_resumed_fit_that_fails_in_its_first_step_leaves_the_run_as_it_was(run: Path, tmp_path: Path) -> None:
    before = files(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervised, "on_train_batch_start", fail)
        with pytest.raises(RuntimeError, match="it failed"):
            main(arguments(tmp_path, *LAST, "--trainer.max_epochs", "3", "--data.batch_size", "5"))
    assert files(run) == before
    main(arguments(tmp_path, *LAST, "--trainer.max_epochs", "3", "--data.batch_size", "5"))
    saved = yaml.safe_load((run / "fit.yaml").read_text())
    assert (saved["trainer"]["max_epochs"], saved["data"]["init_args"]["batch_size"]) == (3, 5)


def test_the_saved_configuration_is_replaced_whole_and_a_damaged_one_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, link = run / "fit.yaml", tmp_path / "link"
    before = saved.read_text()
    os.link(saved, link)
    main(arguments(tmp_path, *LAST, "--trainer.max_epochs", "3"))
    assert link.read_text() == before  # a kill while the new file was written would have left this one
    assert yaml.safe_load(saved.read_text())["trainer"]["max_epochs"] == 3
    for damage in (b"", b"trainer: [", b"\xff\xfe"):
        saved.write_bytes(damage)
        line = error_of(arguments(tmp_path, *LAST, "--trainer.max_epochs", "4"), capsys)
        assert line == f"{saved} is damaged, so that it cannot be compared: delete it to resume"


def test_a_resumed_fit_says_of_every_difference_which_value_counts(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = ["--model.optimizer.lr", "0.01", "--data.batch_size", "5", "--seed_everything", "7"]
    with caplog.at_level(logging.INFO):
        main(arguments(tmp_path, *LAST, "--trainer.max_epochs", "3", *other))
    assert sorted(said(caplog)) == [
        "data.init_args.batch_size is 5 from here on; it was 4 in the run so far",
        "model.init_args.optimizer.init_args.lr stays 0.1 as in the checkpoint; 0.01 is ignored",
        "seed_everything stays 0 as in the checkpoint; 7 is ignored",
        "trainer.max_epochs is 3 from here on; it was 2 in the run so far",
    ]
    content = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == 0.1
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["completed"] == 4
    saved = yaml.safe_load((run / "fit.yaml").read_text())
    assert saved["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.1
    assert saved["seed_everything"] == 0


def test_a_resumed_fit_without_a_difference_says_nothing(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        main(arguments(tmp_path, *LAST, "--trainer.log_every_n_steps", "1"))
    assert said(caplog) == []


def test_a_fit_of_fewer_epochs_than_were_done_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(arguments(tmp_path, *LAST, "--trainer.max_epochs", "1"), capsys)
    assert line == f"{run}/checkpoints/last.ckpt has trained 2 epochs: give trainer.max_epochs 2 or more, not 1"


def test_in_the_middle_of_an_epoch_other_batches_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments(tmp_path, f"--trainer.callbacks={__name__}.Stopped"))
    assert exit_.value.code == 143
    last = tmp_path / "logs/run/a/checkpoints/last.ckpt"
    for option, value, before in (("batch_size", "5", 4), ("batch_size", "2", 4), ("seed", "3", 0)):
        line = error_of(arguments(tmp_path, *LAST, f"--data.{option}", value), capsys)
        assert line == (
            f"{last} stopped in the middle of an epoch, and with data.init_args.{option} {value} the rest of the epoch "
            f"would miss samples or see some twice: keep {before}"
        )
    main(arguments(tmp_path, *LAST, "--data.num_workers", "0", "--trainer.max_epochs", "3"))


def test_a_checkpoint_of_another_method_or_of_python_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = run / "checkpoints/last.ckpt"
    recipe = ["--config", "configs/mnistm/dkd_pssm.yaml", "--ckpt_path", str(last), "--logs_dir", str(tmp_path)]
    sentence = f"{last} is a run of distill.Supervised, but the configuration asks for distill.methods.PSSM"
    for command in ("fit", "test"):
        assert error_of([command, *recipe], capsys) == sentence
    content = torch.load(last, weights_only=True)
    content["hyper_parameters"] = {"temperature": 3.0}
    torch.save(content, last)
    assert f"{last} is of a fit from Python and does not name its class" in error_of(arguments(tmp_path, *LAST), capsys)


def test_another_class_is_one_difference_and_not_one_for_each_argument() -> None:
    run = {"trainer": {"callbacks": [{"class_path": "a.A", "init_args": {"x": 1, "y": 2}}], "devices": [0, 1]}}
    asked = {"trainer": {"callbacks": [{"class_path": "a.B", "init_args": {"x": 3}}], "devices": [0]}}
    assert differences(run, asked) == [
        Difference("trainer.callbacks.A.class_path", "a.A", None),
        Difference("trainer.devices", [0, 1], [0]),
        Difference("trainer.callbacks.B.class_path", None, "a.B"),
    ]
    assert [str(difference) for difference in differences(run, asked)] == [
        "trainer.callbacks.A of the run is left out from here on",
        "trainer.devices is [0] from here on; it was [0, 1] in the run so far",
        "trainer.callbacks.B is new; the run had none so far",
    ]


def test_the_order_of_callbacks_is_no_difference() -> None:
    callbacks = [{"class_path": "a.A", "init_args": {"x": 1}}, {"class_path": "b.B"}, {"class_path": "a.A"}]
    assert differences({"trainer": {"callbacks": callbacks}}, {"trainer": {"callbacks": callbacks[:2]}}) == [
        Difference("trainer.callbacks.A.2.class_path", "a.A", None)
    ]
    turned = {"trainer": {"callbacks": [callbacks[1], callbacks[0]]}}
    assert differences({"trainer": {"callbacks": callbacks[:2]}}, turned) == []


def test_a_resumed_fit_that_max_steps_ended_in_an_epoch_says_what_is_left_out(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    main(arguments(tmp_path, "--trainer.max_steps", "7"))
    main(arguments(tmp_path, *LAST))
    (line,) = (text for warning in recwarn if "max_steps" in (text := str(warning.message)))
    assert line.endswith("last.ckpt ended its last epoch after 2 batches, by max_steps: the others are left out")


def test_a_fit_with_averaged_weights_is_not_resumed_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    average = "--trainer.callbacks=lightning.pytorch.callbacks.EMAWeightAveraging"
    main(arguments(tmp_path, average))
    more = [*LAST, "--trainer.max_epochs", "3"]
    assert "is of a fit that averages its weights: resume it with" in error_of(
        arguments(tmp_path, *more), capsys, code=1
    )
    main(arguments(tmp_path, average, *more))


def test_a_progress_bar_and_a_writer_of_checkpoints_of_the_user_take_the_place_of_ours(tmp_path: Path) -> None:
    bar = "--trainer.callbacks=lightning.pytorch.callbacks.TQDMProgressBar"
    shown = ["--trainer.enable_progress_bar", "true", "--trainer.enable_model_summary", "true"]
    main(arguments(tmp_path, bar, *shown, "--trainer.plugins=lightning.pytorch.plugins.io.AsyncCheckpointIO"))
    assert (tmp_path / "logs/run/a/checkpoints/last.ckpt").is_file()


def test_arguments_that_the_version_of_the_run_did_not_have_are_no_difference() -> None:
    assert differences({"model": {"init_args": {"a": 1}}}, {"model": {"init_args": {"a": 1, "b": 2}}}) == []
