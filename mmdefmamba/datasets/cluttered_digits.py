"""Cluttered digits: each digit is at a random place on a larger canvas, among pieces of other digits."""

import numpy as np
from mmengine.registry import DATASETS

from .digits import Digits, load_digits_split

DIGIT_SIDE = 8


def compose_cluttered(images, labels, copies, canvas, pieces, piece_side, noise, seed):
    """Draw each digit on its own canvases.

    A canvas gets ``pieces`` square pieces of other digits at random places, and then the digit at a random place. Each
    is combined with the canvas by the maximum. Finally Gaussian noise is added.

    Args:
        images: (n, 8, 8), uint8.
        labels: (n,), int64.
        copies: number of canvases per digit.
        canvas: side of a canvas, in pixels.
        pieces: number of pieces per canvas.
        piece_side: side of a piece, in pixels, up to 8.
        noise: standard deviation of the noise, in grey levels from 0 to 255.
        seed: seed of the random numbers; the same arguments give the same canvases on every machine.

    Returns:
        images (n * copies, canvas, canvas), uint8, and labels (n * copies,).
    """
    rng = np.random.default_rng(seed)
    composed = np.zeros((len(images) * copies, canvas, canvas), np.uint8)

    def paste(target, patch):
        row, column = rng.integers(0, canvas - len(patch) + 1, 2)
        place = target[row : row + len(patch), column : column + len(patch)]
        np.maximum(place, patch, out=place)

    for i, target in enumerate(composed):
        for _ in range(pieces):
            row, column = rng.integers(0, DIGIT_SIDE - piece_side + 1, 2)
            other = images[rng.integers(len(images))]
            paste(target, other[row : row + piece_side, column : column + piece_side])
        paste(target, images[i // copies])
    noisy = composed + rng.normal(0, noise, composed.shape)
    return noisy.round().clip(0, 255).astype(np.uint8), labels.repeat(copies)


@DATASETS.register_module()
class ClutteredDigits(Digits):
    """Digits among clutter: a classification dataset like :class:`Digits`, for comparisons that need harder images.

    The canvases are composed once from a fixed seed, so that every run sees the same canvases.

    Args:
        split: 'train' or 'test'.
        per_class: number of digits per class, the first ones of the split; None takes all digits.
        copies, canvas, pieces, piece_side, noise, seed: as in :func:`compose_cluttered`.
        pipeline, metainfo, indices, ...: as in MMEngine's BaseDataset.

    Raises:
        ValueError: the split is unknown, the canvas is smaller than a digit, or a piece is larger than a digit.
    """

    def __init__(self, split, per_class=None, copies=1, canvas=14, pieces=4, piece_side=4, noise=0.0, seed=0, **kwargs):
        if canvas < DIGIT_SIDE:
            raise ValueError(f'canvas must be at least {DIGIT_SIDE}, got {canvas}')
        if not 1 <= piece_side <= DIGIT_SIDE:
            raise ValueError(f'piece_side must be from 1 to {DIGIT_SIDE}, got {piece_side}')
        self.per_class = per_class
        self.composition = dict(
            copies=copies, canvas=canvas, pieces=pieces, piece_side=piece_side, noise=noise, seed=seed
        )
        super().__init__(split, **kwargs)

    def load_images(self):
        images, labels = load_digits_split(self.split)
        if self.per_class is not None:
            first = np.sort(np.concatenate([np.flatnonzero(labels == digit)[: self.per_class] for digit in range(10)]))
            images, labels = images[first], labels[first]
        return compose_cluttered(images, labels, **self.composition)
