"""What one check has found, and how it is told.

Owns the three words and the form of a line. It looks at nothing.
"""

from dataclasses import dataclass
from enum import StrEnum

from sidecar.core.shown import clean


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """It works, but perhaps not as is meant."""
    FAIL = "fail"
    """The sidecar would not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result: what was looked at, what was found, and what mends it."""

    state: State
    what: str
    says: str
    fix: str = ""

    def __str__(self) -> str:
        """A line, and one below it for what to do."""
        fix = f"\n      {'':20}  -> {self.fix}" if self.fix else ""
        return clean(f"{self.state:<4}  {self.what:<20}  {self.says}") + fix

    def document(self) -> dict[str, str]:
        """As JSON has it."""
        return {"state": self.state.value, "what": self.what, "says": self.says, "fix": self.fix}
