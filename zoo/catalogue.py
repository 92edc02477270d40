"""Catalogues: what plugins registered, one catalogue for each kind, found by name or by `provider/name`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from zoo.errors import UsageError, did_you_mean
from zoo.target import lazy_attributes


class Named(Protocol):
    """The attributes that every registered object has."""

    @property
    def name(self) -> str: ...
    @property
    def summary(self) -> str: ...


T = TypeVar("T", bound=Named)


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered object, and the name of the plugin that registered it (`provider`)."""

    provider: str
    value: T

    @property
    def name(self) -> str:
        return self.value.name

    @property
    def qualified(self) -> str:
        """`provider/name`: it names this entry whatever other plugins are installed, so runs store it."""
        return f"{self.provider}/{self.value.name}"


class Catalogue(Generic[T]):
    """All entries of one kind.

    Attributes:
        noun: What messages call an entry, such as `backbone`.
        plural: The same in the plural, as in `zoo list backbones`.
        entries: In order of precedence: a short name means the first entry of that name.
    """

    def __init__(self, noun: str, plural: str, entries: list[Entry[T]]) -> None:
        self.noun = noun
        self.plural = plural
        self.entries = entries
        self._qualified = {entry.qualified: entry for entry in entries}
        self._short: dict[str, Entry[T]] = {}
        for entry in entries:
            self._short.setdefault(entry.name, entry)

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: str) -> bool:
        return name in self._short or name in self._qualified

    def find(self, name: str) -> Entry[T]:
        """The entry for a short or qualified name.

        Raises:
            UsageError: no entry has that name; the hint suggests similar names.
        """
        found = self._qualified.get(name) if "/" in name else self._short.get(name)
        if found is not None:
            return found
        known = self._qualified if "/" in name else self._short
        if name.endswith("/") and any(entry.provider == name[:-1] for entry in self.entries):
            hint = f"see `zoo list {self.plural} '{name}*'`"
        else:
            hint = did_you_mean(
                name, known, f"see `zoo list {self.plural}`", lambda one: bool(getattr(known[one].value, "ready", True))
            )
        raise UsageError(f"unknown {self.noun} `{name}`", hint=hint)

    def match(self, pattern: str | None) -> list[Entry[T]]:
        """Entries whose short or qualified name matches a shell pattern such as `resnet*`; all entries for None."""
        if pattern is None:
            return list(self.entries)
        return [
            entry
            for entry in self.entries
            if fnmatch.fnmatchcase(entry.name, pattern) or fnmatch.fnmatchcase(entry.qualified, pattern)
        ]

    def shadowed(self, entry: Entry[T]) -> Entry[T] | None:
        """The other entry that the short name of `entry` means; None if the short name means `entry` itself."""
        first = self._short[entry.name]
        return None if first is entry else first


__getattr__ = lazy_attributes(
    __name__,
    {name: f"zoo.storage.cache:{name}" for name in ("memoise", "source_key")},
)
