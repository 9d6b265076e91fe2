"""The command line, as its users meet it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm
import torch
import yaml
from torch import Tensor, nn

from datamodules import MNISTM, KITTISemantics
from datamodules.reading.frame_files import FileFrames
from distill import Classification
from distill.cli import main
from distill.command.command_line import CLI
from distill.command.errors import one_line
from distill.methods import KD, PSSM
from tests.datamodules.trees import write_kitti_semantics
from tests.toys import Net, ToyData, make, quiet_trainer

TEACHER, STUDENT = "configs/mnistm/teacher.yaml", "configs/mnistm/dkd_pssm.yaml"
QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]


class Broken(nn.Module):
    """A network with a fault of its own, in ``__init__`` or later."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        if fault == "init":
            raise ValueError(f"fault must be another, got {fault}")
        self.fault = fault

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "attribute":
            return x.no_such_attribute  # type: ignore[no-any-return,attr-defined]
        if self.fault == "library":
            sample: Tensor = torch.distributions.Normal(x, -torch.ones_like(x)).sample()
            return sample
        raise ValueError("no value of the configuration is to blame for this")


BROKEN = ["--model.student", f"{__name__}.Broken", "--model.student.fault"]


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


def test_best_stands_for_the_checkpoint_of_the_newest_run_with_its_hyper_parameters(runs: Path) -> None:
    scores = runs / "mnistm/dkd_pssm/version_0/test.csv"
    before = scores.read_text()
    scores.unlink()
    main(["test", "--config", STUDENT, "--ckpt_path", "best", "--logs_dir", str(runs), *QUIET])
    assert scores.read_text() == before


def test_fit_yaml_repeats_the_run(runs: Path, tmp_path: Path) -> None:
    run = runs / "mnistm/teacher/version_0"
    main(["fit", "--config", str(run / "fit.yaml"), "--logs_dir", str(tmp_path)])
    for name in ("metrics.csv", "fit.yaml"):
        text = (tmp_path / "mnistm/teacher/version_0" / name).read_text()
        assert text == (run / name).read_text().replace(str(runs), str(tmp_path))


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_fit_yaml_of_a_continued_run_repeats_it_from_its_start(runs: Path) -> None:
    run = runs / "mnistm/teacher/version_0"
    metrics = (run / "metrics.csv").read_text()
    common = ["--logs_dir", str(runs), "--trainer.max_epochs", "1", *QUIET]
    main(["fit", "--config", TEACHER, "--ckpt_path", "last", *common])
    assert yaml.safe_load((run / "fit.yaml").read_text())["ckpt_path"] is None
    assert (run / "metrics.csv").read_text() == metrics  # there was no epoch left


