"""Every recipe runs as a user would run it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from distill.cli import main
from distill.study import Study, plan_cells
from distill.table import Score

CONFIGS = Path(__file__).parents[1] / "configs"
STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))
RECIPES = sorted(set(CONFIGS.rglob("*.yaml")) - set(STUDIES))


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(CONFIGS)) for path in paths]


@pytest.mark.parametrize("config", RECIPES, ids=names(RECIPES))
@pytest.mark.filterwarnings("ignore:the teacher .* has random weights")
def test_recipe_ends_a_fit_of_two_steps(config: Path, tmp_path: Path) -> None:
    steps = ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--trainer.check_val_every_n_epoch", "1"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    main(["fit", "--config", str(config), "--logs_dir", str(tmp_path), *steps, *quiet])
    (last,) = tmp_path.rglob("last.ckpt")
    run = last.parents[1]
    assert run.relative_to(tmp_path).parent.as_posix() == yaml.safe_load(config.read_text())["name"]
    assert (run / "fit.yaml").is_file()
    assert "train/loss" in (run / "metrics.csv").read_text()


@pytest.mark.parametrize("config", [*RECIPES, *STUDIES], ids=names([*RECIPES, *STUDIES]))
def test_first_lines_name_source_and_command(config: Path) -> None:
    comment = [line for line in config.read_text().splitlines()[:3] if line.startswith("#")]
    assert f"--config configs/{config.relative_to(CONFIGS).as_posix()}" in " ".join(comment)


@pytest.mark.parametrize("config", STUDIES, ids=names(STUDIES))
def test_all_runs_of_a_study_have_a_valid_configuration(config: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(config.read_text())
    scores = [Score(**score) for score in content.pop("scores")]
    plan = Study(**content, scores=scores, logs_dir=str(tmp_path))
    cells = plan_cells(plan)
    rows = len(plan.rows) + (plan.teacher is not None)
    assert len(cells) == rows * len(plan.columns) * len(plan.all_seeds)
    assert len({cell.fingerprint for cell in cells}) == len(cells)
