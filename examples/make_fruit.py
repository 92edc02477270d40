"""Writes a small data set of drawn fruit as class folders of JPEG files: no download, the same images on every machine.

Run it so: `python examples/make_fruit.py photos`, or with `--count 48 --count-of lemon 12`
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = (128, 96)  # width and height in pixels
MARGIN = 48  # drawn around each photograph, so that no corner is empty after the rotation

# Mean colour of each fruit; lemon and orange are meant to be confused now and then
COLOURS = {"apple": (178, 38, 40), "lemon": (225, 190, 50), "orange": (228, 142, 38)}


def draw(fruit: str, generator: np.random.Generator) -> Image.Image:
    """One photograph: a table of a random colour in uneven light, one fruit with its shadow, and noise."""
    width, height = SIZE[0] + 2 * MARGIN, SIZE[1] + 2 * MARGIN
    table = generator.integers(60, 200, 3)
    light = np.linspace(generator.uniform(0.6, 1.1), generator.uniform(0.6, 1.1), width)[None, :, None]
    image = Image.fromarray(np.clip(np.ones((height, width, 1)) * table * light, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    x, y = width / 2 + generator.uniform(-24, 24), height / 2 + generator.uniform(-13, 13)
    radius = generator.uniform(18, 30)
    wide = radius * (1.3 if fruit == "lemon" else 1.0) * generator.uniform(0.85, 1.15)
    pen.ellipse((x - wide, y + radius * 0.5, x + wide * 1.3, y + radius * 1.2), fill=tuple(int(v * 0.5) for v in table))
    colour = np.asarray(COLOURS[fruit]) + generator.normal(0, 12, 3)
    for step in range(12):  # smaller and brighter ellipses towards the light: a round surface
        share = 1 - step / 12
        shade = tuple(int(v) for v in np.clip(colour * (0.65 + 0.05 * step), 0, 255))
        left, top = x - wide * 0.25 * (1 - share), y - radius * 0.3 * (1 - share)
        pen.ellipse((left - wide * share, top - radius * share, left + wide * share, top + radius * share), fill=shade)
    if fruit == "apple":
        pen.line((x, y - radius * 0.8, x + 3, y - radius * 1.3), fill=(80, 50, 20), width=3)
    image = image.rotate(generator.uniform(-30, 30), Image.Resampling.BICUBIC)
    image = image.crop((MARGIN, MARGIN, width - MARGIN, height - MARGIN))
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(generator.uniform(0.3, 1.5))), dtype=np.float64)
    return Image.fromarray(np.clip(pixels + generator.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8))


def make_fruit(folder: Path, counts: dict[str, int], seed: int = 0) -> None:
    """Write `counts[fruit]` photographs of each fruit to `folder/FRUIT/NNN.jpg`."""
    for fruit, count in counts.items():
        (folder / fruit).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            generator = np.random.default_rng([seed, sorted(COLOURS).index(fruit), index])
            draw(fruit, generator).save(folder / fruit / f"{index:03d}.jpg", quality=90)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=60, help="photographs of each fruit")
    parser.add_argument("--count-of", nargs=2, action="append", default=[], metavar=("FRUIT", "COUNT"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = dict.fromkeys(COLOURS, options.count) | {fruit: int(count) for fruit, count in options.count_of}
    make_fruit(options.folder, counts, options.seed)
    print(f"{sum(counts.values())} photographs of {', '.join(counts)} in {options.folder}")
