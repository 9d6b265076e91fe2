"""What lies in the folder of a run of a study, and whose it is: the study's, an earlier one's, or the user's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.atomic import atomic_write
from distill.errors import UserError
from distill.study.settings import differences

FINGERPRINT = "fingerprint"
RECORD = "settings.json"
RESULT = "result.json"
REPLACED = "replaced"
UNKNOWN = "unknown"

WRITTEN = (
    *(FINGERPRINT, RECORD, RESULT, "error.txt", "fit.yaml", "hparams.yaml", "metrics.csv", "test.csv"),
    *("events.out.tfevents.*", "divergence.csv", "predictions.csv", "student.safetensors", "student.onnx"),
    *("checkpoints/best.ckpt", "checkpoints/last.ckpt", "salience.npz"),
    *("figures/depth_test.npz", "figures/salience.png", "figures/divergence.png", "figures/feature_embedding.png"),
    *(f"figures/{name}_{when}.png" for name in ("predictions", "depth") for when in ("epoch_*", "test")),
    *("figures/feature_similarity_epoch_*.png", "figures/divergence_*.png"),
    *(f"{folder}.{name}.[0-9]*" for folder, name in (("", "*"), ("checkpoints/", "*"), ("figures/", "*"))),
)
"""The files that a run writes, as patterns; the last ones are drafts of a process that was killed."""


def read_result(folder: Path) -> dict[str, Any] | None:
    """What ``result.json`` holds; ``None`` if there is none.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / RESULT
    try:
        result = json.loads(path.read_text()) if path.is_file() else None
    except ValueError:  # of JSON, and of UTF-8
        result = ""
    if result is not None and not _is_result(result):
        raise UserError(f"{path} is damaged: remove it, and the study trains this run again")
    return result


def _is_result(result: Any) -> bool:
    if not isinstance(result, dict) or not isinstance(result.get("fingerprint"), str):
        return False
    if not all(isinstance(result.get(name, ""), str) for name in ("error", "ended")):
        return False
    scores = result.get("scores", {})
    return isinstance(scores, dict) and all(isinstance(value, int | float) for value in scores.values())


def read_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the settings with which a run began in this folder; ``None`` if none did."""
    try:
        return (folder / FINGERPRINT).read_text()
    except (OSError, UnicodeDecodeError):
        return None


def read_record(folder: Path) -> dict[str, Any]:
    """The settings with which a run began in this folder; empty if they are not known."""
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    parts = ("settings", "files", "modules")
    whole = isinstance(record, dict) and all(isinstance(record.get(part, {}), dict) for part in parts)
    return record if whole else {}


def holds_results(folder: Path) -> bool:
    """Whether a folder holds scores or checkpoints of a run."""
    if any((folder / "checkpoints").glob("*.ckpt")):
        return True
    return "scores" in (read_result(folder) or {})


def setting_differences(record: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs in the configurations of two runs, and in the files that they name, as parts of a sentence."""
    if "settings" not in record:
        return ["its settings are not known"]
    found = differences(record["settings"], now["settings"]) + file_differences(record, now)
    if record.get("after") != now["after"]:
        found.append("a run that it needs, such as its teacher, has other settings")
    return found or [f"its file {FINGERPRINT} is missing or damaged"]


def file_differences(record: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The files of two configurations with other contents, as parts of a sentence."""
    return [f"the file of {key} has changed" for key in _changed(record.get("files", {}), now["files"])]


def code_differences(record: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs in the code of two runs, as parts of a sentence; nothing if the former code is not known."""
    if not record:
        return []
    found = [f"the module {name} has changed" for name in _changed(record.get("modules", {}), now["modules"])]
    if record.get("library") != now["library"]:
        found.append(f"this library was of version {record.get('library')} and is now of {now['library']}")
    if not found and record.get("code_of_needed") != now["code_of_needed"]:
        found.append("a run that it needs, such as its teacher, is of other code")
    return found


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [key for key in dict.fromkeys([*now, *before]) if before.get(key) != now.get(key)]


def begin(folder: Path, fingerprint: str, record: Mapping[str, Any]) -> None:
    """Makes a folder that of a run with these settings, with nothing of another run in it but what the user put there.

    The files of another run go to ``replaced``, from where they come back if the run with its settings begins again.
    Files there stay until the run that replaced them has ended. An interruption at any point loses none of them: the
    fingerprint is the last file that moves, so a folder that has one has all its files.
    """
    aside = folder / REPLACED
    former = read_fingerprint(aside)
    if former == fingerprint and not code_differences(read_record(aside), record):
        if read_fingerprint(folder) is not None:
            _remove(folder)
        _move(aside, folder)
        return
    if former is not None and "scores" in (read_result(folder) or {}):  # stopped just before forget_replaced
        _remove(aside)
        former = None
    if former is None:
        _move(folder, aside)
    else:
        _remove(folder)
    with atomic_write(folder / RECORD) as draft:
        draft.write_text(json.dumps(record, indent=1))
    with atomic_write(folder / FINGERPRINT) as draft:
        draft.write_text(fingerprint)


def recover(folder: Path) -> None:
    """Moves back what an interrupted :func:`begin` had moved of the run whose fingerprint is still here."""
    aside = folder / REPLACED
    if aside.is_dir() and read_fingerprint(aside) is None and read_fingerprint(folder) is not None:
        _move(aside, folder)


def forget_replaced(folder: Path) -> None:
    """Removes the files of the run that a run in this folder has replaced."""
    _remove(folder / REPLACED)


def _written(folder: Path) -> list[Path]:
    """The files of a run, its fingerprint last."""
    found = dict.fromkeys(path for pattern in WRITTEN for path in folder.glob(pattern) if path.is_file())
    return sorted(found, key=lambda path: path.name == FINGERPRINT)


def _remove(folder: Path) -> None:
    for path in _written(folder):
        path.unlink()
    _remove_empty(folder)


def _move(source: Path, target: Path) -> None:
    files = _written(source)
    for path in files:
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
    if files and read_fingerprint(target) is None:  # of a run that is none of a study
        (target / FINGERPRINT).write_text(UNKNOWN)
    _remove_empty(source)


def _remove_empty(folder: Path) -> None:
    for part in (folder / "checkpoints", folder / "figures", *([folder] if folder.name == REPLACED else [])):
        if part.is_dir() and not any(part.iterdir()):
            part.rmdir()
