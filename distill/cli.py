"""The commands: LightningCLI's, ``study`` and ``rank``."""

from __future__ import annotations

import signal
import sys
import warnings

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from distill.command.command_line import CLI
from distill.command.errors import ConfigurationError, is_user_error, message, one_line


def main(args: list[str] | None = None) -> None:
    """Runs one command. User errors print one line; bugs print a traceback.

    Args:
        args: The command line; the arguments of the process by default.
    """
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning causes it on newer versions of torch
    command, *rest = [*(sys.argv[1:] if args is None else args), ""]
    try:
        if command == "study":
            from distill.study.study import study

            study(rest[:-1])
        elif command == "rank":
            from distill.rank.rank import rank

            rank(rest[:-1])
        else:
            CLI(args)
    except SIGTERMException:
        sys.stderr.write("stopped by SIGTERM: --ckpt_path last resumes from the last checkpoint\n")
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
    except ConfigurationError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except (ImportError, KeyError, MisconfigurationException, OSError, TypeError, ValueError) as error:
        if not is_user_error(error):
            raise
        sys.stderr.write(f"error: {one_line(message(error))}\n")
        sys.exit(1)
