"""LightningCLI with this project's run folders, checkpoints and callbacks."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import (
    LearningRateMonitor,
    ModelSummary,
    ProgressBar,
    RichModelSummary,
    RichProgressBar,
)
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

import datamodules  # noqa: F401  the command line finds a class by its bare name if its package is imported
import distill.feature_mask
import distill.methods
import distill.models  # noqa: F401
from callbacks import PredictionWriter
from distill.base import Supervised
from distill.checkpoint import path_of, weights_exist
from distill.command.checkpoints import BestCheckpoint, WholeFileCheckpointIO
from distill.command.parser import Parser
from distill.command.run_folder import (
    check_checkpoint,
    check_epochs,
    check_unused,
    latest_checkpoint,
    path_within,
    run_folder,
)
from distill.command.saved_config import SavedConfig
from distill.errors import UserError, UserFileNotFoundError
from distill.internals.jsonargparse import list_commands
from distill.internals.lightning import SeedingCLI
from distill.resume.differences import batches_left, check_samples, differences
from distill.resume.last_checkpoint import LastCheckpoint
from distill.resume.metrics_table import MetricsCSV, version_of
from distill.training.loading import without_starts
from distill.training.monitors import MonitorCheck, check_rate_finder

# main() runs these commands without LightningCLI
OTHER_COMMANDS = {
    "study": "Trains a grid of configurations and prints one table.",
    "rank": "Orders candidate teachers by their divergence from a student.",
}


DESCRIPTION = "Trains, tests and applies. --trust MODULE lets a configuration use the code that lies beside it."


class CLI(SeedingCLI):
    """Fits, validates, tests and predicts from YAML.

    Every run has a progress bar, a summary of the model, CSV and TensorBoard logs, a monitor of the learning rate, the
    checkpoints ``best.ckpt`` (weights, by the task's monitor) and ``last.ckpt`` (all that a resumed run needs), and a
    table of predictions. ``trainer.callbacks`` are added to these. ``trainer.logger`` replaces TensorBoard; ``false``
    switches both loggers off.

    Args:
        args: The command line; the arguments of the process by default.
        run: Whether to run a subcommand; if false, only ``model``, ``datamodule`` and ``trainer`` are made.
    """

    def __init__(self, args: list[str] | None = None, *, run: bool = True) -> None:
        # the class and the teacher_checkpoint that the user gave together with a ckpt_path
        self._given: tuple[str, Any] | None = None
        self._resumes = False
        super().__init__(
            Supervised,
            LightningDataModule,
            args=args,
            run=run,
            parser_class=Parser,
            save_config_callback=SavedConfig,
            parser_kwargs={"description": DESCRIPTION},
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the arguments that name the run's folder."""
        parser.add_argument("--logs_dir", type=str, default="logs", help="The folder of all runs.")
        parser.add_argument("--name", type=str, default="run", help="The run's folder is LOGS_DIR/NAME/VERSION.")
        parser.add_argument("--version", type=str | None, default=None, help="The next free version_N by default.")

    def setup_parser(self, add_subcommands: bool, *args: Any) -> None:
        """Makes the parser; its help also lists the commands that LightningCLI does not know."""
        super().setup_parser(add_subcommands, *args)
        if add_subcommands:
            list_commands(self.parser, OTHER_COMMANDS)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the arguments, without Lightning's warning if a program passes them.

        Replaces ``best`` and ``last`` by the path of a checkpoint before Lightning reads its hyper-parameters.
        """
        self.config = parser.parse_args(args)
        command = self.config.get("subcommand")
        if command and self.config[command].ckpt_path:
            config = self.config[command]
            self._resumes = command == "fit"
            config.ckpt_path = self._find_checkpoint(command, config)
            self._given = config.model.class_path, config.model.init_args.get("teacher_checkpoint")

    def _check_hyperparameters(self) -> None:
        """Compares the checkpoint's class with the given one, and keeps the given teacher_checkpoint."""
        if self._given is None:
            return
        given, teacher = self._given
        config = self.config[self.subcommand]
        if config.model.class_path != given:
            raise UserError(
                f"{config.ckpt_path} is a run of {config.model.class_path}, but the configuration asks for {given}"
            )
        if teacher:  # the teacher's file may have moved since the checkpoint was written
            config.model.init_args.teacher_checkpoint = teacher

    def _find_checkpoint(self, command: str, config: Any) -> str | None:
        which = str(config.ckpt_path)
        if which in ("best", "last"):
            runs = Path(config.logs_dir, config.name).absolute()
            found = latest_checkpoint(runs, config.version, which)
            if found is None and command != "fit":
                raise UserFileNotFoundError(f"there is no run with a checkpoint {which}.ckpt under {runs}")
            if found is None:
                rank_zero_warn(f"no run under {runs} has a checkpoint: training starts from the beginning")
                return None
            which = str(found)
        if "://" not in which:
            content = check_checkpoint(Path(which), resumes=command == "fit")
            saved = content.get("hyper_parameters", {})
            plain = config.model.class_path.endswith(".Supervised") and set(saved) <= {"inputs"}
            if saved and "_class_path" not in saved and not plain:
                raise UserError(
                    f"{which} is of a fit from Python and does not name its class: use it from Python, by "
                    "load_from_checkpoint or Trainer.fit"
                )
            if command == "fit":
                self._check_resuming(Path(which), content, config)
        return which

    def _check_resuming(self, path: Path, content: dict[str, Any], config: Any) -> None:
        """Says what the fit is asked to do otherwise than the run of a checkpoint, and refuses what cannot be done."""
        check_epochs(content, path, config.trainer.max_epochs)
        saved = path.absolute().parents[1] / "fit.yaml"
        if not saved.is_file():
            return
        asked = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))["fit"]
        try:
            run = yaml.safe_load(saved.read_text())
        except (yaml.YAMLError, UnicodeDecodeError):
            run = None
        if not isinstance(run, dict):
            raise UserError(f"{saved} is damaged, so that it cannot be compared: delete it to resume")
        found = differences(run, asked)
        if "epoch_so_far" in content:
            check_samples(found, path)
        elif left := batches_left(content):
            rank_zero_warn(f"{path} ended its last epoch after {left} batches, by max_steps: the others are left out")
        for difference in found:
            if difference.key == "seed_everything":
                config.seed_everything = difference.run  # fit.yaml repeats the run
            if difference.key == "model.class_path":
                raise UserError(
                    f"{path} is a run of {difference.run}, but the configuration asks for {difference.asked}"
                )
        for difference in found:
            rank_zero_info(str(difference))

    def set_seed(self) -> None:
        """Sets the seed without Lightning's message, so that a configuration error prints one line only."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if config.seed_everything is not False:
            seed = None if config.seed_everything is True else config.seed_everything
            config.seed_everything = seed_everything(seed, workers=True, verbose=False)

    def before_instantiate_classes(self) -> None:
        """Chooses the run's folder and the name of the saved configuration."""
        self._check_hyperparameters()
        config = self.config[self.subcommand] if self.subcommand else self.config
        if self.subcommand == "predict":
            config.return_predictions = False  # callbacks write them, and predicted maps do not fit into memory
        self._skip_unused_weights(config)
        runs = path_within(Path(config.logs_dir).absolute(), config.name, "name")
        self.folder = run_folder(runs, config.version, config.get("ckpt_path"))
        if self.subcommand == "fit" and not self._resumes:
            check_unused(self.folder)
        self.save_config_kwargs = {"config_filename": f"{self.subcommand or 'fit'}.yaml", "save_to_log_dir": False}

    def _skip_unused_weights(self, config: Any) -> None:
        """Loads no weights that this command does not use, and none that a checkpoint replaces."""
        arguments = config.model.init_args
        teacher = arguments.get("teacher_checkpoint")
        if teacher and self.subcommand == "predict":  # the student predicts alone
            arguments.teacher_checkpoint = None
        elif teacher and self.subcommand in ("validate", "test") and not weights_exist(teacher):
            rank_zero_warn(f"the teacher_checkpoint {path_of(teacher)} does not exist: the student is scored alone")
            arguments.teacher = arguments.teacher_checkpoint = None
        replaced = [*(["network", "student"] if config.get("ckpt_path") else []), *(["teacher"] if teacher else [])]
        for name in replaced:
            network = (arguments.get(name) or {}).get("init_args") or {}
            if network.get("pretrained") is True:  # a text names the network, too
                network["pretrained"] = False

    def instantiate_classes(self) -> None:
        """As in Lightning, but networks load no weights to start from if a checkpoint replaces them."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        with without_starts() if config.get("ckpt_path") else nullcontext():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds the default loggers and callbacks and the atomic checkpoint writer to those of the configuration."""
        config = (self.config_init[self.subcommand] if self.subcommand else self.config_init).trainer
        if self.subcommand == "fit":
            self.config.fit.ckpt_path = None  # fit.yaml repeats the run from its beginning
        loggers = self._loggers(config.logger)
        check_rate_finder(_as_list(config.callbacks), self.model)
        plugins = _as_list(config.plugins)
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(WholeFileCheckpointIO())
        return super().instantiate_trainer(
            callbacks=[
                MonitorCheck(),
                *_as_list(config.callbacks),
                *self._default_callbacks(config, logs=bool(loggers)),
            ],
            logger=loggers,
            default_root_dir=config.default_root_dir or str(self.folder),
            plugins=plugins,
            **kwargs,
        )

    def _loggers(self, configured: Any) -> list[Logger]:
        if configured is False:
            return []
        if self.subcommand not in (None, "fit"):
            return [MetricsCSV(self.folder, f"{self.subcommand}.csv")]
        table = MetricsCSV(self.folder, "metrics.csv")  # callbacks write to the folder of the first logger
        if configured in (None, True):
            return [table, TensorBoardLogger(str(self.folder.parent), name="", version=version_of(self.folder))]
        return [table, *_as_list(configured)]

    def _default_callbacks(self, config: Any, *, logs: bool) -> list[Callback]:
        callbacks: list[Callback] = []
        given = _as_list(config.callbacks)
        if config.enable_progress_bar is not False and not any(isinstance(one, ProgressBar) for one in given):
            callbacks.append(RichProgressBar())
        if config.enable_model_summary is not False and not any(isinstance(one, ModelSummary) for one in given):
            callbacks.append(RichModelSummary())
        if self.subcommand == "predict" and not any(isinstance(one, PredictionWriter) for one in given):
            callbacks.append(PredictionWriter())
        if config.enable_checkpointing is not False:
            task = self.model.task
            if task is not None:
                callbacks.append(BestCheckpoint(self.folder, task.monitor, task.mode))
            callbacks.append(LastCheckpoint(self.folder))
        if self.subcommand in (None, "fit") and logs:
            callbacks.append(LearningRateMonitor())
        return callbacks


class Configuration(CLI):
    """Parses and checks a configuration as :class:`CLI` does, but creates no object; see ``config``."""

    def before_instantiate_classes(self) -> None:
        """Chooses no folder."""

    def instantiate_classes(self) -> None:
        """Creates nothing."""

    def set_seed(self) -> None:
        """Leaves the random state unchanged."""


class _Unparsed(Configuration):
    """Has a parser and parses nothing."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.get_defaults(skip_validation=True)


@cache
def fit_parser() -> LightningArgumentParser:
    """The parser of a whole configuration; it can parse many, and making it takes a third of the time of one."""
    return _Unparsed(run=False).parser


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
