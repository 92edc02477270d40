"""Findings: what the doctor says of images, in the order of how much it matters, and `doctor.csv`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zoo.data.spreadsheet import csv_text


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of fault: its name in `doctor.csv`, its title on the page, and what it means for the user."""

    name: str
    title: str
    meaning: str


# In the order of the page and of `doctor.csv`
KINDS = (
    Kind(
        name="unreadable",
        title="Files that cannot be read",
        meaning="They are left out of training anyhow.",
    ),
    Kind(
        name="wrong_suffix",
        title="Files of another format than their suffix says",
        meaning="zoo reads them; other programs may not.",
    ),
    Kind(
        name="doubtful",
        title="Files that are read though something is wrong with them",
        meaning="Look at them, and save them again.",
    ),
    Kind(
        name="copy_across_splits",
        title="Copies in two splits",
        meaning="Figures are too optimistic, since a network is scored on what it was trained on. `--exclude` leaves "
        "the copy out that is trained on; `--on-leak drop` does the same.",
    ),
    Kind(
        name="near_copy_across_splits",
        title="Near duplicates in two splits",
        meaning="The same photograph, resized, cut, compressed, mirrored, turned or brightened: as bad as a copy. "
        "`--leak-check near --on-leak drop` does the same as `--exclude`.",
    ),
    Kind(
        name="copy_of_another_class",
        title="Copies with two labels",
        meaning="One of the labels is wrong, or both are right and the classes overlap: decide which.",
    ),
    Kind(
        name="group_across_splits",
        title="Groups in two splits",
        meaning="Images of one patient, camera or video are alike, so figures are too optimistic.",
    ),
    Kind(
        name="label",
        title="Labels that are probably wrong",
        meaning="A network that has not seen the image's own label says so. Look before you change one, above all in "
        "the images that are scored: to clean these by a network's opinion flatters networks.",
    ),
    Kind(
        name="near_copy_of_another_class",
        title="Near duplicates with two labels",
        meaning="One of the labels is wrong, or both are right and the classes overlap: decide which.",
    ),
    Kind(
        name="stranger",
        title="Images unlike all others",
        meaning="Foreign images, or the rarest of your own. Those that are alike form a cluster.",
    ),
    Kind(name="blank", title="Images of one colour", meaning="Nothing can be seen in them."),
    Kind(name="dark", title="Dark images", meaning="Hardly anything can be seen in them."),
    Kind(name="bright", title="Overexposed images", meaning="Hardly anything can be seen in them."),
    Kind(name="blurred", title="Blurred images", meaning="They lack the detail that the others have."),
    Kind(name="odd_size", title="Odd sizes", meaning="Far smaller or larger than the others."),
    Kind(
        name="odd_shape",
        title="Odd shapes",
        meaning="Far longer or wider than the others; the network sees only the middle of them.",
    ),
    Kind(
        name="copy",
        title="Copies in one split",
        meaning="The image counts several times. `--exclude` leaves all but the first out.",
    ),
    Kind(name="near_copy", title="Near duplicates in one split", meaning="The image counts several times."),
)
BY_NAME = {kind.name: kind for kind in KINDS}
COLUMNS = ("exclude", "id", "split", "label", "finding", "score", "partner", "partner_split", "suggested_label", "why")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault of one image, or of a pair.

    Attributes:
        kind: Name of a `Kind`.
        id: The image.
        split: Its split; empty for a file that is in none.
        label: Its class.
        score: How sure it is or how far it goes, 0 to 1; findings of one kind are ordered by it.
        partner: The other image of a pair.
        partner_split: Its split.
        suggested: The class that the image probably belongs to.
        why: The finding in words.
        exclude: Whether `doctor.csv` proposes to leave the image out.
    """

    kind: str
    id: str
    split: str = ""
    label: str = ""
    score: float = 1.0
    partner: str = ""
    partner_split: str = ""
    suggested: str = ""
    why: str = ""
    exclude: bool = False


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings by kind, and by score within a kind."""
    place = {kind.name: index for index, kind in enumerate(KINDS)}
    return tuple(sorted(findings, key=lambda one: (place[one.kind], -one.score, one.id, one.partner)))


def findings_csv(findings: Iterable[Finding]) -> str:
    """`doctor.csv`: one row for each finding.

    A person may edit it: `--exclude doctor.csv` leaves the images out whose row says `yes` in the first column. The
    proposals are copies that are trained on and scored, and needless copies; all else is left to the person.
    """
    return csv_text(
        COLUMNS,
        (
            [
                "yes" if one.exclude else "",
                one.id,
                one.split,
                one.label,
                one.kind,
                f"{one.score:.3f}",
                one.partner,
                one.partner_split,
                one.suggested,
                one.why,
            ]
            for one in findings
        ),
    )
