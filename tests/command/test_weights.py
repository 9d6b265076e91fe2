"""Weights with a key and a prefix, and the start of a student, on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from distill import Supervised
from distill.cli import main
from distill.command.command_line import fit_parser
from distill.methods import KD
from distill.models import MLP
from distill.resume.differences import differences
from distill.study.settings import named_files, parts_that_matter
from tests.command.endings import error_of
from tests.command.test_sentences import configured
from tests.toys import Net, ToyData, make, quiet_trainer
from tests.weight_files.test_reading import sharded


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A file with two networks under one key."""
    torch.manual_seed(3)
    parts = {f"{part}.{name}": value for part in ("net", "ema") for name, value in MLP(4, 4).state_dict().items()}
    torch.save({"state_dict": parts, "epoch": 3}, tmp_path / "both.pt")
    return tmp_path / "both.pt"


def part_of(path: Path, prefix: str) -> dict[str, Tensor]:
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def given(argument: str, form: str, path: Path) -> list[str]:
    if form == "one value":
        return [f"--model.{argument}", f"{{path: {path}, key: state_dict, prefix: net.}}"]
    values = {"path": str(path), "key": "state_dict", "prefix": "net."}
    return [text for name, value in values.items() for text in (f"--model.{argument}.{name}", value)]


@pytest.mark.parametrize("form", ["one value", "three values"])
@pytest.mark.parametrize("argument", ["teacher_checkpoint", "student_checkpoint", "network_checkpoint"])
def test_key_and_prefix_are_given_in_yaml_or_by_options_and_a_study_hashes_the_file(
    argument: str, form: str, both: Path, tmp_path: Path
) -> None:
    kind = "distill.Supervised" if argument == "network_checkpoint" else "distill.methods.KD"
    config = fit_parser().parse_args([*configured(tmp_path, kind=kind), *given(argument, form, both)])
    expected = {"path": str(both), "key": "state_dict", "prefix": "net."}
    assert yaml.safe_load(fit_parser().dump(config))["model"]["init_args"][argument] == expected
    parts = parts_that_matter(config.as_dict())
    assert parts["model"]["init_args"][argument] == expected
    first = named_files(parts, tmp_path / "study", {})
    assert first.keys() == {f"model.init_args.{argument}.path"}
    both.write_bytes(both.read_bytes() + b"more")
    assert named_files(parts, tmp_path / "study", {}) != first


def test_a_study_hashes_all_shards_of_a_folder(tmp_path: Path) -> None:
    _, index = sharded(tmp_path)
    config = {"model": {"init_args": {"student_checkpoint": str(tmp_path), "teacher_checkpoint": {"path": str(index)}}}}
    first = named_files(config, tmp_path / "study", {})
    assert {key: len(hashes.split()) for key, hashes in first.items()} == {
        "model.init_args.student_checkpoint": 3,
        "model.init_args.teacher_checkpoint.path": 3,
    }
    shard = next(tmp_path.glob("*-00002-*"))
    shard.write_bytes(shard.read_bytes() + b"x")
    assert all(hashes != first[key] for key, hashes in named_files(config, tmp_path / "study", {}).items())