def test_predict_needs_no_teacher_file(runs: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(runs / "mnistm/dkd_pssm/version_0/checkpoints/best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["teacher_checkpoint"] = "gone.ckpt"
    torch.save(checkpoint, tmp_path / "student.ckpt")
    arguments = ["--config", STUDENT, "--ckpt_path", str(tmp_path / "student.ckpt"), "--logs_dir", str(tmp_path)]
    main(["predict", *arguments, *QUIET])
    assert len(list(tmp_path.rglob("predictions.csv"))) == 1


def test_test_takes_the_teacher_from_where_it_lies_now_or_scores_the_student_alone(runs: Path, tmp_path: Path) -> None:
    checkpoint = torch.load(runs / "mnistm/dkd_pssm/version_0/checkpoints/best.ckpt", weights_only=True)
    checkpoint["hyper_parameters"]["teacher_checkpoint"] = "gone.ckpt"
    torch.save(checkpoint, tmp_path / "student.ckpt")
    arguments = ["--config", STUDENT, "--ckpt_path", str(tmp_path / "student.ckpt"), *QUIET]
    expected = pd.read_csv(runs / "mnistm/dkd_pssm/version_0/test.csv")

    def test(folder: str, *options: str) -> pd.DataFrame:
        main(["test", *arguments, "--logs_dir", str(tmp_path / folder), *options])
        (path,) = (tmp_path / folder).rglob("test.csv")
        return pd.read_csv(path)

    moved = test("moved", "--model.teacher_checkpoint", str(runs / "mnistm/teacher/version_0/checkpoints/best.ckpt"))
    assert moved["test/ncjsd"].equals(expected["test/ncjsd"])
    with pytest.warns(UserWarning, match=r"teacher_checkpoint gone\.ckpt does not exist: the student is scored alone"):
        alone = test("alone")
    assert alone["test/accuracy"].equals(expected["test/accuracy"])
    assert "test/ncjsd" not in alone


def test_weights_that_a_checkpoint_replaces_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[bool] = []
    create = timm.create_model

    def spy(*args: Any, pretrained: bool = False, **kwargs: Any) -> Any:
        fetched.append(pretrained)
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", spy)
    network = {
        "class_path": "distill.models.SNERoadSeg",
        "init_args": {"num_classes": 11, "x_channels": None, "encoder_name": "resnet10t", "pretrained": True},
    }
    arguments = {"network": network, "inputs": ["image"]}
    (tmp_path / "network.yaml").write_text(yaml.safe_dump({"model": {"init_args": arguments}}))
    data = [f"--data.init_args.{name}=2" for name in ("n_train", "n_val", "n_test", "batch_size")]
    config = ["--config", "configs/scenes/teacher.yaml", "--config", str(tmp_path / "network.yaml"), *data]
    common = [*config, "--data.init_args.size=[32,64]", "--logs_dir", str(tmp_path), *QUIET]
    main(["fit", *common, "--trainer.max_epochs", "1"])
    assert fetched.pop()
    main(["test", *common, "--ckpt_path", "last"])
    assert fetched == [False]


def test_a_checkpoint_of_the_command_line_rebuilds_its_module(runs: Path) -> None:
    path = runs / "mnistm/dkd_pssm/version_0/checkpoints/best.ckpt"
    module = PSSM.load_from_checkpoint(path)
    trained = torch.load(path, weights_only=True)["state_dict"]
    teacher = torch.load(runs / "mnistm/teacher/version_0/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert module.alpha == 16
    assert torch.equal(module.state_dict()["network.classifier.weight"], trained["network.classifier.weight"])
    assert module.teacher is not None
    assert torch.equal(module.teacher.state_dict()["classifier.weight"], teacher["network.classifier.weight"])
    data = MNISTM()
    data.setup()
    with torch.no_grad():
        predictions = torch.cat([module.eval()(batch["image_b"]).argmax(1) for batch in data.predict_dataloader()])
    assert predictions.tolist() == list(pd.read_csv(path.parents[1] / "predictions.csv")["prediction"])


def test_a_checkpoint_from_python_keeps_plain_hyper_parameters_and_no_modules(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(make("KD", hard_weight=0.5, temperature=7.5), ToyData())
    trainer.save_checkpoint(tmp_path / "kd.ckpt")
    saved = torch.load(tmp_path / "kd.ckpt", weights_only=True)["hyper_parameters"]
    assert saved["hard_weight"] == 0.5
    assert not {"teacher", "student", "task", "optimizer"} & set(saved)
    networks: dict[str, Any] = {"teacher": Net(10).eval(), "student": Net(4), "task": Classification(4)}
    module = KD.load_from_checkpoint(tmp_path / "kd.ckpt", **networks)
    assert (module.hard_weight, module.temperature) == (0.5, 7.5)


# what is noticed while the configuration is read or its classes are made: nothing else is printed
WRONG = {
    "a typo in a key": (["--model.init_args.alhpa", "3"], "model: Option 'alhpa' .*, did you mean alpha\\?$"),
    "a typo in a network": (["--model.teacher.in_featurez", "4"], "teacher: .*'in_featurez'.* mean in_features\\?$"),
    "a typo of the trainer": (["--trainer.max_epochz", "3"], "max_epochz 3, did you mean trainer.max_epochs\\?$"),
    "a key cut short": (["--trainer.max_epoch", "3"], "--trainer.max_epoch 3, did you mean trainer.max_epochs\\?$"),
    "a typo in a group": (["--modle.alpha", "3"], "--modle.alpha 3, did you mean model\\?$"),
    "a typo unlike all": (["--trainer.xyzzy", "3"], "unrecognized arguments: --trainer.xyzzy 3$"),
    "an unknown class": (["--model.class_path", "distill.methods.DKDD"], "'distill.methods' has no attribute 'DKDD'"),
    "an unknown network": (["--model.student", "distill.models.MPL"], "student: .*'distill.models.MPL'"),
    "an unknown optimiser": (["--model.optimizer", "torch.optim.Adma"], "optimizer: .*'Adma'"),
    "a class of another kind": (["--model.student", "torch.optim.SGD"], "student: .* of Module.*torch.optim.SGD"),
    "an unknown callback": (["--trainer.callbacks+=callbacks.Tracker"], "trainer.callbacks: .*'Tracker'"),
    "a wrong type": (["--model.init_args.alpha", "abc"], "alpha: Expected float. Got value: abc"),
    "a wrong type of the trainer": (["--trainer.max_epochs", "x"], "trainer.max_epochs: Expected int. Got value: x"),
    "an unknown choice": (["--model.init_args.reading", "foo"], "reading: Expected one of 'text', .* Got value: foo"),
    "a missing file": (["--config", "nofile.yaml"], "nofile.yaml"),
    "a missing teacher": (["--model.teacher_checkpoint", "nofile.ckpt"], "there is no checkpoint nofile.ckpt"),
    "a teacher that is none": (["--model.teacher_checkpoint", "README.md"], "README.md is not a file of plain weights"),
    "a wrong value": (["--data.init_args.noise_level", "-1"], "noise_level .* -1"),
    "a wrong value of a task": (["--model.task.num_classes", "1"], "num_classes must be at least 2, got 1"),
    "a wrong value of a user's class": ([*BROKEN, "init"], "fault must be another, got init"),
    "a wrong value of the trainer": (["--trainer.accelerator", "foo"], "accelerator='foo'"),
    "a missing checkpoint": (["--ckpt_path", "no/last.ckpt"], "there is no checkpoint no/last.ckpt"),
    "a checkpoint that is none": (["--ckpt_path", "README.md"], "README.md is not a file of plain weights"),
}
# Lightning has said a word before these
WRONG_LATER = {
    "a share that is none": (["--trainer.limit_val_batches", "3.5"], "3.5 for limit_val_batches"),
    "a wrong layer": (["--model.init_args.student_layers", "[foo]"], "no layer 'foo'"),
    "a missing modality": (["--model.init_args.student_inputs", "[radar]"], "no modality 'radar'"),
    "a wrong rate": (["--model.optimizer.lr", "-1"], "learning rate: -1"),
}


@pytest.mark.parametrize("case", [*WRONG, *WRONG_LATER])
@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_what_the_user_can_mend_is_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JSONARGPARSE_DEBUG", raising=False)
    arguments, sentence = (WRONG | WRONG_LATER)[case]
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", STUDENT, "--logs_dir", str(tmp_path), *QUIET, *arguments])
    assert exit_.value.code in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    if case in WRONG_LATER:
        lines = [line for line in lines if line.startswith("error: ")]
    (line,) = lines
    assert re.search(sentence, line)
    assert len(line) < 300


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: {init_args: {alhpa: 3}}", "model: Option 'alhpa' is not accepted by PSSM, did you mean alpha?"),
        ("trainer: {max_epoch: 3}", "does not accept option 'trainer.max_epoch', did you mean trainer.max_epochs?"),
        (
            "modle: {class_path: distill.methods.KD}",
            "more.yaml, line 1: Subcommand 'fit' does not accept option 'modle.",
        ),
        ("# one\nthe trainer: {max_epochs: 3}", 'more.yaml, line 2: Spaces not allowed in keys: "the trainer"'),
        ("trainer:\n  max epochs: 3", 'more.yaml, line 2: Spaces not allowed in keys: "max epochs"'),
        ("model: {init_args: {student: {init_args: {hiden: [3]}}}}", "student: Option 'hiden' is not accepted"),
        ("model: {init_args: {optimizer: {init_args: {rate: 3}}}}", "optimizer: Option 'rate' is not accepted"),
        ("trainer: {callbacks: [{class_path: callbacks.DivergenceTracker, init_args: {moment: 2}}]}", "mean moments?"),
        ("data: {init_args: {noise_level: much}}", "noise_level: Expected float. Got value: much"),
        ("model: {", "Problems parsing config"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more.yaml").write_text(text)
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", STUDENT, "--config", str(tmp_path / "more.yaml")])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert len(line) < 300


def test_a_process_says_nothing_but_that_line_and_exits_with_an_error() -> None:
    command = [sys.executable, "train.py", "fit", "--config", STUDENT, "--model.alhpa", "3"]
    environment = {name: value for name, value in os.environ.items() if name != "JSONARGPARSE_DEBUG"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == "error: model: Option 'alhpa' is not accepted by PSSM, did you mean alpha?\n"


def test_a_full_disk_is_one_line_whoever_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(*_: Any) -> None:
        os.pwrite(os.open("/dev/full", os.O_WRONLY), b"x", 0)

    monkeypatch.setattr("distill.cli.CLI", write)
    with pytest.raises(SystemExit):
        main(["fit"])
    assert capsys.readouterr().err == "error: No space left on device\n"


def test_a_checkpoint_to_test_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["test", "--config", STUDENT, "--logs_dir", str(tmp_path), "--ckpt_path", "best"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: there is no run with a checkpoint best.ckpt under {tmp_path}/mnistm/dkd_pssm"


def test_a_fit_does_not_go_on_from_weights_alone(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", STUDENT, "--logs_dir", str(runs), "--ckpt_path", "best"])
    assert "best.ckpt holds weights only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "error"), [("attribute", AttributeError), ("value", ValueError), ("library", ValueError)]
)
@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_a_fault_in_a_users_class_keeps_its_traceback(fault: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error):
        main(["fit", "--config", STUDENT, "--logs_dir", str(tmp_path), *QUIET, *BROKEN, fault])


def test_configurations_merge_from_left_to_right_and_callbacks_append(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("model: {init_args: {alpha: 3}}\ntrainer: {max_epochs: 7}\n")
    second.write_text("trainer: {max_epochs: 8, callbacks+: [{class_path: callbacks.PredictionWriter}]}\n")
    configs = [part for path in (STUDENT, first, second) for part in ("--config", str(path))]
    more = "--trainer.callbacks+=lightning.pytorch.callbacks.DeviceStatsMonitor"
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *configs, more, "--print_config"])
    assert exit_.value.code == 0
    merged = yaml.safe_load(capsys.readouterr().out)
    assert merged["model"]["init_args"]["alpha"] == 3
    assert merged["trainer"]["max_epochs"] == 8
    names = [callback["class_path"].rpartition(".")[2] for callback in merged["trainer"]["callbacks"]]
    assert names == ["DivergenceTracker", "StudentExport", "PredictionWriter", "DeviceStatsMonitor"]


def test_help_of_a_method_tells_its_hyper_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "distill.methods.DKD"])
    out = capsys.readouterr().out
    for option in ("--model.alpha", "--model.beta", "--model.temperature", "--model.warmup_epochs"):
        assert option in out


def test_help_names_the_networks_of_this_project_and_not_all_of_torch(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "distill.methods.DKD"])
    words = " ".join(capsys.readouterr().out.split())
    assert "distill.models.MFNet" in words
    assert "distill.models.mfnet.MiniInception" not in words
    assert "and any other by its import path" in words
    assert "torch.nn.ReLU" not in words
    # other tests may have defined weightings of their own, which stand beside these
    for weighting in ("PerceptualSolutionSpaceMask", "NontargetSampleMask"):
        assert f"distill.weighting.{weighting}" in words


@pytest.mark.parametrize(
    "option", [["--model.init_args.task.init_args.class_names=null"], ["--model.task.class_names", "null"]]
)
def test_null_clears_an_argument_of_a_nested_class(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--config", "configs/scenes/teacher.yaml", *option, "--print_config"])
    assert exit_.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["task"]["init_args"]["class_names"] is None


@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_a_damaged_file_that_a_worker_reads_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_kitti_semantics(tmp_path / "kitti")
    _, val, _ = KITTISemantics(root).make_frames()  # of training, two are read before a worker starts
    assert isinstance(val, FileFrames)
    for files in val.files:
        assert files.depth is not None
        files.depth.write_bytes(files.depth.read_bytes()[:100])  # the header is whole
    recipe = ["--config", "configs/kitti_semantics/teacher.yaml", "--data.init_args.root", str(root)]
    some = [
        "--data.init_args.num_workers",
        "1",
        "--data.init_args.size",
        "[32, 96]",
        "--data.init_args.batch_size",
        "2",
    ]
    with pytest.raises(SystemExit):
        main(["fit", *recipe, *some, "--trainer.accelerator", "cpu", "--logs_dir", str(tmp_path / "logs"), *QUIET])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.fullmatch(r"error: \S+/disp_occ_0/0000\d\d_10.png cannot be read \(.*\)", line)


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = capsys.readouterr().out.partition("Available subcommands:")[2]
    assert re.findall(r"^    (\w+)", listed, re.MULTILINE) == ["fit", "validate", "test", "predict", "study", "rank"]


def test_no_default_of_an_optimiser_leaks_into_another(tmp_path: Path) -> None:
    content = yaml.safe_load(Path(STUDENT).read_text())
    content["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.001}}
    (tmp_path / "adam.yaml").write_text(yaml.safe_dump(content))
    arguments = ["--config", str(tmp_path / "adam.yaml"), "--logs_dir", str(tmp_path), *QUIET]
    cli = CLI([*arguments, "--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"], run=False)
    optimiser = cli.model.configure_optimizers()
    assert type(optimiser) is torch.optim.SGD
    assert optimiser.defaults == torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1).defaults


def test_a_logger_of_the_users_own_stands_beside_the_table(tmp_path: Path) -> None:
    steps = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "1"]
    own = ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir"]
    main(["fit", "--config", TEACHER, "--logs_dir", str(tmp_path / "logs"), *own, str(tmp_path), *steps, *QUIET])
    run = tmp_path / "logs/mnistm/teacher/version_0"
    assert {path.name for path in run.iterdir()} >= {"fit.yaml", "metrics.csv", "checkpoints"}
    assert (tmp_path / "lightning_logs/version_0/metrics.csv").is_file()


def test_without_a_logger_all_else_is_in_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "1", "--trainer.logger", "false"]
    config = str(Path(TEACHER).absolute())
    monkeypatch.chdir(tmp_path)
    main(["fit", "--config", config, *steps, *QUIET])
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    run = tmp_path / "logs/mnistm/teacher/version_0"
    assert {path.name for path in run.iterdir()} == {"fit.yaml", "checkpoints"}


def test_a_fit_without_a_checkpoint_to_resume_starts_from_the_beginning_with_a_warning(tmp_path: Path) -> None:
    steps = ["--trainer.max_steps", "1", "--trainer.limit_val_batches", "1"]
    with pytest.warns(UserWarning, match="training starts from the beginning"):
        main(["fit", "--config", TEACHER, "--logs_dir", str(tmp_path), "--ckpt_path", "last", *steps, *QUIET])
    assert len(list(tmp_path.rglob("last.ckpt"))) == 1


UNION = """Parser key "seeds":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, list[int]]
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'list'>
  Given value type: <class 'str'>
  Given value: few"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            UNION,
            "seeds: Expected int; Expected list. Got value: few",
        ),
        ("'image' is not there, but 'depth'", "'image' is not there, but 'depth'"),
        ("Error(s) in loading:\n\tMissing key: a", "Error(s) in loading: Missing key: a"),
    ],
)
def test_errors_of_unions_name_key_cause_and_value_and_others_stay_as_they_are(message: str, line: str) -> None:
    assert one_line(message) == line
