"""How commands end."""

from __future__ import annotations

import pytest

from distill.cli import main


def error_of(command: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 2) -> str:
    """The one line with which a command ends, without ``error:``."""
    with pytest.raises(SystemExit) as exit_:
        main(command)
    assert exit_.value.code == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")
