"""The command line, as its users meet it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor, nn

from distill import Classification
from distill.cli import CLI, main, one_line
from distill.methods import KD, PSSM
from tests.toys import Net, ToyData, make, quiet_trainer

TEACHER, STUDENT = "configs/mnistm/teacher.yaml", "configs/mnistm/dkd_pssm.yaml"
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


class Broken(nn.Module):
    """A network with a fault of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x.no_such_attribute  # type: ignore[no-any-return,attr-defined]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's commands one after the other, with fewer epochs."""
    logs = tmp_path_factory.mktemp("logs")
    common = ["--logs_dir", str(logs), *QUIET]
    main(["fit", "--config", TEACHER, "--trainer.max_epochs", "1", *common])
    best = "version_0/checkpoints/best.ckpt"
    teacher = ["--model.teacher_checkpoint", str(logs / "mnistm/teacher" / best)]
    main(["fit", "--config", STUDENT, *teacher, "--trainer.max_epochs", "2", *common])
    run = logs / "mnistm/dkd_pssm/version_0"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for command in ("test", "predict"):
        main([command, "--config", STUDENT, "--ckpt_path", str(logs / "mnistm/dkd_pssm" / best), *common])
    assert {path: path.read_bytes() for path in before} == before, "test or predict changed what fit wrote"
    return logs


def test_fit_leaves_a_whole_run_in_its_folder(runs: Path) -> None:
    run = runs / "mnistm/dkd_pssm/version_0"
    files = ["fit.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"]
    for name in [*files, "divergence.csv", "figures/divergence.png", "student.safetensors", "student.onnx"]:
        assert (run / name).is_file(), name
    assert list(run.glob("events.out.tfevents.*"))
    metrics = pd.read_csv(run / "metrics.csv")
    assert {"train/loss", "train/hard", "train/pssm", "val/accuracy", "val/ncjsd", "lr-AdamW"} <= set(metrics)


def test_test_finds_the_teacher_by_the_checkpoint_and_adds_its_own_files(runs: Path) -> None:
    run = runs / "mnistm/dkd_pssm/version_0"
    scores = pd.read_csv(run / "test.csv")
    assert {"test/accuracy", "test/top5", "test/cmd", "test/tcjsd", "test/ncjsd"} <= set(scores)
    assert (run / "test.yaml").is_file()
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


def test_predictions_are_one_line_a_test_sample_in_order(runs: Path) -> None:
    table = pd.read_csv(runs / "mnistm/dkd_pssm/version_0/predictions.csv")
    assert list(table) == ["index", "target", "prediction", "confidence"]
    assert list(table["index"]) == list(range(1000))
    scores = pd.read_csv(runs / "mnistm/dkd_pssm/version_0/test.csv")
    assert (table["target"] == table["prediction"]).mean() == pytest.approx(scores["test/accuracy"].dropna().iloc[0])


