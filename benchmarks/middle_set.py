"""Makes a folder of some 4,000 photographs in twelve classes from the two sets that are measured on elsewhere.

    python benchmarks/middle_set.py HYMENOPTERA SIGN_DIGITS OUT

Users have thousands of photographs, and no set of that size is at hand. So each photograph of hymenoptera gives five
crops of 60 to 90 % of its sides, and each of the hands, of 100 x 100 pixels, is enlarged to 400 x 400, so that decoding
costs what photographs cost. The crops of a photograph stay in its split; of the hands every ninth is in `val`. The same
inputs give the same pixels. Accuracy on this set says whether two ways of training agree, not how hard a task is.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

CROPS = 5
HAND = 400  # pixels
HELD_OUT = 9  # one of so many hands is in `val`
QUALITY = 90


def crops(photograph: Image.Image, drawn: random.Random) -> list[Image.Image]:
    """`CROPS` crops of a photograph, each with its own size and place."""
    found = []
    for _ in range(CROPS):
        share = drawn.uniform(0.6, 0.9)
        width, height = round(photograph.width * share), round(photograph.height * share)
        left, top = drawn.randint(0, photograph.width - width), drawn.randint(0, photograph.height - height)
        found.append(photograph.crop((left, top, left + width, top + height)))
    return found


def save(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, quality=QUALITY)


def main() -> None:
    if len(sys.argv) != 4:
        raise SystemExit("usage: python benchmarks/middle_set.py HYMENOPTERA SIGN_DIGITS OUT")
    insects, hands, out = map(Path, sys.argv[1:])
    if out.exists():
        raise SystemExit(f"`{out}` is there already")
    drawn = random.Random(0)
    for file in sorted(insects.glob("*/*/*")):
        if file.suffix.lower() == ".gif":  # an error message
            continue
        try:
            photograph = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
        except UnidentifiedImageError:
            continue
        split, word = file.parts[-3:-1]
        for number, crop in enumerate(crops(photograph, drawn)):
            save(crop, out / split / word / f"{file.stem}_{number}.jpg")
    for folder in sorted(path for path in hands.iterdir() if path.is_dir()):
        for number, file in enumerate(sorted(folder.iterdir())):
            split = "val" if number % HELD_OUT == 0 else "train"
            hand = Image.open(file).convert("RGB").resize((HAND, HAND), Image.Resampling.BICUBIC)
            save(hand, out / split / folder.name / f"{file.stem}.jpg")
    counts = {split: sum(1 for _ in (out / split).rglob("*.jpg")) for split in ("train", "val")}
    print(f"{counts['train']:,} photographs to train on and {counts['val']:,} to score in `{out}`")


if __name__ == "__main__":
    main()
