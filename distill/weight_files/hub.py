"""Weights on the Hugging Face Hub, from its cache or downloaded into it. No code of a repository runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from distill.errors import UserError, UserFileNotFoundError

SCHEME = "hf://"

NAME = re.compile(rf"{SCHEME}(?P<repository>[\w.-]+/[\w.-]+?)(@(?P<revision>[\w.-]+))?(/(?P<file>[^*?\[\]]+))?")
"""Without the letters of patterns, as the client takes the name of a file for one."""

PATTERNS = (
    ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"],
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"],
)
"""The files of weights of a repository, in the order in which they are looked for."""


class HubName(NamedTuple):
    """A repository of the Hub, and one file of it if a name gives one."""

    repository: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repository}{revision}{f'/{self.file}' if self.file else ''}"


def hub_name(text: str) -> HubName:
    """The parts of a name such as ``hf://timm/resnet18.a1_in1k@main``.

    Raises:
        ValueError: It is no such name.
    """
    found = NAME.fullmatch(text)
    if found is None or (found["file"] and {"", ".", ".."} & set(found["file"].replace("\\", "/").split("/"))):
        raise UserError(
            f"{text} is no name of the Hub: give hf://owner/name, hf://owner/name@revision or hf://owner/name/file"
        )
    return HubName(**found.groupdict())


def snapshot(name: HubName, patterns: list[str], *, online: bool) -> Path | None:
    """The folder of a repository with the files that match the patterns.

    Args:
        name: The repository and its revision.
        patterns: Of the files to download.
        online: Whether files may be downloaded.

    Returns:
        The folder in the cache; None if the repository is not in the cache and nothing may be downloaded.

    Raises:
        FileNotFoundError: The files cannot be downloaded.
    """
    from huggingface_hub import constants, snapshot_download  # imports a client of HTTP

    try:
        folder = snapshot_download(
            name.repository, revision=name.revision, allow_patterns=patterns, local_files_only=not online
        )
    except Exception as error:  # the client raises errors of several libraries
        if not online and isinstance(error, FileNotFoundError):
            return None
        cache = constants.HF_HUB_CACHE
        if constants.HF_HUB_OFFLINE:
            raise UserFileNotFoundError(
                f"{name} is not in the cache {cache}, and HF_HUB_OFFLINE forbids to download it"
            ) from None
        reason = "".join(str(error).splitlines()[:1]).partition(". ")[0]
        raise UserFileNotFoundError(
            f"{name} is not in the cache {cache}, and cannot be downloaded: {type(error).__name__}: {reason}"
        ) from None
    return Path(str(folder))
