"""Other words: what other tools and papers call a strategy, and the word for it here."""

from __future__ import annotations

from collections.abc import Iterable

from zoo.errors import did_you_mean

_LAST = "`partial:N` trains the last N stages and the head"
_HEAD = "`linear` trains the head alone"
_ALL = "`full` trains every stage and the head"

WORDS = {
    "freeze": f"here a strategy names what trains, not what is frozen: {_LAST}, and freezes the others; {_HEAD}",
    "finetune": f"{_ALL}; {_LAST}",
    "unfreeze": f"{_LAST}; `gradual` unfreezes one more stage in each phase",
    "head": _HEAD,
    "probe": _HEAD,
    "linearprobe": _HEAD,
    "featureextraction": f"{_HEAD}, on features that are computed once",
    "frozen": _HEAD,
    "last": _LAST,
    "top": _LAST,
    "all": _ALL,
    "discriminative": "`layerdecay` trains early stages at lower learning rates",
    "llrd": "`layerdecay` trains early stages at lower learning rates",
    "nearestneighbours": "`knn` votes among the most similar training images",
    "batchnorm": "`norm` trains normalisation parameters and the head",
    "bias": "`bitfit` trains biases and the head",
    "random": "`scratch` trains every stage from random weights",
}

_SAME = {
    "frozenbackbone": "freeze", "freezebackbone": "freeze", "freezelayers": "freeze", "frozenfeatures": "frozen",
    "finetuning": "finetune", "ft": "finetune", "headonly": "head", "classifier": "head", "fc": "head",
    "linearprobing": "linearprobe", "probing": "probe", "lp": "probe", "features": "featureextraction",
    "extraction": "featureextraction", "transfer": "head", "lastn": "last", "lastlayers": "last", "topn": "top",
    "whole": "all", "everything": "all", "bn": "batchnorm", "gradualunfreezing": "unfreeze", "discriminativelr": "llrd",
    "biases": "bias", "nn": "nearestneighbours", "fromscratch": "random",
}  # fmt: skip


def own_word(name: str) -> str | None:
    """The word for a strategy that goes by another name elsewhere, as a hint; None: it is not known there either."""
    plain = "".join(letter for letter in name.casefold() if letter.isalnum())
    return WORDS.get(_SAME.get(plain, plain))


def strategy_hint(name: str, known: Iterable[str]) -> str:
    """The hint for a strategy that is not there: the word for it here, or the known names that are close."""
    return own_word(name) or did_you_mean(name, known, "see `zoo list strategies`")
