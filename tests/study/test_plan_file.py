"""What a command line changes in the file of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.command.errors import ConfigurationError
from distill.study.plan_file import plan_parser, read_file, read_plan
from distill.study.study import Study

FILE: dict[str, Any] = {
    "base": {"trainer": {"max_epochs": 10, "accelerator": "cpu"}, "data": {"class_path": "datamodules.GaussianPair"}},
    "rows": {"KL, T = 1": {"model": {"init_args": {"weight": 1, "temperature": 1}}}, "student": {}},
    "columns": {"gamma 0": {}, "gamma 0.2": {"data": {"init_args": {"gamma": 0.2}}}},
}


def read(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(FILE))
    return read_plan(plan_parser(Study, "study", ""), ["--config", str(path), *arguments])


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


def files(folder: Path, **contents: Any) -> Path:
    """Writes YAML files by their names; returns the first one."""
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder / f"{next(iter(contents))}.yaml"


def test_a_file_is_merged_over_what_it_includes(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    common = {"include": "first.yaml", "base": {"trainer": {"max_epochs": 1, "accelerator": "cpu"}}, "seeds": [1, 2]}
    files(tmp_path / "parts", common=common, first={"name": "first", "rows": {"a": {}}})
    own = {"include": "parts/common.yaml", "base": {"trainer": {"max_epochs": 7}}, "seeds": [3], "rows": {"b": {}}}
    read = read_file(files(tmp_path, study=own))
    assert read["base"] == {"trainer": {"max_epochs": 7, "accelerator": "cpu"}}
    assert read["seeds"] == [3]
    assert read["name"] == "first"
    assert list(read["rows"]) == ["a", "b"]
    assert "include" not in read


def test_the_later_of_several_included_files_wins_and_the_file_itself_last(tmp_path: Path) -> None:
    contents = {"a": {"x": 1, "y": 1, "z": 1}, "b": {"x": 2, "y": 2}}
    assert read_file(files(tmp_path, study={"include": ["a.yaml", "b.yaml"], "x": 3}, **contents)) == {
        "x": 3,
        "y": 2,
        "z": 1,
    }


def test_a_value_that_ends_in_yaml_is_the_content_of_that_file_beside_the_one_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    files(tmp_path / "data", digits={"class_path": "D", "init_args": {"inner": "inner.yaml"}}, inner={"n": 1})
    (tmp_path / "studies").mkdir()
    digits = {"include": "../data/digits.yaml", "init_args": {"size": 8}}
    path = files(tmp_path / "studies", study={"base": {"data": "../data/digits.yaml"}, "rows": {"a": {"data": digits}}})
    read = read_file(path)
    assert read["base"]["data"] == {"class_path": "D", "init_args": {"inner": {"n": 1}}}
    assert read["rows"]["a"]["data"] == {"class_path": "D", "init_args": {"inner": {"n": 1}, "size": 8}}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"a": {"include": "b.yaml"}}, r"there is no file \S+/b.yaml, which \S+/a.yaml names$"),
        ({"a": {"x": {"data": "b.yaml"}}}, r"there is no file \S+/b.yaml, which \S+/a.yaml names$"),
        ({"a": {"include": "a.yaml"}}, r"\S+/a.yaml leads back to itself: \S+/a.yaml -> \S+/a.yaml$"),
        (
            {"a": {"include": "b.yaml"}, "b": {"x": "a.yaml"}},
            r"a.yaml leads back to itself: \S+a.yaml -> \S+b.yaml",
        ),
        ({"a": {"include": "b.yaml"}, "b": "- 1"}, r"b.yaml, which \S+/a.yaml names must hold keys and values$"),
        ({"a": "x: [1"}, r"a.yaml is not valid YAML: line 2, column 1: "),
        ({"a": {"include": 3}}, r"a.yaml: include must name files, got 3$"),
    ],
)
def test_files_that_cannot_be_put_together_are_one_sentence(
    contents: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_file(files(tmp_path, **contents))


def test_the_command_line_beats_the_file_wherever_it_stands(tmp_path: Path) -> None:
    path = files(tmp_path, study=FILE | {"seeds": 5})
    for arguments in (["--seeds", "2", "--config", str(path)], [f"--config={path}", "--seeds", "2"]):
        assert read_plan(plan_parser(Study, "study", ""), arguments)["seeds"] == 2
