"""The rows of ``predictions.csv``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch.distributed as dist
from torch import Tensor

from callbacks.parts.classes import Probabilities, name_of
from distill.atomic import atomic_write


class PredictionTable:
    """Collects a few numbers of each sample, so that the predictions of all samples need not fit into memory."""

    def __init__(self) -> None:
        self._parts: list[pd.DataFrame] = []

    def add(self, columns: dict[str, Any]) -> None:
        """Adds the rows of a batch: one value for each sample in each column."""
        self._parts.append(pd.DataFrame(columns))

    def write(self, path: Path | None, world_size: int) -> None:
        """Gathers the rows of all processes, and writes them in the main one; all processes must call this.

        Args:
            path: The file; ``None`` writes none, as in all processes but the main one.
            world_size: The number of processes.
        """
        parts, self._parts = self._parts, []
        gathered = [parts] * world_size
        if world_size > 1:
            dist.all_gather_object(gathered, parts)
        if path is None or not any(gathered):
            return
        first, *others = (pd.concat(own, ignore_index=True) for own in gathered if own)
        key = next((column for column in ("index", "name") if column in first), None)
        for other in others:
            # samplers may repeat a sample in another process; rows of one process are different samples
            new = other if key is None else other[~other[key].isin(first[key])]
            first = pd.concat([first, new], ignore_index=True)
        rows = first.sort_values("index", kind="stable") if key == "index" else first
        with atomic_write(path) as draft:
            rows.to_csv(draft, index=False)


def sample_columns(positions: Sequence[int] | None, names: Sequence[str] | None) -> dict[str, Any]:
    """The columns that tell the samples apart."""
    columns = {"index": positions, "name": names}
    return {name: values for name, values in columns.items() if values is not None}


def class_columns(
    probabilities: Probabilities, target: Tensor | None, class_names: Sequence[str], *, all_classes: bool
) -> dict[str, Any]:
    """The columns of the classes of samples.

    Args:
        probabilities: Of the classes, ``(N, C)``.
        target: Class indices ``(N,)``, or for classes that are not exclusive the labels ``(N, C)``.
        class_names: By index; empty if unknown.
        all_classes: Whether to give the probabilities of all classes.
    """
    values = probabilities.values
    labels = range(values.shape[1])
    names = [name_of(label, class_names) for label in labels]
    of_all = {f"probability_{name}": values[:, label].cpu().numpy() for label, name in enumerate(names)}
    columns: dict[str, Any] = {}
    if not probabilities.exclusive:
        return {**_value_columns("target", target, names), **of_all}
    if target is not None and target.ndim == 1:
        columns["target"] = targets = target.tolist()
        if class_names:
            columns["target_name"] = [names[label] if label in labels else "" for label in targets]
    confidence, prediction = (values.cpu() for values in values.max(dim=1))
    defined = ~confidence.isnan()
    columns["prediction"] = pd.Series(prediction.numpy(), dtype="Int64").where(pd.Series(defined.numpy()))
    if class_names:
        rows = zip(prediction.tolist(), defined.tolist(), strict=True)
        columns["class_name"] = [names[label] if is_defined else "" for label, is_defined in rows]
    columns["confidence"] = confidence.numpy()
    return columns | of_all if all_classes else columns


def value_columns(prediction: Tensor, target: Tensor | None, output_names: Sequence[str]) -> dict[str, Any]:
    """The columns of the predicted values ``(N,)`` or ``(N, D)`` and of their targets."""
    return {
        **_value_columns("target", target, output_names),
        **_value_columns("prediction", prediction, output_names),
    }


def _value_columns(kind: str, values: Tensor | None, names: Sequence[str]) -> dict[str, Any]:
    if values is None or values.ndim > 2:
        return {}
    rows = values.float().reshape(len(values), -1).cpu().numpy()
    if rows.shape[1] == 1 and not names:
        return {kind: rows[:, 0]}
    named = [names[n] if n < len(names) else str(n) for n in range(rows.shape[1])]
    return {f"{kind}_{name}": rows[:, n] for n, name in enumerate(named)}
