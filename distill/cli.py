"""LightningCLI with this project's run folders, checkpoints and one-line errors."""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, RichModelSummary, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning_utilities.core.rank_zero import rank_zero_warn

import datamodules  # noqa: F401  the command line finds a class by its bare name once its package is imported
import distill.methods
import distill.models  # noqa: F401
from callbacks import PredictionWriter
from distill.base import Supervised
from distill.run import MetricsCSV, WholeFileCheckpointIO, latest_checkpoint, run_folder, version_of

PACKAGES = ("distill", "datamodules", "callbacks")


class ConfigurationError(Exception):
    """A command line or a configuration file that names what there is not, or gives it a wrong value."""


class Parser(LightningArgumentParser):
    """Says in one line what is wrong with a configuration; all details with ``JSONARGPARSE_DEBUG=true``."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises a :class:`ConfigurationError`."""
        if os.environ.get("JSONARGPARSE_DEBUG"):
            super().error(message, ex)
        raise ConfigurationError(one_line(message)) from None


class CLI(LightningCLI):
    """Fits, validates, tests and predicts from YAML.

    Beside what the configuration asks for, every run has a progress bar, a summary of the model, CSV and TensorBoard
    logs, a monitor of the learning rate, the checkpoints ``best.ckpt`` (weights, by the task's monitor) and
    ``last.ckpt`` (all that a resumed run needs), and a table of predictions. ``trainer.callbacks`` add to these,
    ``trainer.logger`` replaces the loggers.

    Args:
        args: The command line; that of the process by default.
        run: Whether to run a subcommand; without, ``model``, ``datamodule`` and ``trainer`` are made only.
    """

    def __init__(self, args: list[str] | None = None, *, run: bool = True) -> None:
        super().__init__(
            Supervised,
            LightningDataModule,
            args=args,
            run=run,
            parser_class=Parser,
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds where a run's folder lies."""
        parser.add_argument("--logs_dir", type=str, default="logs", help="The folder of all runs.")
        parser.add_argument("--name", type=str, default="run", help="The run's folder is LOGS_DIR/NAME/VERSION.")
        parser.add_argument("--version", type=str | None, default=None, help="The next free version_N by default.")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As Lightning does, without its warning when a program rather than a shell gives the arguments."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Finds the checkpoint to start from and the folder to write to."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        runs = Path(config.logs_dir, config.name).absolute()
        which = config.get("ckpt_path")
        if which in ("best", "last"):
            found = latest_checkpoint(runs, config.version, which)
            if found is None and self.subcommand != "fit":
                raise FileNotFoundError(f"there is no run with a checkpoint {which}.ckpt under {runs}")
            if found is None:
                rank_zero_warn(f"no run under {runs} has a checkpoint to continue from: training starts anew")
            config.ckpt_path = str(found) if found else None
        if self.subcommand == "predict" and config.model.init_args.get("teacher_checkpoint"):
            config.model.init_args.teacher_checkpoint = None  # the student predicts alone
        self.folder = run_folder(runs, config.version, config.get("ckpt_path"))
        self.save_config_kwargs = {"config_filename": f"{self.subcommand or 'fit'}.yaml", "overwrite": True}

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds the standing loggers, callbacks and the writer of whole checkpoints to what the configuration names."""
        config = self._get(self.config_init, "trainer")
        loggers = self._loggers() if config.logger in (None, True) else config.logger
        return super().instantiate_trainer(
            callbacks=[*_as_list(config.callbacks), *self._standing_callbacks(config, bool(loggers))],
            logger=loggers,
            default_root_dir=config.default_root_dir or str(self.folder),
            plugins=[*_as_list(config.plugins), WholeFileCheckpointIO()],
            **kwargs,
        )

    def _loggers(self) -> Any:
        if self.subcommand not in (None, "fit"):
            return [MetricsCSV(self.folder, f"{self.subcommand}.csv")]
        tensorboard = TensorBoardLogger(str(self.folder.parent), name="", version=version_of(self.folder))
        return [MetricsCSV(self.folder, "metrics.csv"), tensorboard]

    def _standing_callbacks(self, config: Any, logs: bool) -> list[Callback]:
        standing: list[Callback] = []
        if config.enable_progress_bar is not False:
            standing.append(RichProgressBar())
        if config.enable_model_summary is not False:
            standing.append(RichModelSummary())
        if self.subcommand == "predict":
            standing.append(PredictionWriter())
        if config.enable_checkpointing is not False:
            task = self.model.task
            if task is not None:
                standing.append(
                    ModelCheckpoint(filename="best", monitor=task.monitor, mode=task.mode, save_weights_only=True)
                )
            standing.append(ModelCheckpoint(filename="last", save_on_train_epoch_end=True))
        if self.subcommand in (None, "fit") and logs:
            standing.append(LearningRateMonitor())
        return standing


class Configuration(CLI):
    """Parses and checks a configuration as :class:`CLI` does and makes nothing of it; see ``config``."""

    def before_instantiate_classes(self) -> None:
        """Looks for no folder."""

    def instantiate_classes(self) -> None:
        """Makes nothing."""

    def _set_seed(self) -> None:
        """Leaves the random state alone."""


def main(args: list[str] | None = None) -> None:
    """Runs one command; what its user can mend ends it in one sentence, a fault of the code in a traceback.

    Args:
        args: The command line; that of the process by default.
    """
    command, *rest = [*(sys.argv[1:] if args is None else args), ""]
    try:
        if command == "study":
            from distill.study import study  # it imports this module

            study(rest[:-1])
        else:
            CLI(args)
    except ConfigurationError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        if not _is_a_sentence(error):
            raise
        sys.stderr.write(f"error: {one_line(str(error.args[0]))}\n")
        sys.exit(1)


def one_line(message: str) -> str:
    """The keys and the causes in jsonargparse's tree of errors; other messages as they are, on one line."""
    keys, causes = [], []
    for line in (line.strip(" -") for line in message.splitlines()):
        if match := re.match(r'Parser key "([^"]+)":\s*(.*)', line):
            keys.append(match[1])
            line = match[2]
        if line and not re.match("Does not validate|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>", line):
            causes.append(line.strip("\"'") if line[0] == line[-1] else line)
    return ": ".join(filter(None, (".".join(keys), "; ".join(causes).replace(":;", ":"))))


def _is_a_sentence(error: Exception) -> bool:
    """Whether the error was raised on purpose: by this project, or by the parser that makes its classes."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    parts = Path(frame.filename).parts
    ours = any(name in parts for name in PACKAGES)
    return "jsonargparse" in parts or (ours and (frame.line or "").startswith("raise"))


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
