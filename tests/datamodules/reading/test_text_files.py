from __future__ import annotations

import re
from pathlib import Path

import pytest

from datamodules.reading.text_files import read_lines, read_text

LINES = ["a/rgb.jpg a/depth.png 721.5", "", "für alle"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_is_read_whatever_its_marks_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(end.join([*LINES, ""]).encode(encoding))
    assert read_lines(path) == LINES
    for name in ("utf-16", "utf-32"):
        path.write_bytes(b"".join([{"utf-16": b"\xfe\xff", "utf-32": b"\0\0\xfe\xff"}[name], "é".encode(f"{name}-be")]))
        assert read_text(path) == "é"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\nb\nfür".encode("latin-1"), "line 3 of {} holds the byte 0xfc, which is not UTF-8: save the file as UTF-8"),
        ("a b".encode("utf-16-le"), "line 1 of {} holds the byte 0x00, which is in no text: save the file as UTF-8"),
        (b"\xff\xfea", "line 1 of {} holds the byte 0x61, which is not UTF-16: save the file as UTF-8"),
        (b"a\n\x89PNG\r\n", "line 2 of {} holds the byte 0x89, which is not UTF-8: save the file as UTF-8"),
    ],
)
def test_other_encodings_name_line_and_byte(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(path))}$"):
        read_lines(path)


def test_a_missing_file_and_a_folder_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path}/none is not there$"):
        read_text(tmp_path / "none")
    with pytest.raises(ValueError, match=f"^{tmp_path} cannot be read"):
        read_text(tmp_path)
