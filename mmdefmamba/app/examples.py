"""Example images: digits and digit scenes that the quickstarts did not train on."""

import functools

import numpy as np

from ..datasets.digit_scenes import DigitScenes
from ..datasets.digits import load_digits_split


def example_image(digit, index):
    """Return an example image.

    Args:
        digit: True for a single handwritten digit, (8, 8, 3), False for a scene, (128, 128, 3).
        index: number of the example, from 0; every number gives an image.

    Returns:
        The image, uint8, RGB.
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
