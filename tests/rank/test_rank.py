"""Candidate teachers in order: the true one where it is known, each run once, and every failure named."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from distill.cli import main
from distill.rank.bootstrap import sums_of
from distill.rank.table import Candidate, spearman, summarise, write_ranking
from tests.losses.cases import random_case

MLP = {"class_path": "distill.models.MLP", "init_args": {"in_features": 25, "num_classes": 8, "hidden": [16]}}
RANKING: dict[str, Any] = {
    "name": "tiny",
    "resamples": 200,
    "base": {
        "model": {
            "class_path": "distill.Supervised",
            "init_args": {
                "network": MLP,
                "task": {"class_path": "distill.Classification", "init_args": {"num_classes": 8}},
                "inputs": ["x_a"],
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.4}},
            },
        },
        "data": {"class_path": "datamodules.SklearnPair", "init_args": {"batch_size": 50}},
        "trainer": {"max_epochs": 10, "check_val_every_n_epoch": 10, "accelerator": "cpu", "logger": False},
    },
    "student": {"model": {"init_args": {"inputs": ["x_b"]}}},
    "candidates": {
        "far": {"data": {"init_args": {"gamma": 1}}},
        "near": {"data": {"init_args": {"gamma": 0}}},
        "half": {"data": {"init_args": {"gamma": 0.5}}},
        "broken": {"model": {"init_args": {"network": {"init_args": {"in_features": 24}}}}},
    },
}


def write(folder: Path, **changes: Any) -> list[str]:
    path = folder / "ranking.yaml"
    path.write_text(yaml.safe_dump(copy.deepcopy(RANKING) | {"logs_dir": str(folder)} | changes, sort_keys=False))
    return ["rank", "--config", str(path)]


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranking")
    main(write(folder))
    return folder


def test_the_teacher_that_shares_all_features_is_first_and_the_one_that_shares_none_last(ranking: Path) -> None:
    table = pd.read_csv(ranking / "tiny/ranking.csv")
    assert list(table["candidate"]) == ["near", "half", "far"]
    assert list(table["rank"]) == [1, 2, 3]
    for measure in ("ncjsd", "tcjsd", "cmd"):
        assert (table[f"{measure} low"] < table[measure]).all()
        assert (table[measure] < table[f"{measure} high"]).all()
    assert table["first"].sum() == pytest.approx(1)
    assert table["score"].between(0.2, 0.8).all()


def test_a_candidate_that_fails_is_named_and_the_others_are_ranked(ranking: Path) -> None:
    text = (ranking / "tiny/ranking.md").read_text()
    assert "broken failed: the network MLP cannot take x_a (2, 25)" in text
    assert text.count("\n| ") == 4  # with the rule
    assert "| 1 | near | " in text
    with Image.open(ranking / "tiny/ranking.png") as figure:
        figure.load()


def test_a_second_call_repeats_nothing_but_what_failed_or_lost_its_checkpoint(ranking: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(ranking, folder)
    candidates = {name: part for name, part in RANKING["candidates"].items() if name != "broken"}
    main(write(folder, candidates=candidates))  # comparisons know where their weights lay
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")}
    results = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    main(write(folder, candidates=candidates))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")} == before
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == results
    (folder / "tiny/runs/near/seed_0/checkpoints/best.ckpt").unlink()
    main(write(folder, candidates=candidates))
    again = {path for path in results if path.stat().st_mtime_ns != results[path]}
    assert again == {folder / "tiny/runs/near/seed_0/result.json"}


def test_checkpoints_are_compared_untrained_and_inputs_alone_may_set_candidates_apart(
    ranking: Path, tmp_path: Path
) -> None:
    runs = ranking / "tiny/runs"
    checkpoints = {name: str(runs / name / "seed_0/checkpoints/best.ckpt") for name in ("near", "student")}
    candidates = {
        "itself": {"checkpoint": checkpoints["student"], "model": {"init_args": {"inputs": ["x_b"]}}},
        "near": {"checkpoint": checkpoints["near"]},
        "far": {"checkpoint": checkpoints["near"], "data": {"init_args": {"gamma": 1}}},
    }
    student = RANKING["student"] | {"checkpoint": checkpoints["student"]}
    main(write(tmp_path, candidates=candidates, student=student, max_samples=300))
    table = pd.read_csv(tmp_path / "tiny/ranking.csv").set_index("candidate")
    assert list(table.index) == ["itself", "near", "far"]
    assert table.loc["itself", ["ncjsd", "tcjsd", "cmd"]].abs().max() < 1e-12
    assert not list(tmp_path.rglob("*.ckpt"))
    with np.load(tmp_path / "tiny/compared/near/seed_0.npz") as file:
        assert len(file["counted"]) == 300


def test_with_a_method_the_students_scores_stand_beside_their_forecast(tmp_path: Path) -> None:
    candidates = {name: part for name, part in RANKING["candidates"].items() if name != "broken"}
    distil = {"class_path": "distill.methods.KD", "init_args": {"temperature": 2, "hard_weight": 1}}
    base = copy.deepcopy(RANKING["base"])
    base["trainer"] |= {"max_epochs": 2, "check_val_every_n_epoch": 2}
    main(write(tmp_path, candidates=candidates, distil=distil, base=base, seeds=2))
    table = pd.read_csv(tmp_path / "tiny/ranking.csv")
    assert table["after"].between(0, 1).all()
    configuration = yaml.safe_load((tmp_path / "tiny/runs/after_near/seed_1/fit.yaml").read_text())
    arguments = configuration["model"]["init_args"]
    assert configuration["model"]["class_path"] == "distill.methods.KD"
    assert arguments["teacher_checkpoint"] == str(tmp_path / "tiny/runs/near/seed_1/checkpoints/best.ckpt")
    assert (arguments["teacher_inputs"], arguments["student_inputs"]) == (["x_a"], ["x_b"])
    assert configuration["data"]["init_args"] | {"gamma": 0, "seed": 1} == configuration["data"]["init_args"]
    assert (
        "Spearman's rank correlation of NCJSD and the accuracy of the student afterwards"
        in (tmp_path / "tiny/ranking.md").read_text()
    )


def candidate(name: str, seed: int, scale: float, after: float | None = None) -> Candidate:
    student, teacher, target = random_case(seed, samples=40)
    sums = sums_of(student, student + scale * (teacher - student), target)
    return Candidate(name, {0: sums}, "accuracy", {0: 0.5}, {} if after is None else {0: after}, "")


def test_the_order_is_by_ncjsd_and_the_share_says_how_sure_the_first_is() -> None:
    table, sentence = summarise([candidate("b", 0, 0.9), candidate("a", 0, 0.1), candidate("c", 0, 0.89)], 0.95, 500)
    assert list(table["candidate"]) == ["a", "c", "b"]
    assert table["first"][0] == 1
    assert sentence == ""
    twins, _ = summarise([candidate("a", 1, 0.5), candidate("b", 2, 0.5)], 0.95, 500)
    assert twins["first"].min() > 0
    assert twins["first"].sum() == pytest.approx(1)


def test_a_perfect_forecast_has_rank_correlation_minus_one() -> None:
    candidates = [candidate(str(n), 0, scale, after=1 - scale) for n, scale in enumerate((0.9, 0.1, 0.5, 0.3))]
    _, sentence = summarise(candidates, 0.95, 200)
    assert sentence.endswith("afterwards: -1.00 [-1.00, -1.00]")


def test_spearman_is_pearson_of_ranks() -> None:
    assert spearman(np.array([1.0, 20, 3, 4]), np.array([2.0, 1, 4, 3])) == pytest.approx(
        -0.4
    )  # 1 - 6 * (1 + 9 + 4) / (4 * 15)


def test_nothing_to_rank_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_ranking([Candidate("a", {}, "", {}, {}, "no such thing")], 0.95, 10, tmp_path)
    assert "a failed: no such thing" in capsys.readouterr().out
    assert not (tmp_path / "ranking.csv").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"candidates": {}}, "a ranking needs candidates, got none"),
        ({"candidates": {"student": {}}}, "a candidate cannot be named 'student'"),
        ({"candidates": {"a": {"checkpoint": "no.ckpt"}}}, "there is no checkpoint no.ckpt of 'a'"),
        ({"confidence": 95}, "confidence must lie between 0 and 1, got 95"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"max_samples": 0}, "max_samples must be at least 1, got 0"),
        ({"candidates": {"a": {"trainer": {"max_epoch": 1}}}}, "row 'a', column '': "),
        ({"candidat": 3}, "candidat"),
        ({"base": {}}, "'student' has no network: give it, or base, model.init_args.network"),
    ],
)
def test_a_wrong_file_is_one_sentence(
    changes: dict[str, Any], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(write(tmp_path, **changes))
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_weights_of_another_network_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    wrong = {"checkpoint": str(tmp_path / "other.pt")}
    main(write(tmp_path, candidates={"a": wrong}, student=RANKING["student"] | wrong))
    assert "does not fit MLP: it lacks 'hidden.0.0.weight'" in " ".join(capsys.readouterr().out.split())


def test_results_of_other_settings_are_not_replaced_without_a_word(
    ranking: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ranking, tmp_path / "copy")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed_*/**/*")}
    with pytest.raises(SystemExit):
        main([*write(tmp_path / "copy"), "--base.trainer.max_epochs", "20"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert "trainer.max_epochs was 10 and is now 20" in line
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed_*/**/*")} == before
