"""The animation shows the given order."""

import io

import numpy as np
import pytest
from PIL import Image

from mmdefmamba.visualization.animation import MAX_FRAMES, animate_scan


def frames(content):
    image = Image.open(io.BytesIO(content))
    for i in range(image.n_frames):
        image.seek(i)
        yield np.asarray(image.convert('RGB')).astype(int), image.info['duration']


def tinted(frame, map_size, place):
    """Return whether most of a place's cell has the colour of a rank; the path hides the rest."""
    height, width = (side // tokens for side, tokens in zip(frame.shape, map_size, strict=False))
    row, column = divmod(place, map_size[1])
    cell = frame[row * height : (row + 1) * height, column * width : (column + 1) * width]
    return (np.ptp(cell, axis=-1) > 20).mean() > 0.5


def test_places_are_tinted_one_after_the_other():
    map_size = (3, 4)
    order = np.random.default_rng(0).permutation(12)
    gray = np.full((30, 40, 3), 128, np.uint8)
    shown = list(frames(animate_scan(gray, order, map_size)))
    assert len(shown) == 12
    assert shown[0][0].shape == (240, 320, 3)
    for step, (frame, _) in enumerate(shown, 1):
        assert {place for place in range(12) if tinted(frame, map_size, place)} == set(order[:step])
    assert shown[-1][1] > 3 * shown[0][1], 'the whole path stays for a while'


@pytest.mark.parametrize('map_size', [(1, 1), (1, 50), (64, 48)])
def test_every_map_size_is_animated(map_size):
    length = map_size[0] * map_size[1]
    image = np.zeros((2 * map_size[0], 2 * map_size[1] + 1, 3), np.uint8)
    content = animate_scan(image, np.arange(length)[::-1], map_size)
    assert len(list(frames(content))) == min(length, MAX_FRAMES)


def test_an_order_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r'order must have 2 \* 3 places, got \(5,\)'):
        animate_scan(np.zeros((8, 8, 3), np.uint8), np.arange(5), (2, 3))
