"""LightningCLI with this project's run folders, checkpoints and one-line errors."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import traceback
import warnings
from argparse import Action
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import DefaultHelpFormatter
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.seed import seed_everything
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, RichModelSummary, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning_utilities.core.rank_zero import rank_zero_warn

import datamodules  # noqa: F401  the command line finds a class by its bare name once its package is imported
import distill.feature_mask
import distill.methods
import distill.models  # noqa: F401
from callbacks import PredictionWriter
from distill.base import Supervised
from distill.last_checkpoint import LastCheckpoint
from distill.run import (
    BestCheckpoint,
    MetricsCSV,
    WholeFileCheckpointIO,
    check_checkpoint,
    inside,
    latest_checkpoint,
    run_folder,
    version_of,
)

OURS = tuple(Path(__file__).parents[1] / name for name in ("distill", "datamodules", "callbacks"))
# in these, the classes that a configuration names are made of its values
MAKING = ("instantiate_classes", "instantiate_trainer", "configure_optimizers")

# what an error in a process that loads data becomes in the main one: its last frame and its message count
WORKER = re.compile(
    r"Caught \w+ in DataLoader worker process \d+\.\n.*"
    r'File "(?P<file>[^"]+)", line \d+, in [^\n]+\n +(?P<line>[^\n]+)\n(?: [^\n]*\n)*[\w.]+: (?P<message>.*)',
    re.DOTALL,
)

# what jsonargparse tells of every union, beside the causes
NOISE = re.compile(
    "Does not validate against|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Not a valid subclass of"
    "|Expected a path but .* either not accessible or invalid$|Subclass types expect one of|a class path|a dict with"
)

# what jsonargparse says of a name that is no argument's
UNKNOWN = re.compile(r"(?:Option '|Subcommand '\w+' does not accept option '|unrecognized arguments: --)([\w.]+)")

# of the file system, of the user's share of it, and of one file
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# classes that an argument takes are all named up to this number; of networks, torch and timm have hundreds
FEW = 20


# commands that main() runs without LightningCLI
OTHER_COMMANDS = {
    "study": "Trains a grid of configurations and prints one table.",
    "rank": "Orders candidate teachers by their divergence from a student.",
}


class ConfigurationError(Exception):
    """A command line or a configuration file that names what there is not, or gives it a wrong value."""


class HelpFormatter(DefaultHelpFormatter):
    """Names of the classes that an argument takes only this project's, where they are many."""

    def _expand_help(self, action: Action) -> str:
        return re.sub(r"(?<=known subclasses: )[^)]+", _fewer, super()._expand_help(action))


class Parser(LightningArgumentParser):
    """Says in one line what is wrong with a configuration; all details with ``JSONARGPARSE_DEBUG=true``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # or the typo --trainer.max_epoch would pass for an abbreviation
        super().__init__(*args, allow_abbrev=False, formatter_class=HelpFormatter, **kwargs)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *more: Any, **settings: Any
    ) -> Any:
        """Parses; the null of an argument of a nested class, which jsonargparse hands on as ``--key=None``, is null."""
        if args is not None:
            args = [re.sub(r"^(--[^=]+)=None$", r"\1=null", arg) for arg in args]
        return super().parse_args(args, *more, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises a :class:`ConfigurationError`."""
        if os.environ.get("JSONARGPARSE_DEBUG"):
            super().error(message, ex)
        raise ConfigurationError(one_line(message + self._suggestion(message))) from None

    def _suggestion(self, message: str) -> str:
        """The argument whose name is most like an unknown one, where one is."""
        if (unknown := UNKNOWN.match(message)) is None:
            return ""
        commands = self._subcommands_action._name_parser_map.values() if self._subcommands_action else ()
        known = [action.dest.rpartition(".") for parser in (self, *commands) for action in parser._actions]
        group, dot, name = unknown[1].rpartition(".")
        names = {name for of, _, name in known if of == group and name != "help"}
        if not names:  # the group is the typo
            group, dot, name = "", "", unknown[1].partition(".")[0]
            names = {"".join(parts).partition(".")[0] for parts in known}
        alike = get_close_matches(name, names, n=1)
        return f", did you mean {group}{dot}{alike[0]}?" if alike else ""


