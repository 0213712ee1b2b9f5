"""The errors that a user can mend: one line with the wrong value, what is allowed, and the fix."""


class UserError(ValueError):
    """Bad input, found before any training time is spent. Printed as one line, without a traceback."""


class LockHeld(UserError):
    """A lock that another live process holds: it trains the cell, or sends the sweep."""


class CellFailed(RuntimeError):
    """A cell that started and could not finish (a NaN loss, say).

    Attributes:
        step: the optimiser step at which it ended, counted from 1.
        cause: one line for the record.
    """

    def __init__(self, step: int, cause: str) -> None:
        super().__init__(step, cause)  # both, so that it can be pickled on its way home from another process
        self.step = step
        self.cause = cause

    def __str__(self) -> str:
        return f"step {self.step}: {self.cause}"


class OutOfMemory(CellFailed):
    """A cell whose step or scoring did not fit the memory. Its checkpoints stay: other switches may let it go on."""


class Interrupted(RuntimeError):
    """A cell that was told to stop. What it had done is in a checkpoint; the same command continues.

    Attributes:
        step: the last optimiser step done.
        kept: the step of the last checkpoint: `step`, less where that could not be written, 0 for none.
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
    """The first line of an error's text that says anything."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
