"""How many bad images or examples may be left out: one share and one rounding, whoever counts."""

import math
from dataclasses import dataclass

from adaptive_ft.errors import UserError


@dataclass(frozen=True)
class BadCap:
    """At most `share` of all; `option` is its name and `what` that of the things counted, for messages.

    Raises UserError for a share that is none.
    """

    share: float
    option: str
    what: str

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"{self.option} is {self.share}; it is a share of the {self.what}, from 0 to 1.")

    def allowed(self, number: int) -> int:
        """How many of `number` may be left out."""
        return math.floor(self.share * number + 1e-9)  # 0.29 of 100 are 29

    def exceeded(self, bad: int, number: int, how: str) -> UserError:
        """The error that `bad` of `number` are too many; `how` they are bad."""
        return UserError(
            f"{bad} of {number} {self.what} are {how}, and {self.option} {self.share:g} allows no more than "
            f"{self.allowed(number)} to be left out."
        )
