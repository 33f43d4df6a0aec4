"""What can go wrong, and the exit code that says so.  Floor 0: everybody may raise these."""


class JaxrlError(Exception):
    """An end that the user can act on: printed as one message without a traceback."""

    exit_code = 1


class UserError(JaxrlError):
    """Wrong usage, config or data.  The message says what, where and how to mend it."""

    exit_code = 2


class Diverged(JaxrlError):
    """The loss or the gradient is no longer finite; the last good checkpoint is kept."""

    exit_code = 3


class Preempted(JaxrlError):
    """Stopped by a signal after saving the state; the same command continues."""

    exit_code = 42


class StorageFailed(JaxrlError):
    """A checkpoint or data file could not be written or read back."""

    exit_code = 74
