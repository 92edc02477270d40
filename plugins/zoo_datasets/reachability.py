"""Whether what holds remote images still answers: a place that is lost ends the work, and is not waited for again."""

from __future__ import annotations

import threading
from collections import defaultdict

from zoo.data.data_argument import address_parts
from zoo.errors import Unreachable

ENOUGH = 5  # failures in a row: one object may be damaged or slow, five are the place


class Unsteady(OSError):
    """A failure of the place or the network, not of the object: it may work later."""


class Reachability:
    """Counts failures in a row of each place, such as a bucket or a web server. Any thread may report.

    A place that has answered and then fails is lost: its images must not be taken for damaged, since the rest of the
    data would be trained on in silence. A place that has never answered is given up: its images are unreadable, and are
    not waited for one by one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered: set[str] = set()
        self._failures: defaultdict[str, int] = defaultdict(int)

    def check(self, url: str) -> None:
        """Do not ask a place that has been given up.

        Raises:
            OSError: it has.
        """
        place = place_of(url)
        with self._lock:
            if self._failures[place] >= ENOUGH and place not in self._answered:
                raise Unsteady(f"`{place}` did not answer {ENOUGH} times, and is not asked again")

    def answered(self, url: str) -> None:
        """Note that a place answers; a refusal is an answer."""
        place = place_of(url)
        with self._lock:
            self._answered.add(place)
            self._failures[place] = 0

    def failed(self, url: str, reason: str) -> None:
        """Note that a place has failed.

        Raises:
            Unreachable: it has answered before, and this was one failure too many.
        """
        place = place_of(url)
        with self._lock:
            self._failures[place] += 1
            if self._failures[place] >= ENOUGH and place in self._answered:
                raise Unreachable(
                    f"`{place}` answers no more: it failed {ENOUGH} times in a row, and the last time {reason}",
                    hint="run the same command again when it answers; no image is left out for this",
                )


def place_of(url: str) -> str:
    """What answers for a URL, such as `s3://bucket`; without a user's name and password."""
    parts = address_parts(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