def test_predict_needs_no_teacher_file(runs: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(runs / "mnistm/dkd_pssm/version_0/checkpoints/best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["teacher_checkpoint"] = "gone.ckpt"
    torch.save(checkpoint, tmp_path / "student.ckpt")
    arguments = ["--config", STUDENT, "--ckpt_path", str(tmp_path / "student.ckpt"), "--logs_dir", str(tmp_path)]
    main(["predict", *arguments, *QUIET])
    assert len(list(tmp_path.rglob("predictions.csv"))) == 1


def test_a_checkpoint_of_the_command_line_rebuilds_its_module(runs: Path) -> None:
    path = runs / "mnistm/dkd_pssm/version_0/checkpoints/best.ckpt"
    module = PSSM.load_from_checkpoint(path)
    trained = torch.load(path, weights_only=True)["state_dict"]
    teacher = torch.load(runs / "mnistm/teacher/version_0/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert module.alpha == 16
    assert torch.equal(module.state_dict()["network.classifier.weight"], trained["network.classifier.weight"])
    assert module.teacher is not None
    assert torch.equal(module.teacher.state_dict()["classifier.weight"], teacher["network.classifier.weight"])


def test_a_checkpoint_from_python_keeps_plain_hyper_parameters_and_no_modules(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(make("KD", hard_weight=0.5), ToyData())
    trainer.save_checkpoint(tmp_path / "kd.ckpt")
    saved = torch.load(tmp_path / "kd.ckpt", weights_only=True)["hyper_parameters"]
    assert saved["hard_weight"] == 0.5
    assert not {"teacher", "student", "task", "optimizer"} & set(saved)
    networks: dict[str, Any] = {"teacher": Net(10).eval(), "student": Net(4), "task": Classification(4)}
    assert KD.load_from_checkpoint(tmp_path / "kd.ckpt", **networks).hard_weight == 0.5


WRONG = {
    "a typo in a key": (["--model.init_args.alhpa", "3"], "alhpa"),
    "an unknown class": (["--model.class_path", "distill.methods.DKDD"], "DKDD"),
    "a wrong type": (["--model.init_args.alpha", "abc"], "alpha.*abc"),
    "an unknown choice": (["--model.init_args.reading", "foo"], "reading.*foo"),
    "a typo in a network": (["--model.init_args.teacher.init_args.in_featurez", "4"], "teacher.*in_featurez"),
    "a typo of the trainer": (["--trainer.max_epochz", "3"], "max_epochz"),
    "a missing file": (["--config", "nofile.yaml"], "nofile.yaml"),
    "a missing teacher": (["--model.teacher_checkpoint", "nofile.ckpt"], "there is no checkpoint nofile.ckpt"),
    "a wrong value": (["--data.init_args.noise_level", "-1"], "noise_level .* -1"),
    "a wrong layer": (["--model.init_args.student_layers", "[foo]"], "no layer 'foo'"),
    "a missing modality": (["--model.init_args.student_inputs", "[radar]"], "no modality 'radar'"),
    "no checkpoint to test": (["--ckpt_path", "last"], "no run with a checkpoint last"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_what_the_user_can_mend_is_one_line(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, sentence = WRONG[case]
    command = "test" if "--ckpt_path" in arguments else "fit"
    with pytest.raises(SystemExit) as exit_:
        main([command, "--config", STUDENT, "--logs_dir", str(tmp_path), *QUIET, *arguments])
    assert exit_.value.code in (1, 2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(sentence, line)
    assert len(line) < 300


@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_a_fault_in_a_users_class_keeps_its_traceback(tmp_path: Path) -> None:
    broken = ["--model.init_args.student", f"{Broken.__module__}.Broken"]
    with pytest.raises(AttributeError, match="no_such_attribute"):
        main(["fit", "--config", STUDENT, "--logs_dir", str(tmp_path), *QUIET, *broken])


def test_configurations_merge_from_left_to_right_and_callbacks_append(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("model: {init_args: {alpha: 3}}\ntrainer: {max_epochs: 7}\n")
    second.write_text("trainer: {max_epochs: 8, callbacks+: [{class_path: callbacks.PredictionWriter}]}\n")
    configs = [part for path in (STUDENT, first, second) for part in ("--config", str(path))]
    with pytest.raises(SystemExit):
        main(["fit", *configs, "--print_config"])
    merged = yaml.safe_load(capsys.readouterr().out)
    assert merged["model"]["init_args"]["alpha"] == 3
    assert merged["trainer"]["max_epochs"] == 8
    names = [callback["class_path"].rpartition(".")[2] for callback in merged["trainer"]["callbacks"]]
    assert names == ["DivergenceTracker", "StudentExport", "PredictionWriter"]


def test_help_of_a_method_tells_its_hyper_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "distill.methods.DKD"])
    out = capsys.readouterr().out
    for option in ("--model.alpha", "--model.beta", "--model.temperature", "--model.warmup_epochs"):
        assert option in out


def test_arguments_of_one_optimiser_do_not_leak_into_another(tmp_path: Path) -> None:
    arguments = ["--config", STUDENT, "--logs_dir", str(tmp_path), "--model.init_args.optimizer", "torch.optim.SGD"]
    cli = CLI([*arguments, "--model.init_args.optimizer.init_args.lr", "0.1", *QUIET], run=False)
    optimiser = cli.model.configure_optimizers()
    assert type(optimiser) is torch.optim.SGD
    assert optimiser.defaults["lr"] == 0.1


def test_nothing_to_continue_starts_anew_with_a_warning(tmp_path: Path) -> None:
    steps = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "1"]
    with pytest.warns(UserWarning, match="training starts anew"):
        main(["fit", "--config", TEACHER, "--logs_dir", str(tmp_path), "--ckpt_path", "last", *steps, *QUIET])
    assert len(list(tmp_path.rglob("last.ckpt"))) == 1


def test_errors_of_unions_name_the_key_and_the_cause() -> None:
    message = (
        'Parser key "seeds":\n  Does not validate against any of the Union subtypes\n  Subtypes: [int, list[int]]\n'
        "  Errors:\n    - Expected a <class 'int'>\n    - Expected a <class 'list'>\n  Given value type: <class 'str'>"
    )
    assert one_line(message) == "seeds: Expected int; Expected list"
