"""What users do wrong is one sentence with a place, through the command line."""

from __future__ import annotations

import copy
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from distill.checkpoint import load_network
from distill.cli import main
from distill.methods import DKD, KD
from distill.models import MLP
from distill.tasks import Classification
from tests.command.endings import error_of
from tests.command.test_resuming import TWO_EPOCHS, Samples
from tests.toys import Net, ToyData, make, quiet_trainer

MLP_4 = TWO_EPOCHS["model"]["init_args"]["network"]
DISTILLATION = {
    **{name: value for name, value in TWO_EPOCHS["model"]["init_args"].items() if name in ("task", "optimizer")},
    "teacher": MLP_4,
    "student": MLP_4,
    "teacher_inputs": ["x_b"],
    "student_inputs": ["x_b"],
}


def configured(folder: Path, *, kind: str = "distill.Supervised", **changes: Any) -> list[str]:
    """The options of a small fit, with some parts of its configuration changed."""
    content = copy.deepcopy(TWO_EPOCHS) | changes
    if kind != "distill.Supervised":
        content["model"] = {"class_path": kind, "init_args": copy.deepcopy(DISTILLATION)}
    content["trainer"] |= {"max_epochs": 1}
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    return ["--config", str(folder / "run.yaml"), "--logs_dir", str(folder / "logs")]


def listed(kind: str, **arguments: Any) -> str:
    return (
        f"--trainer.callbacks+={yaml.safe_dump({'class_path': kind, 'init_args': arguments}, default_flow_style=True)}"
    )


STOPS = "lightning.pytorch.callbacks.EarlyStopping"
PLATEAU = ["--model.lr_scheduler", "lightning.pytorch.cli.ReduceLROnPlateau", "--model.lr_scheduler.monitor"]
MONITORS = {
    "early stopping": ([listed(STOPS, monitor="val/acc")], "EarlyStopping monitors 'val/acc'"),
    "a checkpoint": (
        [listed("lightning.pytorch.callbacks.ModelCheckpoint", monitor="accuracy")],
        "ModelCheckpoint monitors 'accuracy'",
    ),
    "a schedule": ([*PLATEAU, "val/lss"], "ReduceLROnPlateau monitors 'val/lss'"),
    "without a sanity check": (
        [listed(STOPS, monitor="val/acc"), "--trainer.num_sanity_val_steps", "0"],
        "EarlyStopping monitors 'val/acc'",
    ),
    "beside an own callback": (
        [listed(f"{__name__}.Own"), listed(STOPS, monitor="val/acc")],
        "EarlyStopping monitors 'val/acc'",
    ),
}


PARTS = {
    "a schedule without a monitor": (
        ["--model.lr_scheduler", "torch.optim.lr_scheduler.ReduceLROnPlateau"],
        "choose lightning.pytorch.cli.ReduceLROnPlateau and give its init_args.monitor",
    ),
    "a finder without a size": (
        ["--data", f"{__name__}.Unsized", listed("lightning.pytorch.callbacks.BatchSizeFinder")],
        "BatchSizeFinder changes the batch_size of the data, and Unsized has none",
    ),
    "no validation": (
        [listed(STOPS, monitor="val/loss"), "--trainer.limit_val_batches", "0"],
        "EarlyStopping monitors 'val/loss', but this fit has no validation",
    ),
    "no validation, and a schedule": (
        [*PLATEAU, "val/loss", "--trainer.limit_val_batches", "0"],
        "ReduceLROnPlateau monitors 'val/loss', but this fit has no validation",
    ),
}


