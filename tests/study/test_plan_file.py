"""What a command line changes in the file of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.command.errors import ConfigurationError
from distill.study.plan_file import read_plan
from distill.study.study import Study

FILE: dict[str, Any] = {
    "base": {"trainer": {"max_epochs": 10, "accelerator": "cpu"}, "data": {"class_path": "datamodules.GaussianPair"}},
    "rows": {"KL, T = 1": {"model": {"init_args": {"weight": 1, "temperature": 1}}}, "student": {}},
    "columns": {"gamma 0": {}, "gamma 0.2": {"data": {"init_args": {"gamma": 0.2}}}},
}


def read(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(FILE))
    return read_plan(Study, "study", "", ["--config", str(path), *arguments])


def test_an_option_sets_one_entry_and_keeps_the_others(tmp_path: Path) -> None:
    plan = read(tmp_path, "--base.trainer.max_epochs", "3", "--base.data.init_args.level=2", "--seeds", "4")
    assert plan["base"]["trainer"] == {"max_epochs": 3, "accelerator": "cpu"}
    assert plan["base"]["data"] == {"class_path": "datamodules.GaussianPair", "init_args": {"level": 2}}
    assert plan["seeds"] == 4
    assert plan["rows"] == FILE["rows"]


def test_an_option_finds_rows_and_columns_with_spaces_and_dots_in_their_names(tmp_path: Path) -> None:
    plan = read(
        tmp_path,
        "--rows.KL, T = 1.model.init_args.temperature=2",
        "--columns.gamma 0.2.data.init_args.gamma",
        "0.3",
    )
    assert plan["rows"]["KL, T = 1"] == {"model": {"init_args": {"weight": 1, "temperature": 2}}}
    assert plan["columns"] == {"gamma 0": {}, "gamma 0.2": {"data": {"init_args": {"gamma": 0.3}}}}


def test_another_class_leaves_nothing_of_the_arguments_of_the_one_before(tmp_path: Path) -> None:
    plan = read(tmp_path, "--base.data", "{class_path: datamodules.SklearnPair, init_args: {gamma: 0}}")
    assert plan["base"]["data"] == {"class_path": "datamodules.SklearnPair", "init_args": {"gamma": 0}}


@pytest.mark.parametrize(
    ("text", "value"), [("10:00", "10:00"), ("1-10:00:00", "1-10:00:00"), ("1e-3", 0.001), ("null", None), ("[1]", [1])]
)
def test_a_value_is_what_it_is_on_the_command_line_of_a_fit_and_times_stay_text(
    text: str, value: Any, tmp_path: Path
) -> None:
    read_value = read(tmp_path, "--slurm.slurm_time", text)["slurm"]["slurm_time"]
    assert read_value == value
    assert type(read_value) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bse.trainer.max_epochs", "3"], "--bse.trainer.max_epochs: there is no part 'bse'"),
        (["--teacher.trainer.max_epochs", "3"], "there is no part 'teacher'"),
        (["--base.trainer.max_epochs"], "--base.trainer.max_epochs: expected a value"),
        (["--seed", "3"], "did you mean seeds?"),
        (["--base.x", "{a"], "--base.x: '{a' is not valid YAML"),
        (["--rows.typo.model.x", "3"], "--rows.typo.model.x: none of the rows .*; there are 'KL, T = 1', 'student'$"),
        (["--columns.gamma 1.data", "{}"], "none of the columns has such a name; there are 'gamma 0', 'gamma 0.2'$"),
    ],
)
def test_what_no_entry_can_be_set_of_is_one_sentence(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("?", r"\?")):
        read(tmp_path, *arguments)
