"""The texts of other libraries that are parsed are still what they say."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from distill.internals.jsonargparse import RewordedHelpFormatter
from distill.internals.messages import (
    key_of_a_file,
    needs_more_values,
    null_as_given,
    of_a_class,
    reword_subclasses,
    several_loaders,
    unknown_argument,
    unknown_command,
    worker_message,
    wrong_value,
)


class Numbers(Dataset[int]):
    """None of its samples can be read."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise self.error


class OwnError(ValueError):
    """A class of errors whose name has no dot in a traceback's last line but has a module before it."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no such thing: 3"),
        KeyError("no such key: 'a'"),
        FileNotFoundError("there is no file a.png"),
        OwnError("of two\nlines: 3"),
    ],
)
def test_an_error_in_a_worker_is_of_the_same_class_and_its_message_is_found(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        list(DataLoader(Numbers(error), num_workers=1))
    assert type(caught.value) is type(error)
    text = str(caught.value.args[0])
    assert text != error.args[0]  # where this fails, torch no longer wraps the message
    expected = repr(error.args[0]) if isinstance(error, KeyError) else error.args[0]
    assert (worker_message(text) or "").strip() == expected


def test_another_text_is_of_no_worker() -> None:
    assert worker_message("no such thing: 3") is None


class Task:
    """A class that a parser takes."""

    def __init__(self, rate: float | None = None, form: Literal["a", "b"] = "a", other: Task | None = None) -> None:
        """Takes what it is given."""


class OtherTask(Task):
    """Another."""


def task_parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, formatter_class=RewordedHelpFormatter)
    parser.add_argument("--model", type=Task)
    parser.add_argument("--max_epochs", type=int)
    return parser


def refused(*arguments: str) -> str:
    with pytest.raises(ArgumentError) as caught:
        task_parser().parse_args(list(arguments))
    return str(caught.value.message)


TASK = f"--model={__name__}.Task"


@pytest.mark.parametrize(
    ("arguments", "keys", "cause", "value"),
    [
        (["--max_epochs=x"], ["max_epochs"], "Expected int", "x"),
        ([TASK, "--model.rate=abc"], ["model", "rate"], "Expected float", "abc"),
        ([TASK, "--model.form=c"], ["model", "form"], "Expected one of 'a', 'b'", "c"),
    ],
)
def test_keys_causes_and_value_are_found_in_the_tree_of_errors(
    arguments: list[str], keys: list[str], cause: str, value: str
) -> None:
    found = wrong_value(refused(*arguments))
    assert ".".join(found.keys) == ".".join(keys)
    assert any(cause in one for one in found.causes)
    assert found.value == value or value in "; ".join(found.causes)
    assert "NoneType" not in "; ".join(found.causes)


def test_an_unknown_argument_is_found() -> None:
    assert unknown_argument(refused("--max_epochz=3")) == "max_epochz"
    assert unknown_argument("all is well") is None


def test_an_unknown_option_of_a_class_and_an_unknown_command_are_found() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Task)
    with pytest.raises(ArgumentError) as caught:
        parser.parse_object({"rte": 3})
    assert of_a_class(str(caught.value.message))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subcommands().add_subcommand("fit", task_parser())
    with pytest.raises(ArgumentError) as caught:
        parser.parse_args(["fitt"])
    assert unknown_command(str(caught.value)) == "fitt"


def test_a_value_of_several_lines_is_no_cause() -> None:
    text = "Expected a path but [{a: 1,\n b: 2}] either not accessible or invalid"
    assert wrong_value(f"Parser key \"x\":\n  - {text}\n  - Expected a <class 'int'>").causes == ["Expected int"]


class TwoLoaders(LightningModule):
    """Its validation takes one loader."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Does nothing."""


def test_lightning_says_that_a_step_takes_one_loader() -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    with pytest.raises(RuntimeError) as caught:
        trainer.validate(TwoLoaders(), [DataLoader(range(2)), DataLoader(range(2))], verbose=False)  # type: ignore[arg-type]
    assert several_loaders(caught.value) == "val"
    assert several_loaders(RuntimeError("another")) is None


def test_an_unknown_argument_of_a_command_is_found() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    commands = parser.add_subcommands()
    commands.add_subcommand("fit", task_parser())
    with pytest.raises(ArgumentError) as caught:
        parser.parse_args(["--config", '{"fit": {"max_epochz": 3}}', "fit"])
    assert "max_epochz" in str(unknown_argument(caught.value.message))
    assert "max_epochz" in str(key_of_a_file(caught.value.message))


def test_a_key_with_spaces_is_found_and_an_argument_of_the_command_line_is_no_key_of_a_file() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    with pytest.raises(ArgumentError) as caught:
        parser.parse_args(["--config", "max epochs: 3"])
    assert key_of_a_file(str(caught.value.message)) == "max epochs"
    assert key_of_a_file(refused("--max_epochz=3")) is None


def test_the_null_of_a_nested_class_comes_as_none_and_is_null_again() -> None:
    seen: list[str] = []

    class Parser(ArgumentParser):
        def parse_args(self, args: Any = None, *more: Any, **settings: Any) -> Any:
            seen.extend(args or ())
            return super().parse_args(args and [null_as_given(arg) for arg in args], *more, **settings)

    parser = Parser(exit_on_error=False)
    parser.add_argument("--model", type=Task)
    other = f"--model.other={__name__}.OtherTask"
    config = parser.parse_args([TASK, other, "--model.other.rate=3", "--model.other.rate=null"])
    assert config.model.init_args.other.init_args.rate is None
    assert null_as_given("--rate=None") == "--rate=null"
    assert null_as_given("--rate=3") == "--rate=3"
    assert any(arg.endswith("=None") for arg in seen), "null_as_given is needed no longer"


def test_the_names_of_subclasses_are_found_in_a_help() -> None:
    class Fewer(RewordedHelpFormatter):
        def reworded(self, text: str) -> str:
            return reword_subclasses(text, lambda names: names[-1])

    parser = task_parser()
    parser.formatter_class = Fewer
    assert f"known subclasses: {__name__}.OtherTask)" in " ".join(parser.format_help().split())


@pytest.mark.parametrize(
    ("norm", "shape"),
    [(nn.BatchNorm1d(2), (1, 2)), (nn.BatchNorm2d(2), (1, 2, 1, 1)), (nn.InstanceNorm1d(2), (3, 2, 1))],
)
def test_torchs_norms_say_that_they_need_more_values(norm: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="more than 1") as caught:
        norm(torch.zeros(shape))
    assert needs_more_values(caught.value)
    assert not needs_more_values(ValueError("another"))