class Unsized(Samples):
    """Says no size of its batches, as data that are one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = None  # type: ignore[assignment]

    def train_dataloader(self) -> Any:
        return Samples().train_dataloader()

    def val_dataloader(self) -> Any:
        return Samples().val_dataloader()


@pytest.mark.parametrize("case", PARTS)
def test_parts_that_cannot_work_in_this_fit_are_refused_before_it(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, sentence = PARTS[case]
    assert sentence in error_of(["fit", *configured(tmp_path), *options], capsys, code=1)


def test_a_timer_with_its_defaults_is_kept_in_fit_yaml(tmp_path: Path) -> None:
    main(["fit", *configured(tmp_path), listed("lightning.pytorch.callbacks.Timer", duration="00:01:00:00")])
    (saved,) = tmp_path.rglob("fit.yaml")
    assert yaml.safe_load(saved.read_text())["trainer"]["callbacks"][-1]["init_args"]["interval"] == "step"


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_a_file_in_the_place_of_the_runs_is_named(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for version in ([], ["--version", "x"]):
        line = error_of([command, *configured(tmp_path), "--logs_dir", str(tmp_path / "file"), *version], capsys)
        assert line.startswith(f"{tmp_path / 'file'} is a file, but the folder of the runs should be there")


class Own(Callback):
    """Logs a value of its own in a validation, but not in the sanity check."""

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            pl_module.log("val/own", 1.0)


@pytest.mark.parametrize("case", MONITORS)
def test_a_monitor_that_is_not_logged_is_refused_with_the_names_that_are(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, start = MONITORS[case]
    line = error_of(["fit", *configured(tmp_path), *options], capsys, code=1)
    own = ", val/own" if "own" in case else ""
    assert re.fullmatch(
        rf"{re.escape(start)}, which is not logged: choose one of val/accuracy, .*{own}.*, train/loss", line
    )
    trained = "own" in case or "sanity" in case
    assert (tmp_path / "logs/run/a/checkpoints").exists() is False or trained


def test_a_monitor_of_an_own_callback_or_of_the_training_is_accepted(tmp_path: Path) -> None:
    own = [listed(f"{__name__}.Own"), listed(STOPS, monitor="val/own")]
    main(["fit", *configured(tmp_path), *own, listed(STOPS, monitor="train/hard"), *PLATEAU, "val/accuracy"])


STOPPED_EARLY = {
    "by max_steps": ["--trainer.max_steps", "2"],
    "after an epoch without validation": ["--trainer.check_val_every_n_epoch", "2"],
}


@pytest.mark.parametrize("case", STOPPED_EARLY)
def test_early_stopping_does_not_disturb_a_fit_that_ends_before_its_first_validation(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stops = [listed(STOPS, monitor="val/accuracy", mode="max", check_on_train_epoch_end=True)]
    with caplog.at_level("INFO"):
        main(["fit", *configured(tmp_path), *stops, *PLATEAU, "val/accuracy", *STOPPED_EARLY[case]])
    assert "EarlyStopping waits for val/accuracy until a validation has ended" in caplog.text
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == (2 if "steps" in case else 5)
    assert not (last.parent / "best.ckpt").exists()
    line = yaml.safe_load((last.parents[1] / "fit.yaml").read_text())["trainer"]["callbacks"][0]["init_args"]
    assert line["strict"] is True


@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_a_monitor_of_the_divergences_is_accepted(tmp_path: Path) -> None:
    tracked = [listed("callbacks.DivergenceTracker"), listed(STOPS, monitor="val/ncjsd")]
    main(["fit", *configured(tmp_path, kind="distill.methods.KD"), *tracked])


def test_the_learning_rate_finder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finder = listed("lightning.pytorch.callbacks.LearningRateFinder")
    line = error_of(["fit", *configured(tmp_path), finder], capsys)
    assert line.startswith("LearningRateFinder sets the attribute lr of a module, and Supervised has none")


class SeveralLoaders(Samples):
    """Has two loaders of every stage but training."""

    def val_dataloader(self) -> Any:
        return [super().val_dataloader()] * 2

    test_dataloader = predict_dataloader = val_dataloader


class OneLoader(KD):
    """Its steps take batches of one loader."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        return super().validation_step(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> Any:  # type: ignore[override]
        return super().test_step(batch, batch_idx)


@pytest.mark.parametrize(("command", "stage"), [("fit", "val"), ("validate", "val"), ("test", "test")])
def test_several_loaders_are_one_sentence(
    command: str, stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"class_path": f"{__name__}.SeveralLoaders"}
    line = error_of([command, *configured(tmp_path, data=data, kind=f"{__name__}.OneLoader")], capsys, code=1)
    assert line.startswith(f"{stage}_dataloader returns several loaders, and the module's step takes one: add dataload")


