"""What a resumed fit is asked to do otherwise than the run that it resumes, and which of the two counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from distill.errors import UserError

RUN_COUNTS = ("model", "seed_everything")
"""Parts of a configuration that a checkpoint holds: its hyper-parameters, optimisers, schedules and random state."""

OF_THE_RUN = ("trainer", "data")
"""The other parts of a configuration that say what a run computes."""

SHOWN_ONLY = {
    *(f"trainer.{name}" for name in ("default_root_dir", "enable_progress_bar", "enable_model_summary", "logger")),
    *("trainer.log_every_n_steps", "trainer.num_sanity_val_steps", "trainer.profiler", "trainer.enable_checkpointing"),
    *("model.init_args.teacher_checkpoint", "model.init_args.cache_teacher"),
}
"""Settings that change no result; those of the teacher count as they are given."""

LOADING_ONLY = ("root", "num_workers", "pin_memory", "persistent_workers", "cache_dir", "prefetch_factor")
"""Arguments of data modules that change neither the samples nor their order."""


class Difference(NamedTuple):
    """A setting that is not what it was in the run."""

    key: str
    run: Any
    asked: Any

    @property
    def run_counts(self) -> bool:
        """Whether the run's value counts, because the checkpoint holds it."""
        return self.key.partition(".")[0] in RUN_COUNTS

    @property
    def changes_samples(self) -> bool:
        """Whether an epoch has other samples, or has them in another order or in other batches."""
        return self.key.startswith("data.") and self.key.rpartition(".")[2] not in LOADING_ONLY

    def __str__(self) -> str:
        part = self.key.removesuffix(".class_path")
        if part != self.key and self.asked is None:
            return f"{part} of the run is left out from here on"
        if part != self.key and self.run is None:
            return f"{part} is new; the run had none so far"
        if self.run_counts:
            return f"{self.key} stays {self.run!r} as in the checkpoint; {self.asked!r} is ignored"
        return f"{self.key} is {self.asked!r} from here on; it was {self.run!r} in the run so far"


def differences(run: Mapping[str, Any], asked: Mapping[str, Any]) -> list[Difference]:
    """The settings of a configuration that are not what they were in a run.

    Args:
        run: The whole configuration of the run, as ``fit.yaml`` has it.
        asked: The whole configuration that is asked for now.
    """
    parts = (*OF_THE_RUN, *RUN_COUNTS)
    before, now = (dict(_leaves({name: part.get(name) for name in parts})) for part in (run, asked))
    # an argument that one of them lacks is one of another version of the library
    both = [key for key in {**before, **now} if key.endswith(".class_path") or (key in before and key in now)]
    keys = [key for key in both if before.get(key) != now.get(key) and not _is_shown_only(key)]
    classes = {key.removesuffix(".class_path") for key in keys if key.endswith(".class_path")}
    return [  # of another class, the arguments say nothing more
        Difference(key, before.get(key), now.get(key))
        for key in keys
        if not any(key.startswith(f"{place}.init_args") for place in classes)
    ]


def check_samples(found: list[Difference], path: object) -> None:
    """Refuses other data for a checkpoint in the middle of an epoch.

    Args:
        found: Of :func:`differences`.
        path: The checkpoint.

    Raises:
        ValueError: In the rest of the epoch, samples would be missed or seen a second time.
    """
    for difference in found:
        if difference.changes_samples:
            raise UserError(
                f"{path} stopped in the middle of an epoch, and with {difference.key} {difference.asked!r} the rest of "
                f"the epoch would miss samples or see some twice: keep {difference.run!r}"
            )


def batches_left(checkpoint: Mapping[str, Any]) -> int:
    """After how many batches ``max_steps`` ended the last epoch of a checkpoint in its middle; 0 if it did not."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return 0 if progress["is_last_batch"] else int(progress["current"]["completed"])


def _by_class(items: Sequence[Any]) -> dict[str, Any]:
    """The items of a list by the names of their classes, so that the order of callbacks is no difference."""
    found: dict[str, Any] = {}
    for number, item in enumerate(items):
        name = str(item.get("class_path", number)).rpartition(".")[2] if isinstance(item, Mapping) else str(number)
        found[name if name not in found else f"{name}.{number}"] = item
    return found


def _is_shown_only(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in SHOWN_ONLY)


def _leaves(part: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(part, (list, tuple)) and any(isinstance(item, Mapping) for item in part):
        part = _by_class(part)
    if isinstance(part, Mapping) and part:
        for name, item in part.items():
            yield from _leaves(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, list(part) if isinstance(part, tuple) else part
