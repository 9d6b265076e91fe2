"""Errors that a user can mend: the command line prints their sentence, and for every other error a traceback.

Each is of the class that Python has for its kind, so ``except ValueError`` catches a :class:`UserError`.
"""


class UserError(ValueError):
    """A value that cannot be: an argument, a configuration, a file, or what data and networks are to each other."""


class UserKeyError(KeyError):
    """A name that is not there, such as that of a modality or a layer."""

    def __str__(self) -> str:
        """The sentence, without the quotes that Python puts around a key."""
        return "".join(map(str, self.args))


class UserTypeError(TypeError):
    """An object of the wrong kind, such as what a network returns."""


class UserOSError(OSError):
    """A file that cannot be read or written."""


class UserFileNotFoundError(FileNotFoundError):
    """A file or a folder that is not there."""


class UserImportError(ModuleNotFoundError):
    """An optional dependency that is not installed."""


USER_ERRORS = (UserError, UserKeyError, UserTypeError, UserOSError, UserFileNotFoundError, UserImportError)
"""All of them."""