class CLI(LightningCLI):
    """Fits, validates, tests and predicts from YAML.

    Beside what the configuration asks for, every run has a progress bar, a summary of the model, CSV and TensorBoard
    logs, a monitor of the learning rate, the checkpoints ``best.ckpt`` (weights, by the task's monitor) and
    ``last.ckpt`` (all that a resumed run needs), and a table of predictions. ``trainer.callbacks`` add to these,
    ``trainer.logger`` takes the place of TensorBoard, or with ``false`` of both loggers.

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
            parser_kwargs={"description": "Trains, tests and applies."},
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

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """As Lightning does; the help lists the other commands too."""
        super()._add_subcommands(parser, **kwargs)
        commands: Any = parser._subcommands_action
        commands._choices_actions += [
            commands._ChoicesPseudoAction(name, (), text) for name, text in OTHER_COMMANDS.items()
        ]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As Lightning does, without its warning when a program rather than a shell gives the arguments."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Finds the checkpoint to start from, and takes its hyper-parameters as Lightning does."""
        command = self.config.get("subcommand")
        if command and self.config[command].ckpt_path:
            config = self.config[command]
            config.ckpt_path = self._find_checkpoint(command, config)
            asked, teacher = config.model.class_path, config.model.init_args.get("teacher_checkpoint")
            super()._parse_ckpt_path()
            model = self.config[command].model
            if model.class_path != asked:
                raise ValueError(
                    f"{config.ckpt_path} is a run of {model.class_path}, but the configuration asks for {asked}"
                )
            if teacher:  # where the teacher lies now, which the checkpoint cannot know
                model.init_args.teacher_checkpoint = teacher

    def _find_checkpoint(self, command: str, config: Any) -> str | None:
        which = str(config.ckpt_path)
        if which in ("best", "last"):
            runs = Path(config.logs_dir, config.name).absolute()
            found = latest_checkpoint(runs, config.version, which)
            if found is None and command != "fit":
                raise FileNotFoundError(f"there is no run with a checkpoint {which}.ckpt under {runs}")
            if found is None:
                rank_zero_warn(f"no run under {runs} has a checkpoint to continue from: training starts anew")
                return None
            which = str(found)
        if "://" not in which:
            check_checkpoint(Path(which), continues=command == "fit")
        return which

    def _set_seed(self) -> None:
        """As Lightning does, without a word: an error in a configuration stays the only line."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if config.seed_everything is not False:
            seed = None if config.seed_everything is True else config.seed_everything
            config.seed_everything = seed_everything(seed, workers=True, verbose=False)

    def before_instantiate_classes(self) -> None:
        """Finds the folder to write to."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        if self.subcommand == "predict":
            config.return_predictions = False  # callbacks write them, and those of maps do not fit into memory
        self._spare_files(config)
        runs = inside(Path(config.logs_dir).absolute(), config.name, "name")
        self.folder = run_folder(runs, config.version, config.get("ckpt_path"))
        self.save_config_kwargs = {"config_filename": f"{self.subcommand or 'fit'}.yaml", "overwrite": True}

    def _spare_files(self, config: Any) -> None:
        """Asks for no weights that this command does without, or that a checkpoint replaces."""
        arguments = config.model.init_args
        teacher = arguments.get("teacher_checkpoint")
        if teacher and self.subcommand == "predict":  # the student predicts alone
            arguments.teacher_checkpoint = None
        elif teacher and self.subcommand in ("validate", "test") and not Path(teacher).is_file():
            rank_zero_warn(f"the teacher_checkpoint {teacher} is not there: the student is scored alone")
            arguments.teacher = arguments.teacher_checkpoint = None
        replaced = [*(["network", "student"] if config.get("ckpt_path") else []), *(["teacher"] if teacher else [])]
        for name in replaced:
            network = (arguments.get(name) or {}).get("init_args") or {}
            if network.get("pretrained"):
                network["pretrained"] = False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Adds the standing loggers, callbacks and the writer of whole checkpoints to what the configuration names."""
        config = self._get(self.config_init, "trainer")
        if self.subcommand == "fit":
            self.config.fit.ckpt_path = None  # fit.yaml is to repeat the run, not to continue it
        loggers = self._loggers(config.logger)
        return super().instantiate_trainer(
            callbacks=[*_as_list(config.callbacks), *self._standing_callbacks(config, logs=bool(loggers))],
            logger=loggers,
            default_root_dir=config.default_root_dir or str(self.folder),
            plugins=[*_as_list(config.plugins), WholeFileCheckpointIO()],
            **kwargs,
        )

    def _loggers(self, asked: Any) -> list[Logger]:
        if asked is False:
            return []
        if self.subcommand not in (None, "fit"):
            return [MetricsCSV(self.folder, f"{self.subcommand}.csv")]
        table = MetricsCSV(self.folder, "metrics.csv")  # the first one, whose folder is the run's to all callbacks
        if asked in (None, True):
            return [table, TensorBoardLogger(str(self.folder.parent), name="", version=version_of(self.folder))]
        return [table, *_as_list(asked)]

    def _standing_callbacks(self, config: Any, *, logs: bool) -> list[Callback]:
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
                standing.append(BestCheckpoint(self.folder, task.monitor, task.mode))
            standing.append(LastCheckpoint(self.folder))
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
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # of Lightning, on newer torch
    command, *rest = [*(sys.argv[1:] if args is None else args), ""]
    try:
        if command == "study":
            from distill.study import study  # it imports this module

            study(rest[:-1])
        elif command == "rank":
            from distill.rank import rank

            rank(rest[:-1])
        else:
            CLI(args)
    except SIGTERMException:
        sys.stderr.write("stopped by SIGTERM: --ckpt_path last goes on from the last checkpoint\n")
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
    except ConfigurationError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except (ImportError, KeyError, MisconfigurationException, OSError, TypeError, ValueError) as error:
        if not _is_a_sentence(error):
            raise
        sys.stderr.write(f"error: {one_line(_message(error))}\n")
        sys.exit(1)


def one_line(message: str) -> str:
    """The keys, the causes and the value in jsonargparse's tree of errors; other messages as they are, on one line."""
    if in_worker := WORKER.match(message):
        message = in_worker["message"]
    keys, causes, value = [], [], ""
    for line in (line.strip(" -\t") for line in message.splitlines()):
        if match := re.match(r'Parser key "([^"]+)":\s*(.*)', line):
            keys.append(match[1])
            line = match[2]
        if match := re.match(r"Given value: ([^\s{[(]+)$", line):
            value = match[1]
        elif line and not NOISE.match(line):
            causes.append(_readable(line))
    whole = "; ".join(dict.fromkeys(causes)).replace(":;", ":") or " ".join(message.split())
    if value and not re.search(rf"(?<!\w){re.escape(value)}(?!\w)", whole):
        whole += f". Got value: {value}"
    return ": ".join(filter(None, (".".join(keys), whole)))


