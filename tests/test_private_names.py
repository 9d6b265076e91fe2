"""Private names of other libraries stay within distill/internals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.private_names import FENCE, places

ROOT = Path(__file__).parents[1]


def test_no_private_name_is_used_outside_of_the_fence() -> None:
    outside = [place for place in places(ROOT) if not place.file.startswith(FENCE)]
    assert outside == []


EXAMPLE = """
import torch._dynamo
from torch import _assert, nn
from torch._dynamo.exc import InvalidBackend
from typing import Protocol

def _own(): ...

class Follows(Protocol):
    def _to(self): ...

class Network(nn.Module):
    _mine = 1

    def _apply(self, fn):
        super()._apply(fn)
        _own()
        self._mine = self._buffers
        return self

    def other(self, other):
        other._mine = other._modules
        other._replace(a=1)
        other._to()
        return getattr(other, "_parameters")

    @property
    def _ddp_params_and_buffers_to_ignore(self): ...
"""
LINES = {
    "2: torch._dynamo",
    "3: torch._assert",
    "4: torch._dynamo.exc.InvalidBackend",
    "15: _apply",
    "18: _buffers",
    "22: _modules",
    "24: _to",
    "25: _parameters",
    "28: _ddp_params_and_buffers_to_ignore",
}


def test_every_kind_of_use_is_found_and_own_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "distill").mkdir()
    (tmp_path / "distill/__init__.py").touch()
    (tmp_path / "distill/example.py").write_text(EXAMPLE)
    script = [sys.executable, str(ROOT / "tests/private_names.py"), str(tmp_path)]
    *lines, total = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {line.removeprefix("distill/example.py:") for line in lines} == LINES
    assert total == "9 places, 9 of them outside distill/internals/"
