import doctest
from types import ModuleType

import pytest

from distill.metrics import cmd, depth, jsd, segmentation


@pytest.mark.parametrize("module", [cmd, depth, jsd, segmentation], ids=lambda module: module.__name__)
def test_examples_in_docstrings_run(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
