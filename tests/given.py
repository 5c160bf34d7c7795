"""What the reader of a page of examples has that the page's commands do not make: by the page's name."""

import numpy as np


def photos(folder):
    """Images (24, 24) of three classes: a bright bar that lies, one that stands, and a square."""
    from PIL import Image

    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:24, 0:24]
    for name in ("lying", "square", "standing"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(160):
            y, x = rng.integers(8, 16, 2)
            down, along = abs(rows - y), abs(columns - x)
            shape = {"lying": (down < 2) & (along < 8), "standing": (along < 2) & (down < 8)}.get(
                name, (down < 4) & (along < 4)
            )
            pixels = np.clip(rng.normal(70, 30, (24, 24, 3)) + 120 * shape[:, :, None], 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"photos/{name}/{number:03d}.png")


GIVEN = {"bring-your-own": photos}
