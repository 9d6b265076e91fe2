from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.reading.responses import StoredResponses
from tests.datamodules.trees import save, write

SIZE = (4, 6)
COUNTS = np.arange(24, dtype=np.uint16).reshape(SIZE) * 2800


def folder_of(root: Path, description: object = None) -> Path:
    save(root / "a" / "0.png", COUNTS)
    if description is not None:
        write(root / "responses.json", json.dumps(description))
    return root


@pytest.mark.parametrize("unit", [0.001, 80 / 65535, 1])
def test_a_png_counts_the_unit_of_its_folder(tmp_path: Path, unit: float) -> None:
    responses = StoredResponses(folder_of(tmp_path, {"metres_per_unit": unit, "network": "x"}))
    responses.check(["a/0"])
    depth = responses.read("a/0", [SIZE])
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, COUNTS.astype(np.float64) * unit, rtol=1e-6)


def test_without_a_unit_the_error_says_what_to_write(tmp_path: Path) -> None:
    message = (
        r"holds no responses\.json to give the unit of its PNG files: write one that holds "
        r"\{\"metres_per_unit\": 0\.001\} for millimetres, or 0\.0012207217517357137 for the 80/65535 m"
    )
    with pytest.raises(FileNotFoundError, match=message):
        StoredResponses(folder_of(tmp_path)).check(["a/0"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_array_holds_metres_and_goes_before_a_png(tmp_path: Path, dtype: type[np.floating]) -> None:
    metres = np.linspace(0, 80, 24).reshape(SIZE).astype(dtype)
    np.savez_compressed(folder_of(tmp_path) / "a" / "0.npz", depth=metres)
    responses = StoredResponses(tmp_path)
    responses.check(["a/0"])
    assert responses.read("a/0", [SIZE]).dtype == np.float32
    assert np.array_equal(responses.read("a/0", [(1, 1), SIZE]), metres.astype(np.float32))


def test_missing_responses_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    responses = StoredResponses(folder_of(tmp_path, {"metres_per_unit": 0.001}))
    with pytest.raises(
        FileNotFoundError, match=rf"^{tmp_path} holds no response for 2 of 3 frames, the first is b/7.png"
    ):
        responses.check(["a/0", "b/7", "b/8"])
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path} holds no response b/7.png or .npz$"):
        responses.read("b/7", [SIZE])


@pytest.mark.parametrize("description", [{}, {"metres_per_unit": 0}, {"metres_per_unit": "1 mm"}])
def test_a_unit_that_is_none_is_refused(tmp_path: Path, description: object) -> None:
    with pytest.raises(ValueError, match=r"responses\.json should give metres_per_unit, a number above 0"):
        StoredResponses(folder_of(tmp_path, description))


@pytest.mark.parametrize(
    ("text", "message"), [("{", r"responses\.json cannot be read"), ("[1]", "should hold a JSON object")]
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write(folder_of(tmp_path) / "responses.json", text)
    with pytest.raises(ValueError, match=message):
        StoredResponses(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6])
@pytest.mark.parametrize("suffix", ["png", "npz"])
def test_a_damaged_response_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    path = folder_of(tmp_path, {"metres_per_unit": 0.001}) / "a" / f"0.{suffix}"
    if suffix == "npz":
        np.savez_compressed(path, depth=COUNTS.astype(np.float32))
    content = path.read_bytes()
    path.write_bytes(content[: round(kept * len(content))])
    with pytest.raises(ValueError, match=rf"^{path} cannot be read"):
        StoredResponses(tmp_path).read("a/0", [SIZE])


def test_arrays_that_are_no_depth_are_refused(tmp_path: Path) -> None:
    path = folder_of(tmp_path) / "a" / "0.npz"
    responses = StoredResponses(tmp_path)
    np.savez_compressed(path, metres=np.ones(SIZE))
    with pytest.raises(ValueError, match=rf"^{path} cannot be read"):
        responses.read("a/0", [SIZE])
    np.savez_compressed(path, depth=np.ones((1, *SIZE)))
    with pytest.raises(
        ValueError, match=rf"^{path} should hold floats \(H, W\) under 'depth' and holds float64 \(1, 4, 6\)"
    ):
        responses.read("a/0", [SIZE])
    for value in (-1.0, np.nan, np.inf):
        np.savez_compressed(path, depth=np.full(SIZE, value))
        with pytest.raises(ValueError, match=rf"^{path} should hold metres, and 0 where there is no response"):
            responses.read("a/0", [SIZE])