def _readable(cause: str) -> str:
    cause = re.sub(r"Expected an? <class '(?:\w+\.)*(\w+)'>", r"Expected \1", cause)
    cause = re.sub(r"Expected an? typing\.Literal\[(.*?)\]", r"Expected one of \1", cause)
    return cause[1:-1] if re.fullmatch(r"'[^']*'|\"[^\"]*\"", cause) else cause


def _fewer(names: re.Match[str]) -> str:
    every = names[0].split(", ")
    ours = [name for name in every if re.fullmatch(r"(distill|datamodules|callbacks)(\.\w+)?\.\w+", name)]
    if len(every) <= FEW or not ours:
        return names[0]
    return f"{', '.join(ours)}, and any other by its import path"


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{': ' if error.filename else ''}{error.filename or ''}"
    return str(error.args[0] if error.args else error)


def _is_a_sentence(error: Exception) -> bool:
    """Whether it was raised on purpose, by this project, or by what refuses the values of a configuration."""
    frames = traceback.extract_tb(error.__traceback__)
    last, line = Path(frames[-1].filename), frames[-1].line or ""
    if in_worker := WORKER.match(_message(error)):
        last, line = Path(in_worker["file"]), in_worker["line"]
    if "jsonargparse" in last.parts or (isinstance(error, OSError) and error.errno in DISK_FULL):
        return True
    ours = any(folder in last.parents for folder in OURS)
    making = any(frame.name in MAKING for frame in frames)
    return (ours or making) and line.startswith("raise")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