@pytest.mark.parametrize("value", ["nan", "-inf"])
def test_a_number_that_is_none_is_called_so(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kd = configured(tmp_path, kind="distill.methods.KD")
    line = error_of(["fit", *kd, f"--model.temperature={value}"], capsys)
    assert line == f"model: temperature: Expected a finite number. Got value: {value}"
    line = error_of(["fit", *kd, f"--model.optimizer.lr={value}"], capsys)
    assert line == f"model: optimizer: lr: Expected a finite number. Got value: {value}"


WEIGHTS = MLP(4, 4).state_dict()
FIRST = next(iter(WEIGHTS))
FILES: dict[str, tuple[Any, str]] = {
    "a text": ("epoch 3\n", "is not a file of plain weights, but a text or another format: give a state_dict"),
    "nothing": ("", "is not a file of weights: it is empty"),
    "int8": (
        WEIGHTS | {FIRST: WEIGHTS[FIRST].to(torch.int8)},
        f"holds '{FIRST}' as int8, which has no meaning without",
    ),
    "float8": (WEIGHTS | {FIRST: WEIGHTS[FIRST].to(torch.float8_e4m3fn)}, "as float8_e4m3fn, which has no meaning"),
    "complex": (
        WEIGHTS | {FIRST: WEIGHTS[FIRST] * 1j},
        f"holds complex numbers in '{FIRST}', but those of the network",
    ),
    "zeros": ({name: torch.zeros_like(value) for name, value in WEIGHTS.items()}, "holds zeros only"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_teacher_is_named(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, sentence = FILES[case]
    path = tmp_path / "teacher.pt"
    if isinstance(content, str):
        path.write_text(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load_network(MLP(4, 4), path)
    if case in ("a text", "int8"):
        kd = configured(tmp_path, kind="distill.methods.KD")
        line = error_of(["fit", *kd, "--model.teacher_checkpoint", str(path)], capsys)
        assert line.startswith(f"the teacher_checkpoint {path} ")
        assert sentence in line


def test_weights_in_half_precision_are_loaded(tmp_path: Path) -> None:
    torch.save({name: value.bfloat16() for name, value in WEIGHTS.items()}, tmp_path / "teacher.pt")
    kd = configured(tmp_path, kind="distill.methods.KD")
    main(["fit", *kd, "--model.teacher_checkpoint", str(tmp_path / "teacher.pt")])


def test_a_syntax_error_names_file_line_and_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd.yaml").write_text("model:\n  init_args: [1, 2\ndata: 3\n")
    line = error_of(["fit", "--config", str(tmp_path / "odd.yaml")], capsys)
    assert f"{tmp_path}/odd.yaml: line 3, column 5: " in line


def test_a_typing_error_in_a_list_names_the_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [{"class_path": "callbacks.StudentExport"}, {"class_path": STOPS, "init_args": {"monitr": "x"}}]
    command = ["fit", *configured(tmp_path), f"--trainer.callbacks={yaml.safe_dump(parts, default_flow_style=True)}"]
    line = error_of(command, capsys)
    assert line == "trainer.callbacks: Option 'monitr' is not accepted by EarlyStopping, did you mean monitor?"


def test_the_usage_and_an_unknown_command_name_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "{fit,validate,test,predict,study,rank} ..." in capsys.readouterr().out.partition("\n\n")[0]
    line = error_of(["studdy"], capsys)
    assert line == "there is no command 'studdy'; there are fit, validate, test, predict, study, rank"
    assert error_of([], capsys) == "give a command, one of fit, validate, test, predict, study, rank"


class Faulty(DKD):
    """A user's method with a fault in its constructor."""

    def __init__(self, *args: Any, fault: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if fault == "value":
            raise ValueError("it cannot be so")
        if fault == "attribute":
            self.part = self.no_such_part
        if fault == "key":
            self.part = kwargs["no such key"]


def test_a_value_that_a_users_class_refuses_is_one_line_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = error_of(["fit", *configured(tmp_path, kind=f"{__name__}.Faulty"), "--model.fault", "value"], capsys)
    assert re.fullmatch(rf"it cannot be so \({re.escape(__file__)}, line \d+\)", line)


@pytest.mark.parametrize(("fault", "error"), [("attribute", AttributeError), ("key", KeyError)])
def test_a_bug_in_the_constructor_of_a_users_class_has_a_traceback(
    fault: str, error: type[Exception], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error) as caught:
        main(["fit", *configured(tmp_path, kind=f"{__name__}.Faulty"), "--model.fault", fault])
    assert any(Path(str(entry.path)) == Path(__file__) and entry.name == "__init__" for entry in caught.traceback)
    assert "error: " not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1\nraise ValueError('no data')\n", "ValueError in {path}, line 2: no data"),
        ("import no_such_module\n", "ModuleNotFoundError in {path}, line 1: No module named 'no_such_module'"),
        ("class Method(:\n", "invalid syntax (own_method.py, line 1)"),
    ],
)
def test_an_error_in_the_import_of_a_users_module_names_its_line(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "own_method.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    line = error_of(["fit", *configured(tmp_path), "--model", "own_method.Method"], capsys)
    assert sentence.format(path=folder / "own_method.py") in line
    assert "own_method" not in sys.modules


def test_an_abstract_class_says_what_it_has_to_define(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_data.py").write_text(
        "from datamodules import PairedDataModule\nclass Own(PairedDataModule):\n    num_classes = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    line = error_of(["fit", *configured(tmp_path), "--data", "own_data.Own"], capsys)
    assert line == "data: own_data.Own is abstract: define make_splits, modalities in it, or name a subclass"


@pytest.mark.parametrize("argument", ["student_checkpoint", "teacher_checkpoint"])
def test_a_key_without_a_path_is_one_short_sentence(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fit", *configured(tmp_path, kind="distill.methods.KD"), f"--model.{argument}", "{key: state_dict}"]
    line = error_of(command, capsys)
    assert line == f"model: {argument}: the following arguments are required: path"


class Interrupted(Callback):
    """Ctrl-C in the first step."""

    def on_train_batch_start(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)


class Ends(Callback):
    """A run that fails."""

    def on_train_batch_start(self, *_: Any) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("callback", "code"), [("Interrupted", 130), ("Ends", 1)])
def test_the_exit_code_says_how_a_run_has_ended(callback: str, code: int, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(SystemExit) as exit_:
            main(["fit", *configured(tmp_path), listed(f"{__name__}.{callback}")])
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning ignores a second Ctrl-C from then on
    assert exit_.value.code == code


def test_the_exit_code_of_a_wrong_command_is_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["study"], ["rank"], ["fit"], ["fit", *configured(tmp_path), "--name", ".."]):
        error_of(command, capsys)


@pytest.fixture(scope="module")
def from_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a fit of KD from Python."""
    path = tmp_path_factory.mktemp("kd") / "kd.ckpt"
    trainer = quiet_trainer(path.parent, max_epochs=1)
    trainer.fit(make("KD", temperature=7.5), ToyData())
    trainer.save_checkpoint(path)
    return path


def test_a_checkpoint_from_python_says_what_to_give(from_python: Path) -> None:
    with pytest.raises(
        ValueError, match=r"kd\.ckpt is of a fit from Python and does not hold its student and task: give"
    ):
        KD.load_from_checkpoint(from_python)
    with pytest.raises(ValueError, match=r"kd\.ckpt is of another method than DKD, which takes no 'weight'$"):
        DKD.load_from_checkpoint(from_python, student=Net(4), task=Classification(4))
    module = KD.load_from_checkpoint(from_python, student=Net(4), task=Classification(4))
    assert module.temperature == 7.5


def test_a_checkpoint_whose_teacher_is_gone_says_so(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "teacher.pt")
    teacher = ["--model.teacher_checkpoint", str(tmp_path / "teacher.pt")]
    main(["fit", *configured(tmp_path, kind="distill.methods.KD"), *teacher])
    (tmp_path / "teacher.pt").rename(tmp_path / "moved.pt")
    best = tmp_path / "logs/run/a/checkpoints/best.ckpt"
    with pytest.raises(
        FileNotFoundError, match=r"the teacher_checkpoint \S+/teacher\.pt of \S+/best\.ckpt does not exist"
    ):
        KD.load_from_checkpoint(best)
    assert KD.load_from_checkpoint(best, teacher_checkpoint=str(tmp_path / "moved.pt")).teacher is not None
    assert KD.load_from_checkpoint(best, teacher=None, teacher_checkpoint=None).teacher is None


def test_a_trainer_refuses_the_checkpoint_of_another_method_in_one_sentence(from_python: Path, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    sentence = r"^the checkpoint does not fit HintAndRelations: it lacks 'adaptor\.\w+' and \d+ more$"
    with pytest.raises(ValueError, match=sentence):
        trainer.fit(make("hint and relations"), ToyData(), ckpt_path=from_python)
    with pytest.raises(
        ValueError, match=r"^the checkpoint does not fit KD: network\.first\.weight has shape \(6, 4\) in"
    ):
        trainer.test(make("KD", student=Net(4, 7)), ToyData(), ckpt_path=from_python)
