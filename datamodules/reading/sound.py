"""Sound in WAV files, and the logarithm of its power in mel bands."""

from __future__ import annotations

import math
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import resample_poly

from datamodules.reading.image_files import UnreadableError
from distill.errors import UserError

SAMPLE_RATE = 16000  # in Hz; speech has next to nothing above 8 kHz
WINDOW = 400  # samples, 25 ms
HOP = 160  # samples, 10 ms
N_FFT = 512
FLOOR = -80.0  # decibels

# what SciPy reports damage by
DAMAGE = (
    *(OSError, ValueError, EOFError, LookupError, TypeError, NameError, ArithmeticError),
    *(struct.error, wavfile.WavFileWarning),
)

Floats = NDArray[np.float32]


def read_wav(path: Path) -> Floats:
    """Reads a WAV file, as one channel at :data:`SAMPLE_RATE`, ``(L,)``, full scale from -1 to 1.

    Several channels are averaged.

    Raises:
        ValueError: The file is damaged or empty.
    """
    try:
        with warnings.catch_warnings():
            # of an end that comes too early; but chunks beside the sound do no harm
            warnings.simplefilter("error", wavfile.WavFileWarning)
            warnings.filterwarnings("ignore", "Chunk \\(non-data\\)", wavfile.WavFileWarning)
            rate, samples = wavfile.read(path)
    except DAMAGE as error:
        raise UnreadableError(f"{path} cannot be read ({error})") from None
    if not samples.size:
        raise UnreadableError(f"{path} holds no sound")
    scaled = _scaled(samples)
    mono = scaled.mean(axis=1) if scaled.ndim == 2 else scaled
    common = math.gcd(rate, SAMPLE_RATE)
    return np.asarray(resample_poly(mono, SAMPLE_RATE // common, rate // common), np.float32)


def middle(sound: Floats, length: int) -> Floats:
    """The ``length`` samples in the middle; silence on both sides of a shorter sound."""
    missing = max(0, length - len(sound))
    padded = np.pad(sound, (missing // 2, missing - missing // 2))
    start = (len(padded) - length) // 2
    return padded[start : start + length]


def mel_filterbank(bands: int, sample_rate: int = SAMPLE_RATE, n_fft: int = N_FFT) -> Floats:
    """Triangles over frequency, of height 1, each from the peak of one neighbour to that of the other.

    The peaks are evenly spaced in mel, ``2595 log10(1 + f / 700)``, between 0 Hz and half the sample rate.

    Args:
        bands: M, how many triangles.
        sample_rate: In Hz.
        n_fft: Length of the Fourier transform.

    Returns:
        ``(M, n_fft // 2 + 1)``.

    Raises:
        ValueError: A band is so narrow that no frequency of the transform lies in it.

    Source: the scale of O'Shaughnessy, "Speech communication", 1987, as in HTK.
    """
    highest = 2595 * math.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, bands + 2) / 2595) - 1)
    frequencies = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    left, peak, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    filters = np.minimum((frequencies - left) / (peak - left), (right - frequencies) / (right - peak)).clip(0)
    if not filters.any(axis=1).all():
        raise UserError(f"{bands} mel bands are too many for a Fourier transform of {n_fft} samples: one is empty")
    return filters.astype(np.float32)


def log_mel(sound: Floats, filters: Floats) -> Floats:
    """Power in mel bands every 10 ms: 1 is 0 dB, about that of a sine of full scale, and -1 is -80 dB or less.

    Args:
        sound: At :data:`SAMPLE_RATE`, from -1 to 1, ``(L,)``.
        filters: As of :func:`mel_filterbank`, ``(M, N_FFT // 2 + 1)``.

    Returns:
        ``(M, L // HOP)``.
    """
    window = torch.hann_window(WINDOW)
    spectrum = torch.stft(torch.from_numpy(sound), N_FFT, HOP, WINDOW, window, pad_mode="constant", return_complex=True)
    # a sine of amplitude 1 has half the window's sum in its bin
    amplitude = spectrum[:, : len(sound) // HOP].abs() / (window.sum() / 2)
    power = torch.from_numpy(filters) @ amplitude.square()
    decibels = 10 * power.clamp(min=10 ** (FLOOR / 10)).log10()
    return (1 - 2 * decibels / FLOOR).clamp(max=1).numpy()


def _scaled(samples: NDArray[Any]) -> NDArray[np.float64]:
    """Samples as WAV files hold them, from -1 to 1; bytes have their zero at 128."""
    if samples.dtype == np.uint8:
        return samples.astype(np.float64) / 128 - 1
    full = -float(np.iinfo(samples.dtype).min) if samples.dtype.kind == "i" else 1.0
    return samples.astype(np.float64) / full
