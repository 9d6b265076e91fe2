from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from datamodules.reading.sound import (
    HOP_LENGTH,
    N_FFT,
    SAMPLE_RATE,
    WINDOW_LENGTH,
    log_mel,
    mel_filterbank,
    middle,
    read_wav,
)
from tests.datamodules.recordings import write_wav


def sine(frequency: float, seconds: float, rate: int = SAMPLE_RATE) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("bands", [20, 64, 80])
def test_the_mel_filters_are_those_of_transformers(bands: int) -> None:
    theirs = mel_filter_bank(N_FFT // 2 + 1, bands, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm=None, mel_scale="htk")
    np.testing.assert_allclose(mel_filterbank(bands), theirs.T, atol=1e-6)


def test_log_mel_is_the_spectrogram_of_transformers_in_decibels_of_full_scale() -> None:
    rng = np.random.default_rng(0)
    sound = np.clip(0.1 * rng.standard_normal(SAMPLE_RATE) + 0.3 * sine(440, 1), -1, 1)
    filters = mel_filterbank(40)
    window = window_function(WINDOW_LENGTH, "hann")
    power = spectrogram(
        sound,
        window,
        WINDOW_LENGTH,
        HOP_LENGTH,
        fft_length=N_FFT,
        power=2,
        pad_mode="constant",
        mel_filters=filters.T.astype(float),
    )
    decibels = 10 * np.log10(power / (window.sum() / 2) ** 2)
    assert -70 < decibels.min() < decibels.max() < 0
    ours = log_mel(sound.astype(np.float32), filters)
    assert ours.shape == (40, 100)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, 1 + decibels[:, :100] / 40, atol=1e-4)


def test_a_window_of_25_ms_goes_on_by_10_ms() -> None:
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[SAMPLE_RATE // 2] = 1
    heard = (log_mel(click, mel_filterbank(20)) > -1).any(0)
    # a window is not zero within 12.5 ms of its middle
    assert heard.nonzero()[0].tolist() == [49, 50, 51]
    assert (WINDOW_LENGTH, HOP_LENGTH) == (0.025 * SAMPLE_RATE, 0.010 * SAMPLE_RATE)


def test_a_sine_of_full_scale_is_about_1_and_silence_is_minus_1() -> None:
    filters = mel_filterbank(64)
    heights = log_mel(sine(1000, 1).astype(np.float32), filters)[:, 50]
    # the window spreads it over neighbouring bins: a few decibels at most
    assert heights.max() == pytest.approx(1, abs=0.05)
    centres = filters.argmax(1) * SAMPLE_RATE / N_FFT
    assert centres[heights.argmax()] == pytest.approx(1000, abs=60)
    assert (log_mel(np.zeros(800, np.float32), filters) == -1).all()


def test_ten_times_the_amplitude_are_20_decibels() -> None:
    filters = mel_filterbank(32)
    quiet, loud = (log_mel((scale * sine(500, 0.5)).astype(np.float32), filters)[:, 20] for scale in (0.05, 0.5))
    loudest = loud.argmax()
    assert loud[loudest] - quiet[loudest] == pytest.approx(0.5, abs=1e-4)


def test_too_many_bands_leave_one_without_a_frequency() -> None:
    with pytest.raises(ValueError, match=r"^400 mel bands are too many for a Fourier transform of 512 samples"):
        mel_filterbank(400)


def test_sound_is_resampled_mixed_and_scaled(tmp_path: Path) -> None:
    wave = 0.5 * sine(300, 0.5, 48000)
    for stored in (wave, np.column_stack([1.5 * wave, 0.5 * wave])):
        read = read_wav(write_wav(tmp_path / "a.wav", stored))
        assert read.dtype == np.float32
        assert read.shape == (8000,)
        # away from the ends, beyond which the resampling filter sees silence
        np.testing.assert_allclose(read[200:-200], 0.5 * sine(300, 0.5)[200:-200], atol=2e-3)


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"),
    [(np.uint8, 127, 128), (np.int16, 2**15 - 1, 0), (np.int32, 2**31 - 1, 0), (np.float32, 1, 0)],
)
def test_full_scale_is_1_in_all_sample_formats(tmp_path: Path, dtype: type, scale: float, offset: float) -> None:
    wavfile.write(tmp_path / "a.wav", SAMPLE_RATE, (sine(1000, 0.1) * scale + offset).round(8).astype(dtype))
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav"), sine(1000, 0.1), atol=0.02)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no sound at all, but some text", b"RIFF\0\0\0\0WAVEfmt "])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{path} cannot be read"):
        read_wav(path)


def test_half_a_file_is_refused_and_a_chunk_beside_the_sound_is_not(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", sine(300, 0.1, 48000))
    whole = path.read_bytes()
    path.write_bytes(whole + b"LIST\4\0\0\0INFO")
    assert len(read_wav(path)) == 1600
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"^{path} cannot be read"):
        read_wav(path)


def test_an_empty_sound_is_refused(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", np.zeros(0))
    with pytest.raises(ValueError, match=f"^{path} holds no sound$"):
        read_wav(path)


def test_the_middle_is_cut_out_or_lies_between_silence() -> None:
    sound = np.arange(1, 8, dtype=np.float32)
    assert middle(sound, 3).tolist() == [3, 4, 5]
    assert middle(sound, 7).tolist() == sound.tolist()
    assert middle(sound, 10).tolist() == [0, *sound.tolist(), 0, 0]


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_integers_of_all_widths_have_one_full_scale(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "a.wav"
    shares = np.array([0.0, 0.5, -0.5, -1.0])
    values = (shares * 2 ** (bits - 1)).astype(np.int64) + (128 if bits == 8 else 0)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(bits // 8)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(b"".join(int(value).to_bytes(bits // 8, "little", signed=bits > 8) for value in values))
    np.testing.assert_allclose(read_wav(path), shares, atol=1e-6)


def test_floats_beyond_full_scale_are_scaled_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for peak in (0.5, 1.0, 1.25, 4.0):
        wavfile.write(path, SAMPLE_RATE, np.array([0, -peak, peak / 2], np.float32))
        np.testing.assert_allclose(read_wav(path), np.array([0, -1, 0.5]) * min(peak, 1), atol=1e-6)
    for values, message in (
        ([0, 32767], "holds floats up to 32767, but"),
        ([0, np.nan], "holds a sample that is not"),
    ):
        wavfile.write(path, SAMPLE_RATE, np.array(values, np.float32))
        with pytest.raises(ValueError, match=f"^{path} {message}"):
            read_wav(path)
