from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from callbacks import SalienceMap
from callbacks.salience import MASK_COLOURS, salience_figure
from distill import FeatureMask
from tests.callbacks.pairs import trainer
from tests.toys import ON_MAPS, ToyData, pair_arguments


@pytest.mark.parametrize("method", ["", ON_MAPS])
def test_a_fit_ends_with_a_picture_of_its_salience(method: str, tmp_path: Path) -> None:
    module = FeatureMask(**pair_arguments(method), repeats=1)
    trainer(tmp_path, SalienceMap(), max_epochs=1).fit(module, ToyData(method=method))
    with Image.open(tmp_path / "run" / "figures" / "salience.png") as picture:
        assert picture.width > picture.height > 100


def test_a_map_is_a_heat_map_beside_what_each_mask_takes_away() -> None:
    values = np.array([[0.1, 0.9], [1.0, 0.3]])
    panels = salience_figure({"x": values}, 0.5).axes[:4]
    pictures: list[Any] = [axes.get_images()[0].get_array() for axes in panels]
    heat, true, false, random = (np.ma.filled(picture, np.nan) for picture in pictures)
    assert np.array_equal(heat, values)
    assert np.array_equal(np.isnan(true), [[True, False], [False, True]])
    assert np.array_equal(np.isnan(false), [[False, True], [True, False]])
    assert np.isnan(random).sum() == 2
    assert {axes.get_images()[0].get_clim() for axes in panels} == {(0.1, 1.0)}


def test_a_vector_is_bars_in_the_colours_of_the_masks() -> None:
    (axes,) = salience_figure({"x": np.array([0.5, 0.1, 1.0, 0.4])}, 0.25).axes
    expected = [to_rgba(MASK_COLOURS[kind]) for kind in ("neither", "false", "true", "neither")]
    assert [bar.get_facecolor() for bar in axes.patches] == expected


def test_a_ratio_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ratio must lie in \[0, 1\], got 2"):
        SalienceMap(ratio=2)