def test_a_run_starts_from_weights_and_goes_on_from_its_checkpoint_without_them(
    both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = [*given("teacher_checkpoint", "one value", both), "--model.optimizer.lr", "0"]
    start += ["--model.student_checkpoint", f"{{path: {both}, prefix: ema.}}"]
    options = configured(tmp_path, kind="distill.methods.KD")
    run = tmp_path / "logs/run/a"
    main(["fit", *options, *start])
    best = run / "checkpoints/best.ckpt"
    module = KD.load_from_checkpoint(best)
    for network, prefix in ((module.teacher, "net."), (module.student, "ema.")):
        assert network is not None
        torch.testing.assert_close(network.state_dict(), part_of(both, prefix), rtol=0, atol=0)

    both.rename(tmp_path / "moved.pt")
    with pytest.raises(FileNotFoundError, match=rf"the teacher_checkpoint {both} of {best} does not exist"):
        KD.load_from_checkpoint(best)
    assert KD.load_from_checkpoint(best, teacher=None, teacher_checkpoint=None).student is not None
    moved = ["--model.teacher_checkpoint", f"{{path: {tmp_path / 'moved.pt'}, prefix: net.}}"]
    with pytest.warns(UserWarning, match=f"the teacher_checkpoint {both} does not exist: the student is scored alone"):
        main(["test", *options, "--ckpt_path", "best"])
    before = yaml.safe_load((run / "fit.yaml").read_text())["model"]["init_args"]
    main(["fit", *options, *start, *moved, "--ckpt_path", "last", "--trainer.max_epochs", "2"])
    after = yaml.safe_load((run / "fit.yaml").read_text())["model"]["init_args"]
    assert (
        after["student_checkpoint"]
        == before["student_checkpoint"]
        == {"path": str(both), "key": None, "prefix": "ema."}
    )
    student = KD.load_from_checkpoint(best, teacher=None, teacher_checkpoint=None).student
    assert student is not None
    torch.testing.assert_close(student.state_dict(), part_of(tmp_path / "moved.pt", "ema."), rtol=0, atol=0)
    assert f"there is no checkpoint {both}" in error_of(["fit", *options, *start, "--version", "b"], capsys)


def test_a_start_does_not_replace_the_weights_of_a_checkpoint_from_python(tmp_path: Path) -> None:
    start, path = tmp_path / "start.pt", tmp_path / "kd.ckpt"
    torch.save(Net(4).state_dict(), start)
    module = make("KD", student_checkpoint=str(start))
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, ToyData())
    trainer.save_checkpoint(path)
    resumed = make("KD", student_checkpoint=str(start))
    quiet_trainer(tmp_path).validate(resumed, ToyData(), ckpt_path=path, verbose=False)
    start.unlink()
    loaded = KD.load_from_checkpoint(path, student=Net(4), task=module.task)
    assert module.student is not None
    for other in (resumed, loaded):
        assert other.student is not None
        torch.testing.assert_close(other.student.state_dict(), module.student.state_dict(), rtol=0, atol=0)


def test_the_classes_of_a_start_are_compared_with_those_of_the_data(tmp_path: Path) -> None:
    torch.save({"model": Net(4).state_dict(), "class_names": list("bacd")}, tmp_path / "start.pt")
    data = ToyData()
    data.class_names = tuple("abcd")  # type: ignore[attr-defined]
    module = make("KD", student_checkpoint=tmp_path / "start.pt")
    with pytest.raises(ValueError, match="the student_checkpoint was trained on the same classes in another order"):
        quiet_trainer(tmp_path, max_epochs=1).fit(module, data)
    supervised = Supervised(Net(4), module.task, ["x_b"], network_checkpoint=tmp_path / "start.pt")
    with pytest.raises(ValueError, match="the network_checkpoint was trained on the same classes in another order"):
        quiet_trainer(tmp_path).test(supervised, data, verbose=False)


def test_another_start_of_a_resumed_run_is_ignored_and_said_and_another_place_of_the_teacher_counts() -> None:
    def configuration(path: str) -> dict[str, Any]:
        weights = {"path": path, "key": None, "prefix": None}
        return {"model": {"init_args": {"teacher_checkpoint": weights, "student_checkpoint": weights}}}

    (found,) = differences(configuration("a.pt"), configuration("b.pt"))
    assert str(found) == (
        "model.init_args.student_checkpoint.path stays 'a.pt' as in the checkpoint; 'b.pt' is ignored"
    )


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("{path: x.pt, prefx: net.}", "Option 'prefx' is not accepted by Weights, did you mean prefix?"),
        ("{key: model}", "the following arguments are required: path"),
    ],
)
def test_a_wrong_form_of_weights_is_one_sentence(
    value: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = configured(tmp_path, kind="distill.methods.KD")
    line = error_of(["fit", *options, "--model.student_checkpoint", value], capsys)
    assert "student_checkpoint" in line
    assert sentence in line
