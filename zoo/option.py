"""Options: the settings of a row that a user writes after its name, as in `focal:2` or `erase,share=0.2`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a row. The first option of a row may be written after a colon, without its name.

    Attributes:
        name: Name of the option, and of the argument of the row's function that receives it.
        default: Its value where it is not given. The type of the default is the type of the option.
        summary: One line for `zoo list ... --options`.
        low: Lowest number. None: no bound.
        high: Highest number. None: no bound.
    """

    name: str
    default: bool | int | float | str
    summary: str
    low: float | None = None
    high: float | None = None
