"""Candidate teachers, ranked by their divergence from a student before any distillation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule

from distill.atomic import atomic_write
from distill.batches import complete_samples
from distill.checkpoint import load_network
from distill.command.command_line import CLI
from distill.errors import UserError, UserFileNotFoundError
from distill.internals.lightning import as_in_a_step
from distill.rank.bootstrap import Sums, joined, sums_of
from distill.rank.table import Candidate, write_ranking
from distill.study.lock import study_lock
from distill.study.plan_file import merged, plan_parser, read_plan, take_policy
from distill.study.pool import run_with_dependencies
from distill.study.progress import progress_bar
from distill.study.run import Policy, Run, sentence
from distill.study.study import Study, plan_runs, train_runs
from distill.supervised import Supervised

# parts of configurations are bare dicts, or the parser of a ranking would make the classes that they name
# mypy: disable-error-code="type-arg"

STUDENT = "student"
AFTER = "after "


@dataclass
class Ranking:
    """What the file of a ranking holds.

    Each candidate, and the student, is a run of :class:`~distill.Supervised`, configured as by ``fit`` with two
    ``--config``: ``base``, then its own part. It trains for the epochs of that configuration, a few, or it names a
    ``checkpoint`` beside ``model`` and is not trained. A candidate may have other ``data``; their validation split is
    then the one on which it is compared with the student.

    Args:
        base: The configuration that all share; mostly data, trainer, task and optimiser.
        student: What sets the student apart.
        candidates: What sets each candidate teacher apart, by its name: networks, or the ``inputs`` of one network.
        distil: A method, ``class_path`` and ``init_args`` without networks, task and optimiser. The student is then
            distilled from each candidate as well, and the table says how well the order predicted its scores.
        seeds: The seeds of the runs, or their number, counted from 0. A data module with an argument ``seed`` is given
            the same seed, unless the configuration sets it.
        confidence: The level of the intervals.
        resamples: The number of bootstrap samples.
        max_samples: The number of validation samples that are compared, spread evenly over the split; all with
            ``None``.
        name: The folder of the ranking is ``logs_dir/name``.
        logs_dir: The folder of all rankings.
        workers: How many runs train at once.
    """

    base: dict
    student: dict
    candidates: dict[str, dict]
    distil: dict | None = None
    seeds: int | list[int] = 1
    confidence: float = 0.95
    resamples: int = 1000
    max_samples: int | None = 5000
    name: str = "rank"
    logs_dir: str = "logs/rank"
    workers: int = 2

    def __post_init__(self) -> None:
        if not self.candidates:
            raise UserError("a ranking needs candidates, got none")
        if STUDENT in self.candidates:
            raise UserError(f"a candidate cannot be named {STUDENT!r}: choose another name")
        if not 0 < self.confidence < 1:
            raise UserError(f"confidence must lie between 0 and 1, got {self.confidence}")
        for name, value in (("resamples", self.resamples), ("max_samples", self.max_samples)):
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        for name, path in self.given.items():
            if not Path(path).is_file():
                raise UserFileNotFoundError(f"there is no checkpoint {path} of {name!r}")
        for name, part in {STUDENT: self.student, **self.candidates}.items():
            arguments = merged(self.base, part).get("model", {}).get("init_args", {})
            for argument in ("network", "inputs"):
                if argument not in arguments:
                    raise UserError(f"{name!r} has no {argument}: give it, or base, model.init_args.{argument}")

    @property
    def given(self) -> dict[str, str]:
        """The checkpoints of the student and the candidates that are not trained, by name."""
        parts = {STUDENT: self.student, **self.candidates}
        return {name: part["checkpoint"] for name, part in parts.items() if "checkpoint" in part}

    @property
    def study(self) -> Study:
        """The trainings: of the student, the candidates, and the students that learn from these."""
        rows = {name: _trained(part) for name, part in {STUDENT: self.student, **self.candidates}.items()}
        if self.distil is not None:
            rows |= {AFTER + name: self._distilled(name, self.distil) for name in self.candidates}
        return Study(self.base, rows, seeds=self.seeds, name=self.name, logs_dir=self.logs_dir, workers=self.workers)

    def _distilled(self, candidate: str, method: dict) -> dict:
        """The configuration of a student that learns from a candidate."""
        part = self.candidates[candidate]
        teacher, student = (merged(self.base, own)["model"]["init_args"] for own in (part, self.student))
        weights = part.get("checkpoint", f"{{{candidate}}}/checkpoints/best.ckpt")
        pair = {
            "teacher": teacher["network"],
            "teacher_inputs": teacher["inputs"],
            "teacher_checkpoint": str(weights),
            "student": student["network"],
            "student_inputs": student["inputs"],
        }
        common = {name: student[name] for name in ("task", "optimizer", "lr_scheduler") if name in student}
        model = {"class_path": method["class_path"], "init_args": {**common, **pair, **method.get("init_args", {})}}
        rest = {key: value for key, value in self.student.items() if key not in ("model", "checkpoint")}
        return {**rest, **({"data": part["data"]} if "data" in part else {}), "model": model}


@dataclass(frozen=True)
class Pair:
    """A candidate and the student of one seed, to be compared."""

    candidate: Run
    student: Run
    candidate_weights: Path
    student_weights: Path
    max_samples: int | None
    file: Path

    @property
    def fingerprint(self) -> str:
        """A hash of all that the comparison depends on."""
        weights = [(str(path), path.stat().st_mtime_ns) for path in (self.candidate_weights, self.student_weights)]
        content = [self.candidate.fingerprint, self.student.fingerprint, weights, self.max_samples]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def result(self) -> dict[str, Any] | None:
        """What :func:`compare` wrote, if it was for the same weights."""
        if not self.file.is_file():
            return None
        with np.load(self.file, allow_pickle=False) as file:
            content = {name: file[name] for name in file.files}
        return content if content["fingerprint"] == self.fingerprint else None

    def __str__(self) -> str:
        return f"{self.candidate.row} and {STUDENT} · seed {self.candidate.seed}"


def rank(arguments: list[str]) -> None:
    """Ranks what a file describes and writes ``ranking.csv``, ``ranking.md`` and ``ranking.png`` beside the runs.

    Runs and comparisons that have a result already are not repeated: a ranking that was stopped continues. A candidate
    that fails is named with its error; the others are ranked.

    Args:
        arguments: The command line after ``rank``; see ``python train.py rank --help``.
    """
    description = "Ranks candidate teachers by their divergence from a student."
    fields = read_plan(plan_parser(Ranking, "rank", description), arguments)
    policy = take_policy(fields)
    plan = Ranking(**fields)
    with study_lock(plan.study.folder):
        _rank(plan, policy)


def _rank(plan: Ranking, policy: Policy) -> None:
    runs = {(run.row, run.seed): run for run in plan_runs(plan.study, policy=policy)}
    trained = [run for run in runs.values() if run.row not in plan.given]
    for run in trained:
        compared = run.row in (STUDENT, *plan.candidates)
        if compared and run.result() is not None and not run.best.is_file():  # the comparison needs the weights
            (run.folder / "result.json").unlink()
    train_runs(plan.study, trained, policy)
    errors = {run: result["error"] for run in trained if "error" in (result := run.result() or {})}
    pairs = [
        _pair(plan, runs[name, seed], runs[STUDENT, seed])
        for name in plan.candidates
        for seed in plan.study.all_seeds
        if errors.keys().isdisjoint([runs[name, seed], runs[STUDENT, seed]])
    ]
    failed = _compare_all(plan, pairs)
    candidates = [_candidate(plan, name, pairs, runs, errors, failed) for name in plan.candidates]
    write_ranking(candidates, plan.confidence, plan.resamples, plan.study.folder)


def _pair(plan: Ranking, candidate: Run, student: Run) -> Pair:
    weights = [Path(plan.given.get(run.row, run.best)) for run in (candidate, student)]
    file = plan.study.folder / "compared" / candidate.folder.parent.name / f"seed_{candidate.seed}.npz"
    return Pair(candidate, student, weights[0], weights[1], plan.max_samples, file)


def _candidate(
    plan: Ranking,
    name: str,
    pairs: list[Pair],
    runs: dict[tuple[str, int], Run],
    errors: dict[Run, str],
    failed: dict[Pair, str],
) -> Candidate:
    """The results of a candidate over the seeds."""
    own = {pair.candidate.seed: pair for pair in pairs if pair.candidate.row == name and pair not in failed}
    found = {seed: result for seed, pair in own.items() if (result := pair.result()) is not None}
    wrong = [text for run, text in errors.items() if run.row in (name, STUDENT, AFTER + name)]
    wrong += [text for pair, text in failed.items() if pair.candidate.row == name]
    after = {}
    for seed, result in found.items():
        run = runs.get((AFTER + name, seed))
        scores = ((run.result() or {}) if run else {}).get("scores", {})
        after[seed] = scores.get(f"test/{result['score_name']}")
    return Candidate(
        name,
        {seed: Sums(*(result[key] for key in Sums._fields)) for seed, result in found.items()},
        next((str(result["score_name"]) for result in found.values()), ""),
        {seed: float(result["score"]) for seed, result in found.items()},
        {seed: value for seed, value in after.items() if value is not None},
        wrong[0] if wrong else "",
    )


def _compare_all(plan: Ranking, pairs: list[Pair]) -> dict[Pair, str]:
    """Compares the pairs that have no result; returns the errors of those that failed."""
    failed = {}
    to_do = [pair for pair in pairs if pair.result() is None]
    with progress_bar("comparing", len(pairs), len(pairs) - len(to_do)) as ended:
        for pair, error in run_with_dependencies(
            compare, dict.fromkeys(to_do, ()), workers=plan.workers, preload=[__name__]
        ):
            if error is not None:
                failed[pair] = sentence(error)
            ended(pair, failed.get(pair), "")
    return failed


@torch.no_grad()
def compare(pair: Pair) -> None:
    """Writes the sums that the divergences of a pair come from, and the candidate's score, on the validation split."""
    teacher, data = _ready(pair.candidate, pair.candidate_weights)
    student, _ = _ready(pair.student, pair.student_weights)
    task = teacher.task
    assert task is not None
    metrics = task.metrics().to(teacher.device)
    batches = []
    for samples in _validation_batches(data, pair.max_samples):
        batch = complete_samples(as_in_a_step(teacher, samples), student.inputs)
        of_teacher, of_student, target = teacher.predict(batch), student.predict(batch), batch["target"]
        if target.is_floating_point():
            raise UserError(f"only logits of classes can be ranked, and {type(task).__name__} has none")
        for model, prediction in ((pair.candidate.row, of_teacher), (STUDENT, of_student)):
            task.check(prediction, target, model=model, data=type(data).__name__)
        batches.append(sums_of(of_student, of_teacher, target, task.ignore_index))
        metrics.update(of_teacher, target)
    score_name = task.monitor.partition("/")[2]
    content: dict[str, Any] = joined(batches)._asdict()
    content |= {
        "score_name": score_name,
        "score": metrics.compute()[score_name].item(),
        "fingerprint": pair.fingerprint,
    }
    with atomic_write(pair.file) as draft:
        np.savez_compressed(draft, **content)


def _ready(run: Run, weights: Path) -> tuple[Supervised, Any]:
    """The module of a run with its trained weights, in eval mode on its device, and the data of the run."""
    cli = CLI([*run.arguments(), "--trainer.logger", "false"], run=False)
    module: LightningModule = cli.model
    assert isinstance(module, Supervised)
    load_network(module.network, weights)  # type: ignore[arg-type]
    cli.datamodule.setup("validate")
    return module.eval().to(cli.trainer.strategy.root_device), cli.datamodule


def _validation_batches(data: Any, max_samples: int | None) -> Iterator[dict[str, torch.Tensor]]:
    loader = data.val_dataloader()
    size = len(loader.dataset)
    count = min(size, max_samples or size)
    positions = [n * size // count for n in range(count)]
    yield from torch.utils.data.DataLoader(
        loader.dataset,
        loader.batch_size,
        sampler=positions,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
    )


def _trained(part: dict) -> dict:
    return {key: value for key, value in part.items() if key != "checkpoint"}
