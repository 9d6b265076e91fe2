"""Private names of other libraries stay within distill/internals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.private_names import FENCE, places

ROOT = Path(__file__).parents[1]
MOST = 15

HOST_BATCH = "labels are checked before a batch is on a GPU; distill.internals.lightning.TransferHooks does so too"
MOVES = "a network that is no submodule follows the module's moves; distill.internals.torch.FollowedModule does so too"
DATA = "the training data before the fit's loop asks for them; distill.internals.lightning.loader_of does it too"
TRAINER = "whether the module has a trainer; distill.internals.lightning.attached does it too"

# why a private name is used outside of distill/internals, by file and name
REASONS = {
    ("distill/base.py", "_apply"): MOVES,
    ("distill/base.py", "_apply_batch_transfer_handler"): HOST_BATCH,
    ("distill/base.py", "_ddp_params_and_buffers_to_ignore"): "what DDP asks of a module; there is no public name",
    ("distill/base.py", "_trainer"): TRAINER,
    ("distill/supervised.py", "_apply_batch_transfer_handler"): HOST_BATCH,
    ("distill/supervised.py", "_buffers"): "buffers are put back; distill.internals.torch.buffers_kept does it too",
    ("distill/supervised.py", "_data_source"): DATA,
    ("distill/supervised.py", "_trainer"): TRAINER,
    (
        "distill/supervised.py",
        "lightning.pytorch.core.mixins.hparams_mixin._given_hyperparameters",
    ): "who makes the module; distill.internals.lightning.made_by_command_line says it too",
    ("distill/teacher/cache.py", "_data_source"): DATA,
    ("distill/teacher/frozen.py", "_apply"): MOVES,
    ("distill/training/compilation.py", "torch._dynamo.exc.InvalidBackend"): "the error of an unknown backend",
    ("distill/training/training_set.py", "_data_source"): DATA,
    ("distill/weighting/sample_mask.py", "_apply"): MOVES,
}


def test_private_names_outside_of_the_fence_are_few_and_have_reasons() -> None:
    outside = {(place.file, place.name) for place in places(ROOT) if not place.file.startswith(FENCE)}
    assert outside - set(REASONS) == set()
    assert set(REASONS) - outside == set(), "these reasons are of names that are used no longer"
    assert len(outside) <= MOST


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
