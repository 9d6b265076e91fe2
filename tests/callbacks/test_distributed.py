from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch.utils.data import DataLoader

from callbacks import ConfusionMatrix, DivergenceTracker, PredictionWriter
from tests.callbacks.pairs import CLASSES, Recorder, Samples, cmd, divergences, imitation, trainer
from tests.processes import run_in_processes

NAMES = ["cmd", "cmd_target", "cmd_nontarget", "tcjsd", "ncjsd"]


def fit_and_predict(rank: int, world_size: int, folder: str) -> dict[str, Any]:
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in {**environment, "TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": 0}.items():
            monkeypatch.setenv(name, str(value))
        recorder, module = Recorder(), imitation()
        own = DivergenceTracker(), ConfusionMatrix(), PredictionWriter(), recorder
        run = trainer(Path(folder), *own, strategy="ddp", devices=2, max_epochs=1)
        run.fit(module, DataLoader(Samples(24), 4), DataLoader(Samples(10, 1), 4))
        logged = {name: run.callback_metrics[f"val/{name}"].item() for name in NAMES}
        run.predict(module, DataLoader(Samples(11, 2), 4), return_predictions=False)
    return {
        "logged": logged,
        "train": recorder.epoch(0, "train"),
        "val": recorder.epoch(0, "val"),
    }


@pytest.mark.ddp
def test_two_processes_write_the_tables_of_all_samples(tmp_path: Path) -> None:
    first, second = run_in_processes(fit_and_predict, 2, str(tmp_path))
    table = pd.read_csv(tmp_path / "run" / "divergence.csv").set_index("stage")
    for stage in ("train", "val"):
        seen = [torch.cat(parts) for parts in zip(first[stage], second[stage], strict=True)]
        assert len(first[stage][0]) == len(second[stage][0]) == len(seen[0]) / 2
        assert table.loc[stage, NAMES].to_dict() == pytest.approx(divergences(*seen), abs=1e-6)
    assert first["logged"] == second["logged"] == pytest.approx(table.loc["val", NAMES].to_dict(), abs=1e-6)
    student, teacher, target = (torch.cat(parts) for parts in zip(first["val"], second["val"], strict=True))
    confused = pd.read_csv(tmp_path / "run" / "confusion_val.csv").set_index("network")
    for network, logits in (("student", student), ("teacher", teacher)):
        expected = confusion_matrix(target, logits.argmax(1), labels=range(CLASSES))
        assert (confused.loc[network].iloc[:, 1:].to_numpy() == expected).all()
    modalities = Samples(24).modalities
    assert table.loc["train", "input_cmd"] == pytest.approx(
        cmd(modalities["x_b"].double(), modalities["x_a"].double()), abs=1e-6
    )
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert predictions["index"].tolist() == list(range(11))
    assert predictions["target"].tolist() == Samples(11, 2).target.tolist()
