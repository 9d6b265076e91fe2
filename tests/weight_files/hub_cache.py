"""The cache of the Hugging Face Hub, as its client lays it out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

REVISION = "0123456789abcdef0123456789abcdef01234567"
Write = Callable[[Path], Any]


def empty_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache without a network, as HF_HOME and HF_HUB_OFFLINE give it when Python starts."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder / "hub"


def cached(hub: Path, files: dict[str, Write], owner: str = "org", name: str = "name") -> Path:
    """A snapshot of a repository: links to files that are named by their content."""
    repository = hub / f"models--{owner}--{name}"
    snapshot = repository / "snapshots" / REVISION
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs/main").write_text(REVISION)
    for number, (file, write) in enumerate(files.items()):
        write(repository / "blobs" / f"{number}.safetensors")
        (repository / "blobs" / f"{number}.safetensors").rename(repository / "blobs" / str(number))
        (snapshot / file).symlink_to(f"../../blobs/{number}")
    return snapshot
