from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.reading.video_files import read_frames
from tests.datamodules.recordings import cut_without_encoding, grey_frames, with_its_index_in_front, write_video


def test_frames_are_the_middles_of_equal_parts(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", grey_frames(20, 10))
    frames = read_frames(path, 4, 16)
    assert frames.shape == (4, 3, 16, 16)
    assert frames.dtype == np.uint8
    # frames 2, 7, 12 and 17, up to what the codec loses
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [60, 110, 160, 210], atol=4)


def test_a_short_video_repeats_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", grey_frames(2, 100))
    np.testing.assert_allclose(read_frames(path, 4, 8).mean((1, 2, 3)), [40, 40, 140, 140], atol=4)


@pytest.mark.parametrize("upright", [False, True])
def test_the_middle_square_is_seen_in_red_green_and_blue(tmp_path: Path, upright: bool) -> None:
    frame = np.full((96, 32, 3) if upright else (32, 96, 3), 255, np.uint8)
    square = frame[32:64] if upright else frame[:, 32:64]
    square[:] = 0
    square[:16, :, 0], square[16:, :16, 1], square[16:, 16:, 2] = 200, 200, 200
    seen = read_frames(write_video(tmp_path / "a.mp4", [frame] * 3), 1, 32)[0].astype(int)
    red, green, blue = seen[:, 4:12, 12:20], seen[:, 20:28, 4:12], seen[:, 20:28, 20:28]
    for strong, patch in enumerate((red, green, blue)):
        assert abs(patch[strong].mean() - 200) < 25
        assert np.delete(patch, strong, axis=0).mean() < 40


def test_a_smaller_frame_is_the_mean_of_its_pixels(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::4] = 200
    seen = read_frames(write_video(tmp_path / "a.mp4", [stripes] * 3), 1, 16)
    np.testing.assert_allclose(seen, 50, atol=12)


def test_a_video_that_was_cut_without_encoding_gives_the_frames_that_decode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = cut_without_encoding(write_video(tmp_path / "a.mp4", grey_frames(20, 10)), 4)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 20
    with caplog.at_level("INFO"):
        frames = [read_frames(path, 4, 16) for _ in range(2)]
    # of frames 4 to 19, those in the middle of four equal parts: 6, 10, 14 and 18
    np.testing.assert_allclose(frames[0].mean((1, 2, 3)), [100, 140, 180, 220], atol=4)
    assert np.array_equal(frames[0], frames[1])
    assert caplog.messages == [f"{path} claims 20 frames, but 16 decode: the frames are spread over these"]


def test_a_video_whose_end_is_missing_is_refused_and_not_taken_for_a_cut_one(tmp_path: Path) -> None:
    path = with_its_index_in_front(write_video(tmp_path / "a.mp4", grey_frames(20, 10)))
    np.testing.assert_allclose(read_frames(path, 2, 8).mean((1, 2, 3)), [90, 190], atol=4)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"^{path} ends at frame 1?[0-9] of 20$"):
        read_frames(path, 20, 8)


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    for content in (b"", b"no video"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^{path} cannot be read as a video$"):
            read_frames(path, 4, 8)
    whole = write_video(tmp_path / "b.mp4", grey_frames(20, 10)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"^{path} "):
        read_frames(path, 4, 8)
