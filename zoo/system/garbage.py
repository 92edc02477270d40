"""Python's garbage collector while a process starts.

Importing torch makes a million objects that stay. Looking through them for garbage again and again takes a fifth of the
time of the import.
"""

from __future__ import annotations

import gc

# Objects that are made before young ones are looked through; Python's default is 700
SELDOM = 50_000


def collect_seldom() -> None:
    """Look for garbage seldom, until `collect_as_usual`. The library leaves the setting to the program that uses it."""
    gc.set_threshold(SELDOM, *gc.get_threshold()[1:])


def collect_as_usual() -> None:
    """Look for garbage as often as Python does, but not among the objects that there are now.

    Nothing happens where `collect_seldom` was not called.
    """
    if gc.get_threshold()[0] == SELDOM:
        gc.freeze()
        gc.set_threshold(700, *gc.get_threshold()[1:])
