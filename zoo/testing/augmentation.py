"""The laws of augmentations."""

from __future__ import annotations

import torch

from zoo.config.choice import choose
from zoo.data.augmentation import BadView, draw_views, drawing_of, make_view
from zoo.plugin import Plugins
from zoo.preprocess import Colour, ImageSize, height_width
from zoo.testing.law import Violation, require


def check_augmentation(
    augmentation: str, *, image_size: ImageSize = 32, fill: Colour | None = None, plugins: Plugins | None = None
) -> None:
    """Check an augmentation on canvases of noise, of one colour, and as large as the view.

    A view is `(3, h, w)` uint8. The same image and view give the same bits, whatever was drawn before; views differ if
    it is random, and are equal if it is not. The canvas is left as it was.

    Args:
        augmentation: Its text, as `--augment` takes it.
        image_size: Of the view, in pixels: a number, or height and width.
        fill: The colour around padded images. None: they are not padded.
        plugins: Loaded plugins. None: load those installed.

    Raises:
        AssertionError: naming what does not hold.
        UsageError: the text is wrong.
    """
    plugins = plugins or Plugins()
    drawing = drawing_of(choose(augmentation, plugins.augmentations, plugins))
    make = make_view(drawing, image_size, fill)
    height, width = height_width(image_size)
    noise = torch.randint(0, 256, (4, 3, height + 8, width + 4), dtype=torch.uint8)
    for canvases in (noise, torch.full_like(noise, 128), noise[:, :, :height, :width].contiguous()):
        before = canvases.clone()
        asked = [(place, 0) for place in range(len(canvases))]
        try:
            first = draw_views(canvases, asked, make, 0)
            again = draw_views(canvases.flip(0), asked[::-1], make, 0).flip(0)
        except BadView as error:
            raise Violation(f"`{augmentation}` {error} for image {error.place}") from error
        require(torch.equal(canvases, before), f"`{augmentation}` changes the canvas that it is given")
        require(torch.equal(first, again), f"`{augmentation}`: a view depends on more than its image and number")
    views = [draw_views(noise, [(0, view)] * len(noise), make, 0) for view in range(16)]
    differ = any(not torch.equal(view, views[0]) for view in views)
    require(differ or not drawing.random, f"`{augmentation}`: 16 views of an image are equal")
    require(drawing.random or not differ, f"`{augmentation}` is not `random`, but its views differ")
