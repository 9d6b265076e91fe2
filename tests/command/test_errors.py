"""User errors print one line; bugs print a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from distill import DistillationModule, NetworkOutput, UserError
from distill.cli import main
from distill.command.errors import PROJECT_FOLDERS, is_user_error
from distill.errors import USER_ERRORS
from distill.outputs import Batch

QUIET = [f"--trainer.{what}=false" for what in ("enable_progress_bar", "enable_model_summary")]
FIT = ["fit", "--config", "configs/mnistm/dkd_pssm.yaml", "--trainer.accelerator", "cpu", *QUIET]


def a_check(name: str) -> None:
    error = UserError(
        f"{name} must be another",
    )
    fail(error)


def fail(error: Exception) -> None:
    raise error


class OwnMethod(DistillationModule):
    """A user's method that fails in its step."""

    def __init__(self, *args: Any, fault: str = "value", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fault = fault

    def distillation_step(self, teacher: NetworkOutput, student: NetworkOutput, batch: Batch) -> dict[str, Tensor]:
        if self.fault == "value":
            raise ValueError("not enough values to unpack")
        a_check("fault")
        return {}


def fit_with(tmp_path: Path, *arguments: str) -> None:
    main([*FIT, "--logs_dir", str(tmp_path), *arguments])


OWN_METHOD = ["--model", f"{__name__}.OwnMethod", "--model.fault"]


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_a_users_method_may_raise_a_user_error_by_a_function_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        fit_with(tmp_path, *OWN_METHOD, "user")
    assert exit_.value.code == 1
    assert said(capsys) == ["error: fault must be another"]


@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_another_error_in_the_step_of_a_users_method_has_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="not enough values"):
        fit_with(tmp_path, *OWN_METHOD, "value")
    assert said(capsys) == []


def of_this_project(text: str, name: str) -> Callable[..., Any]:
    """A function of a module of this project."""
    names: dict[str, Any] = {"UserError": UserError}
    exec(compile(text, str(PROJECT_FOLDERS[0] / "methods" / "example.py"), "exec"), names)
    function: Callable[..., Any] = names[name]
    return function


@pytest.mark.parametrize("name", ["step", "instantiate_classes"])
def test_a_plain_value_error_in_our_code_is_a_bug(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for bug in ('int("x")', 'raise ValueError("no such thing")'):
        monkeypatch.setattr("distill.cli.CLI", of_this_project(f"def {name}(*_): {bug}", name))
        with pytest.raises(ValueError, match=r"invalid literal|no such thing"):
            main(["fit"])
    monkeypatch.setattr("distill.cli.CLI", of_this_project(f'def {name}(*_): raise UserError("no such thing")', name))
    with pytest.raises(SystemExit):
        main(["fit"])
    assert capsys.readouterr().err == "error: no such thing\n"


def caught(function: Callable[[], Any]) -> Exception:
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("kind", USER_ERRORS)
def test_every_kind_of_user_error_is_user_error(kind: type[Exception]) -> None:
    assert is_user_error(caught(lambda: fail(kind("no such thing"))))


def test_what_other_code_raises_on_purpose_is_user_error_only_while_classes_are_made() -> None:
    def instantiate_classes() -> None:
        fail(TypeError("a value that is refused"))

    def configure_optimizers() -> None:
        len(3)  # type: ignore[arg-type]

    assert is_user_error(caught(instantiate_classes))
    assert not is_user_error(caught(configure_optimizers))
    assert not is_user_error(caught(lambda: fail(TypeError("a value that is refused"))))
