"""Images to begin with: digits and digit scenes that the quickstarts did not train on."""

import functools

import numpy as np

from ..datasets.digit_scenes import DigitScenes
from ..datasets.digits import load_digits_split


def example_image(digit, index):
    """One of an endless row of images.

    Args:
        digit: whether a single handwritten digit, (8, 8, 3), or a scene, (128, 128, 3).
        index: which.

    Returns:
        uint8, RGB.
    """
    if digit:
        images, _ = _digits()
        return np.repeat(images[index % len(images)][..., None], 3, axis=-1)
    return np.ascontiguousarray(_scenes().scene('validation', index).image[..., ::-1])


@functools.cache
def _digits():
    return load_digits_split('test')


@functools.cache
def _scenes():
    return DigitScenes()
