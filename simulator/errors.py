"""What can keep a trial from a verdict, each with the exit code that it leads to."""

EXIT_BOUNDED, EXIT_NOT_BOUNDED, EXIT_USAGE, EXIT_INCONCLUSIVE = 0, 1, 2, 3


class SimulatorError(Exception):
    """What went wrong, and what to do next."""

    exit_code = EXIT_INCONCLUSIVE

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)


class UsageError(SimulatorError):
    """The command line, or what it points at, is wrong: nothing has been tried."""

    exit_code = EXIT_USAGE


class InconclusiveError(SimulatorError):
    """Nothing can be proved here."""
