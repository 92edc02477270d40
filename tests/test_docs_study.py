"""The page of the source study leaves no word of it out, and its commands are ones that zoo takes.

`test_docs_run.py` runs the blocks of the page; here are the commands of its tables, which name networks whose weights
come from a hub: trainings are planned, studies are planned pair by pair, everything else is parsed.
"""

from __future__ import annotations

import re
import shlex

import click
import pytest
from docs_pages import COMMANDS, ROOT, blocks_of, commands_of

from zoo.plugin import Plugins
from zoo.target import load_target
from zoo_cli.main import run

PAGE = ROOT / "docs/explanation/source-study.md"
TEXT = PAGE.read_text(encoding="utf-8")
QUOTED = " ".join(line.removeprefix("> ") for line in TEXT.splitlines() if line.startswith("> "))
WORDS = {
    "Pre-trained models": ("VGG", "ResNet", "Inception", "EfficientNet"),
    "Fine-tuning techniques": (
        "learning-rate schedules",
        "augmentation",
        "dropout",
        "weight decay",
        "early stopping",
        "gradient clipping",
        "batch norm",
        "feature extraction",
        "freezing part",
        "unfreezing with a lower rate",
    ),
    "Measures": ("accuracy", "precision", "recall", "F1"),
}
ROWS = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in TEXT.splitlines() if line.startswith("| ")]
INLINE = [text for row in ROWS for text in re.findall(r"`(zoo [^`]+ [^`]+)`", row[1])]
BLOCKS = [line for block in blocks_of(PAGE) if block.language == COMMANDS for line in commands_of(block.text)]
PLANNED = [line for line in INLINE if line.split()[1] in ("plan", "train", "study")]
PARSED = [line for line in INLINE if line not in PLANNED]


@pytest.mark.parametrize("section", WORDS)
def test_no_word_of_the_study_is_left_out(section: str) -> None:
    part = TEXT.partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = {row[0]: row for row in reversed(ROWS) if f"| {row[0]} |" in part}
    for word in WORDS[section]:
        assert word in QUOTED and word in rows, word
        assert section == "Measures" or re.search(rf"`zoo {'plan' if section[0] == 'P' else 'train'} ", rows[word][1])


def test_the_quotation_has_no_other_words() -> None:
    left = QUOTED
    for word in sorted((word for words in WORDS.values() for word in words), key=len, reverse=True):
        left = left.replace(word, "", 1)
    told = "a comparative study of pre-trained models and fine-tuning techniques judged by and"
    assert " ".join(re.findall(r"[\w-]+", left)).casefold() == told


def test_what_evaluate_prints_has_the_measures_of_the_study() -> None:
    (output,) = [block.output for block in blocks_of(PAGE) if block.output]
    assert output is not None
    for name in ("accuracy", "precision_macro", "recall_macro", "f1_macro"):
        assert name in output.text


def planned(line: str) -> list[list[str]]:
    """The arguments of `zoo plan` for a training; of a study for each network, and for each strategy of one of them."""
    words = shlex.split(line)[2:]
    pairs = [*zip(words[::2], words[1::2], strict=True)]
    backbones, strategies = ([value for name, value in pairs if name == f"--{one}"] for one in ("backbone", "strategy"))
    others = [pair for pair in pairs if pair[0] not in ("--data", "--backbone", "--strategy", "--fraction", "--search")]
    asked = [(name, strategies[0]) for name in backbones] + [(backbones[-1], strategy) for strategy in strategies[1:]]
    rest = [word for pair in others for word in pair]
    return [["plan", "--backbone", name, "--strategy", strategy, *rest] for name, strategy in asked]


def param(words: tuple[str, ...]) -> object:
    slow = words[2].startswith("vgg")  # 130 million random weights
    return pytest.param(words, id=" ".join(words[2::2]), marks=pytest.mark.slow if slow else ())


ASKED = [*dict.fromkeys(tuple(words) for line in PLANNED for words in planned(line))]


@pytest.mark.parametrize("words", [param(words) for words in ASKED])
def test_a_training_or_a_pair_of_a_study_can_be_planned(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(list(words)) == 0
    told = " ".join(capsys.readouterr().err.split())
    for row in ROWS:
        if row[1] == f"`zoo {' '.join(words)}`":
            assert f"in all {row[2]} parameters train" in told


@pytest.mark.parametrize("line", [line for line in INLINE if line.startswith("zoo study ")])
def test_a_study_is_one_that_zoo_takes(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*shlex.split(line)[1:], "--print-config"]) == 0
    assert "strategies = [" in capsys.readouterr().out


@pytest.mark.parametrize("line", [*PARSED, *BLOCKS])
def test_any_other_command_can_be_parsed(line: str) -> None:
    commands = {entry.name: load_target(entry.value.target) for entry in Plugins().commands}
    name, *words = shlex.split(line)[1:]
    command = commands[name]
    assert isinstance(command, click.Command)
    command.make_context(name, words).close()
