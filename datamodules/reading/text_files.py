"""Reads text files: lists, calibrations and descriptions; every error names the file."""

from __future__ import annotations

import codecs
from pathlib import Path

from distill.errors import UserError, UserFileNotFoundError

# the mark of UTF-32 starts with that of UTF-16
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends; see :func:`read_text`."""
    return read_text(path).splitlines()


def read_text(path: Path) -> str:
    """The content of a text file.

    The file is UTF-8, whatever the locale is, or starts with the byte order mark of UTF-8, UTF-16 or UTF-32.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is in another encoding, or no text.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserFileNotFoundError(f"{path} is not there") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    encoding = next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"line {line} of {path} holds the byte 0x{content[error.start]:02x}, which is not {encoding.upper()}: save "
            "the file as UTF-8"
        ) from None
    if "\0" in text:  # UTF-16 without its mark, or a binary file
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(f"line {line} of {path} holds the byte 0x00, which is in no text: save the file as UTF-8")
    return text
