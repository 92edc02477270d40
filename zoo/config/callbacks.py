"""Callbacks that an experiment names: looked up, and refused before training where they could not work."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.config.choice import Choice, check_installed, choose
from zoo.errors import UsageError
from zoo.plugin import Plugins
from zoo.storage.address import without_logins


def choose_callbacks(texts: Sequence[str], plugins: Plugins) -> tuple[tuple[Choice, ...], list[UsageError]]:
    """The callbacks that can be used, and what is wrong with the others."""
    found: dict[str, Choice] = {}
    problems: list[UsageError] = []
    for text in texts:
        try:
            choice = _choose(text, plugins)
            if str(choice) in found:
                raise UsageError(f"callback `{choice}` is given twice", hint="give it once")
            found[str(choice)] = choice
        except UsageError as error:
            problems.append(error)
    return tuple(found.values()), problems


def usable_callbacks(texts: Sequence[str], plugins: Plugins) -> tuple[tuple[str, ...], list[UsageError]]:
    """The texts of the callbacks that can be used, and what is wrong with the others, for a run that goes on anyway."""
    found, problems = [], []
    for text in texts:
        wrong = choose_callbacks([text], plugins)[1]
        problems += wrong
        found += [] if wrong else [text]
    return tuple(found), problems


def _choose(text: str, plugins: Plugins) -> Choice:
    """The callback that a text names.

    Raises:
        UsageError: there is none, its options are wrong or hold a secret, or what it needs is not installed.
    """
    if (shown := without_logins(text)) != text:
        raise UsageError(
            f"`--callback {shown}` was given with a password or a token in its address, which every run would record",
            hint="put credentials where the library looks for them, such as MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or WANDB_API_KEY",
        )
    choice = choose(text, plugins.callbacks, plugins)
    check_installed(choice)
    return choice
