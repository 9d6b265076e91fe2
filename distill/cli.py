"""The commands: LightningCLI's, ``study`` and ``rank``."""

from __future__ import annotations

import signal
import sys
import warnings

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from distill.allowed import command_of
from distill.command.command_line import CLI
from distill.command.errors import (
    ConfigurationError,
    bug_in_users_code,
    has_started,
    is_user_error,
    message,
    one_line,
    place_in_users_code,
)
from distill.command.parser import trusted_modules

MAY_BE_THE_USERS = (
    *(AttributeError, ImportError, KeyError, MisconfigurationException, OSError, RuntimeError, TypeError, ValueError),
)


def main(args: list[str] | None = None) -> None:
    """Runs one command. User errors print one line; bugs print a traceback.

    The process exits with 2 if the command or its configuration is wrong and no run was started, with 1 if a run
    failed, with 130 after Ctrl-C, and with 143 after SIGTERM.

    Args:
        args: The command line; the arguments of the process by default.
    """
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning causes it on newer versions of torch
    try:
        given, modules = trusted_modules(sys.argv[1:] if args is None else args)
        with command_of(modules):
            _run(given)
    except SIGTERMException:
        sys.stderr.write("stopped by SIGTERM: --ckpt_path last resumes from the last checkpoint\n")
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
    except SystemExit as ended:
        if isinstance(ended.__context__, KeyboardInterrupt):  # Lightning ends a fit by Ctrl-C with 1
            sys.exit(130)
        raise
    except ConfigurationError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except MAY_BE_THE_USERS as error:
        if not is_user_error(error):
            if (bug := bug_in_users_code(error)) is not None:
                raise bug from None
            raise
        sys.stderr.write(f"error: {one_line(message(error))}{place_in_users_code(error)}\n")
        sys.exit(1 if has_started(error) else 2)


def _run(arguments: list[str]) -> None:
    command, *rest = arguments or [""]
    if command == "study":
        from distill.study.study import study

        study(rest)
    elif command == "rank":
        from distill.rank.rank import rank

        rank(rest)
    else:
        CLI(arguments)
