"""Inputs of a network: torch's threads normalise as `normalise` does, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from zoo.data.image import normalise
from zoo.networks.inputs import inputs_of
from zoo.preprocess import Preprocess


def test_inputs_are_those_of_normalise_bit_for_bit() -> None:
    generator, cpu = np.random.default_rng(0), torch.device("cpu")
    every = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(4, 8, 8, 3)  # each value in each channel
    every.flags.writeable = False
    for _ in range(50):
        red, green, blue, *spread = map(float, generator.uniform(0.05, 1, 6))
        std = spread[0], spread[1], spread[2]
        preprocess = replace(Preprocess(resize=8, crop=8), mean=(red, green, blue), std=std)
        found = inputs_of(every, preprocess, cpu)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert found.numpy().tobytes() == normalise(every, preprocess).tobytes()
