"""The examples of the page on weights run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from distill.command.command_line import fit_parser
from distill.weight_files.forms import WRAPPERS
from tests.command.test_sentences import configured

PAGE = (Path(__file__).parents[1] / "docs/weights.md").read_text()
COMMENT = re.compile(r"# (\S+: took .*)$", re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_in_python_run_and_say_what_their_comments_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("distill.checkpoint.rank_zero_info", said.append)
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    for code in blocks("python"):
        exec(code, scope)  # in one process, as in a notebook
    assert said == COMMENT.findall("\n".join(blocks("python")))
    assert len(said) == 2
    shards = sorted((tmp_path / "teacher").glob("*.safetensors"))
    assert shards[0].name in PAGE


@pytest.mark.parametrize("number", range(3))
def test_the_examples_in_yaml_are_configurations(number: int, tmp_path: Path) -> None:
    examples = blocks("yaml")
    assert len(examples) == 3
    options = configured(tmp_path, kind="distill.methods.KD")
    arguments = fit_parser().parse_args([*options, "--config", examples[number]]).model.init_args
    if number == 0:
        assert arguments.student_checkpoint.as_dict() == {"path": "run.ckpt", "key": None, "prefix": "ema."}
    elif number == 1:
        assert arguments.teacher_checkpoint == "hf://timm/resnet18.a1_in1k"
    else:
        assert arguments.teacher.class_path == arguments.student.class_path == "timm.create_model"


def test_the_page_names_all_wrappers() -> None:
    assert all(f"`{wrapper}`" in PAGE for wrapper in WRAPPERS)
