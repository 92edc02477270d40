"""Exceptions for errors that the user can fix.

    ZooError                exit 1   the work cannot go on: data, weights, device, verification
    ├── UsageError          exit 2   the command line itself is wrong: a name, an option, a folder that exists
    ├── Diverged            exit 1   training produced a value that is not finite
    ├── DiskFull            exit 1   there is no room left on the disk
    ├── Unreachable         exit 1   what holds the images answers no more
    ├── StorageLost         exit 1   the storage of a search cannot be used
    └── Pruned              exit 1   a search ended the training early, since others are ahead

Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence

LONGEST = 300  # characters quoted from another library's message
CLOSE = 20  # names looked at for those at hand
AS_CLOSE = 0.1  # of a ratio from 0 to 1


class ZooError(Exception):
    """An error that the user can fix.

    Attributes:
        message: What is wrong, in one line without a full stop; names and values are in backticks.
        hint: How to fix it, in the same form. None: no hint.
        exit_code: Exit status of the command line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n\nhint: {self.hint}"


class UsageError(ZooError):
    """The command line, or the call from Python, is wrong. This is found before any work is done."""

    exit_code = 2


class Diverged(ZooError):
    """Training produced a loss, a weight or a logit that is not finite."""


class DiskFull(ZooError):
    """There is no room left on the disk that a file was to be written to."""


class Unreachable(ZooError):
    """What holds the images, such as a bucket, answers no more: they are not damaged, and none may be left out."""


class StorageLost(ZooError):
    """The storage of a hyperparameter search cannot be reached or used."""


class Pruned(ZooError):
    """A hyperparameter search ended a training early, because other settings are ahead of its own."""


def is_disk_full(error: BaseException) -> bool:
    """Whether the system refused to write because the disk, or the user's quota, is full."""
    return isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT))


def quoted(error: BaseException) -> str:
    """Another library's message on one line, at most `LONGEST` characters: some libraries write pages."""
    return " ".join(str(error).split())[:LONGEST]


def at_once(errors: Sequence[UsageError]) -> UsageError:
    """Combine several errors into one, so that the user can fix all of them at once; a repeated hint appears once."""
    hints = dict.fromkeys(error.hint for error in errors if error.hint)
    return UsageError("; ".join(error.message for error in errors), hint="; ".join(hints) or None)


class ZooWarning(UserWarning):
    """Something that the user should know, while the work goes on; the command line shows it."""


class PluginWarning(ZooWarning):
    """A plugin, or a part of it, could not be used; everything else works."""


def did_you_mean(word: str, known: Iterable[str], otherwise: str, at_hand: Callable[[str], bool] | None = None) -> str:
    """A hint that suggests the known names closest to `word`, followed by `otherwise`, such as where to find them.

    Args:
        word: What was written.
        known: The names.
        otherwise: The rest of the hint.
        at_hand: Whether a name can be used at once: of names that are about as close, such ones come first.
    """
    import difflib  # not at the top: it takes milliseconds, and few commands fail

    folded = {name.casefold(): name for name in sorted(set(known))}
    found = difflib.get_close_matches(word.casefold(), folded, n=3 if at_hand is None else CLOSE, cutoff=0.6)
    close = [folded[name] for name in found]
    if at_hand is not None and close:
        near = {name: difflib.SequenceMatcher(None, name.casefold(), word.casefold()).ratio() for name in close}
        best = max(near.values())
        some = [name for name in close if near[name] > best - AS_CLOSE]
        close = sorted(some, key=lambda name: (not at_hand(name), -near[name], name))[:3]
    if not close:
        return otherwise
    return f"did you mean {' or '.join(f'`{name}`' for name in close)}? {otherwise[0].upper() + otherwise[1:]}"


def counted(number: int, one: str, several: str = "") -> str:
    """A number with what it counts: `1 image`, `2,000 images`. `several` is the plural, if not `one` with an s."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def article(noun: str) -> str:
    """A noun with its indefinite article: `a loss`, `an augmentation`."""
    return f"{'an' if noun[:1] in tuple('aeio') else 'a'} {noun}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where the message is empty."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def type_and_first_line(error: BaseException) -> str:
    """The type of an error and the first line of its message, such as `KeyError: 'x'`."""
    name, text = type(error).__name__, first_line(error)
    return name if text == name else f"{name}: {text}"
