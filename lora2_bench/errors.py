"""Errors with a one-line message: the wrong value, what is allowed, and the fix."""


class UserError(ValueError):
    """Bad input, found before training starts. It is printed as one line, without a traceback."""


class LockHeld(UserError):
    """A lock that another live process holds: it trains the cell, or sends the sweep."""


class CellFailed(RuntimeError):
    """A cell whose training failed (by a NaN loss, for example).

    Attributes:
        step: the optimiser step that failed, counted from 1.
        cause: one line for the record.
    """

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(step, cause)  # both arguments, so that other processes can pickle it
        self.step = step
        self.cause = cause

    def __str__(self) -> str:
        return f"step {self.step}: {self.cause}"


class OutOfMemory(CellFailed):
    """A step or an evaluation that did not fit the memory. The checkpoints stay: other run options may help."""


class Interrupted(RuntimeError):
    """A cell that was stopped by a signal. The same command continues it from its last checkpoint.

    Attributes:
        step: the last finished optimiser step.
        kept: the step of the last checkpoint: `step`, or less where that could not be written; 0 without one.
    """

    def __init__(self, step: int, kept: int) -> None:
        super().__init__(step, kept)
        self.step = step
        self.kept = kept

    def __str__(self) -> str:
        if self.kept == self.step:
            return f"stopped after step {self.step}, which is kept: run the same command to continue"
        if self.kept:
            return f"stopped after step {self.step}, step {self.kept} is kept: run the same command to continue"
        return f"stopped after step {self.step}, no checkpoint is kept: the same command starts anew"


def first_line(error: BaseException) -> str:
    """The first line of an error's text that is not blank."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
