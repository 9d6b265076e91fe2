"""Errors that a user can mend. The command line prints them as one sentence, and any other error as a traceback.

Each is a subclass of Python's error of its kind, so ``except ValueError`` catches a :class:`UserError`.
"""


class UserError(ValueError):
    """A wrong value: an argument, a configuration, a file, or data and networks that do not fit together."""


class UserKeyError(KeyError):
    """An unknown name, such as that of a modality or a layer."""

    def __str__(self) -> str:
        """The sentence, without the quotes that Python puts around a key."""
        return "".join(map(str, self.args))


class UserTypeError(TypeError):
    """An object of the wrong kind, such as the output of a network."""


class UserOSError(OSError):
    """A file that cannot be read or written."""


class UserFileNotFoundError(FileNotFoundError):
    """A missing file or folder."""


class UserImportError(ModuleNotFoundError):
    """An optional dependency that is not installed."""


USER_ERRORS = (UserError, UserKeyError, UserTypeError, UserOSError, UserFileNotFoundError, UserImportError)
"""All classes of errors that a user can mend."""
