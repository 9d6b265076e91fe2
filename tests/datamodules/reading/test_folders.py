from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from datamodules.reading.folders import check_paired, find_folder, list_files, subfolders, walk_files


def test_files_are_listed_by_key_without_hidden_and_other_ones(tmp_path: Path) -> None:
    for name in ("b_10.png", "a_10.png", "a_11.png", "._a_10.png", ".DS_Store", "a_10.png.part"):
        (tmp_path / name).touch()
    assert list_files(tmp_path, "", "_10.png") == {"a": tmp_path / "a_10.png", "b": tmp_path / "b_10.png"}
    assert list_files(tmp_path, "b_", ".png") == {"10": tmp_path / "b_10.png"}
    assert list(list_files(tmp_path, "", ".png")) == ["a_10", "a_11", "b_10"]


def test_lists_do_not_depend_on_the_order_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "cabd":
        (tmp_path / f"{name}.png").touch()
        (tmp_path / name).mkdir()
    (tmp_path / ".hidden").mkdir()
    scandir = os.scandir
    for backwards in (False, True):

        @contextmanager
        def ordered(folder: Path, backwards: bool = backwards) -> Iterator[Iterator[os.DirEntry[str]]]:
            with scandir(folder) as entries:
                yield iter(sorted(entries, key=lambda entry: entry.name, reverse=backwards))

        monkeypatch.setattr(os, "scandir", ordered)
        assert list(list_files(tmp_path, "", ".png")) == list("abcd")
        assert [folder.name for folder in subfolders(tmp_path)] == list("abcd")


def test_a_folder_that_is_there_is_found(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert find_folder(tmp_path, "a/b", "unpack some.zip there") == tmp_path / "a" / "b"


def test_a_missing_folder_says_what_to_unpack_and_which_folder_looks_like_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with pytest.raises(FileNotFoundError, match=f"^root {root} is not a folder$"):
        find_folder(root, "a/b", "unpack some.zip there")
    (root / "a").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=f"^{root} holds no a/b: unpack some.zip there$"):
        find_folder(root, "a/b", "unpack some.zip there")
    (root / "a" / "b").mkdir()
    for wrong in (tmp_path, root / "a"):
        with pytest.raises(FileNotFoundError, match=f"^{wrong} holds no a/b, but {root} does: give that as root$"):
            find_folder(wrong, "a/b", "unpack some.zip there")


def test_files_without_partner_are_counted_and_the_first_is_named() -> None:
    files = {key: Path(key) for key in "abcd"}
    check_paired(files, "images", {**files, "e": Path("e")}, "label", Path("labels"))
    with pytest.raises(FileNotFoundError, match=r"^labels holds no label for 2 of 4 images, the first is b$"):
        check_paired(files, "images", {"a": Path("a"), "c": Path("c")}, "label", Path("labels"))


JUNK = ("__MACOSX/cat/0.png", "._0.png", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints/0-checkpoint.png", ".x/0.png")


def write_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def walked(folder: Path) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in walk_files(folder, (".png",)).values()]


def test_junk_is_no_part_of_a_data_set(tmp_path: Path) -> None:
    write_files(tmp_path, "b/1.png", "a/0.PNG", "0.png", "a/0.txt", *JUNK)
    assert walked(tmp_path) == ["0.png", "a/0.PNG", "b/1.png"]
    assert [*list_files(tmp_path, "", "")] == ["0.png", "a", "b"]
    assert [folder.name for folder in subfolders(tmp_path)] == ["a", "b"]


def test_links_are_followed_and_each_file_is_found_once(tmp_path: Path) -> None:
    write_files(tmp_path, "data/a/0.png", "data/b/1.png", "elsewhere/c/2.png", "elsewhere/3.png")
    data = tmp_path / "data"
    (data / "c").symlink_to(tmp_path / "elsewhere" / "c")
    (data / "3.png").symlink_to(tmp_path / "elsewhere" / "3.png")
    expected = ["3.png", "a/0.png", "b/1.png", "c/2.png"]
    assert walked(data) == expected
    # loops, a second way to a folder, and a second name of a file
    (data / "a" / "loop").symlink_to(data)
    (data / "a" / "self").symlink_to(data / "a")
    (tmp_path / "elsewhere" / "c" / "up").symlink_to(tmp_path)
    (data / "0 again").symlink_to(data / "a")
    (data / "0.png").symlink_to(data / "a" / "0.png")
    assert walked(data) == expected
    assert walked(data / "a") == ["0.png"]


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "0.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(
        FileNotFoundError, match=rf"^{tmp_path}/0\.png is a link to {tmp_path}/gone\.png, which is not a"
    ):
        walk_files(tmp_path, (".png",))


def test_a_folder_that_cannot_be_listed_is_one_sentence(tmp_path: Path) -> None:
    for listed in (subfolders, lambda folder: list_files(folder, "", ""), lambda folder: walk_files(folder, ())):
        with pytest.raises(FileNotFoundError, match=f"^the folder {tmp_path}/none cannot be listed .No such file"):
            listed(tmp_path / "none")
