"""The one exception for mistakes of the caller."""


class InputError(ValueError):
    """Wrong input of a user: a file, a folder, an option or a value.

    The message is one line that names what was given, what is expected and, where known, the fix.
    The command line prints it after ``error:`` and exits with 1; any other exception is a bug.
    """


class DamagedEncodingError(InputError):
    """A stored encoding that its matcher cannot have made; other photos may be whole."""


class MissingPackageError(InputError):
    """An optional package is not installed; the message holds the pip line that helps."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package '{package}', which is not installed: "
            f"pip install 'groundloc[{extra}]'"
        )
