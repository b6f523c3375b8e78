"""Digit scenes: real data for detection and segmentation without a download.

scikit-learn contains 1797 handwritten digits of 8 x 8 pixels (UCI Optical Recognition of Handwritten Digits) and two
photographs, china.jpg and flower.jpg. A scene is a crop of a photograph with digits painted over it, upscaled smoothly,
rotated, scaled, coloured and overlapping. Training scenes use the first four fifths of the digits and the left halves
of the photographs, validation scenes the other digits and the right halves. Layout of the folder::

    images/{training,validation}/00000.png          what the network sees
    annotations/{training,validation}/00000.png     ADE style index map: 0 background, 1 + digit, 255 ignore
    annotations/instances_{training,validation}.json   COCO: boxes, run-length masks, ten categories

The index map ignores the half-transparent rims of the strokes, which belong neither to the digit nor to the background.
"""

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
from pycocotools import mask as coco_mask

from ..files import shown

IMAGE_SIZE = 128
CLASSES = tuple(str(digit) for digit in range(10))
BACKGROUND, IGNORE = 0, 255
SPLITS = ('training', 'validation')
# The digits are ordered by writer. Only one writer can be in both splits, at the border between them.
TRAINING_SHARE = 0.8
MAX_DIGITS = 6
EMPTY_SHARE = 0.03  # share of the scenes without a digit
PLACEMENT_ATTEMPTS = 20
# Grey levels, from 0 to 1, at which ink begins and at which it covers the photograph completely.
INK_FROM, INK_TO = 0.2, 0.5
SPRITE = 80  # side of an upscaled digit with its margin, in pixels
# Margin around the 8 x 8 pixels of a digit, which bicubic ringing and the soft rim need.
MARGIN = 1


class Difficulty(NamedTuple):
    """The settings of a difficulty. Each number changes linearly from the easiest scenes (0) to the hardest (1).

    Attributes:
        min_size, max_size: height of the digit's 8 x 8 grid in pixels.
        rotation: largest angle, degrees.
        contrast: smallest difference of luminance between a digit and the photograph under it, from 0 to 1.
        overlap: largest share of the smaller of two boxes that the other box may cover.
    """

    min_size: float
    max_size: float
    rotation: float
    contrast: float
    overlap: float

    @classmethod
    def of(cls, level):
        """Return the settings of a level from 0 to 1.

        Raises:
            ValueError: the level is outside [0, 1].
        """
        if not 0 <= level <= 1:
            raise ValueError(f'difficulty must be from 0 (easy) to 1 (hard), got {level}')
        return cls(*(easy + level * (hard - easy) for easy, hard in zip(_EASY, _HARD, strict=True)))


_EASY = Difficulty(min_size=32, max_size=48, rotation=5, contrast=0.6, overlap=0)
_HARD = Difficulty(min_size=16, max_size=64, rotation=45, contrast=0.2, overlap=0.5)


class Instance(NamedTuple):
    """A digit in a scene.

    Attributes:
        source: index of the digit in scikit-learn's dataset.
        label: 0 to 9.
        mask: visible strokes, (H, W), bool.
    """

    source: int
    label: int
    mask: np.ndarray


class Scene(NamedTuple):
    """A composed scene.

    Attributes:
        image: (H, W, 3), uint8, BGR.
        instances: list of :class:`Instance`, from back to front.
        semantic: index map, (H, W), uint8.
    """

    image: np.ndarray
    instances: list
    semantic: np.ndarray


class DigitScenes:
    """A composer of scenes. A scene depends on seed, split, index and difficulty only.

    Args:
        difficulty: from 0 to 1, see :class:`Difficulty`.
        seed: non-negative integer.

    Raises:
        ValueError: difficulty or seed is out of range.
        ImportError: scikit-learn is not installed.
    """

    def __init__(self, difficulty=0.3, seed=0):
        if seed < 0:
            raise ValueError(f'seed must not be negative, got {seed}')
        try:
            from sklearn.datasets import load_digits, load_sample_images
        except ImportError as error:
            raise ImportError(
                'digit scenes need the images of scikit-learn, which is not installed: pip install scikit-learn'
            ) from error
        self.difficulty = Difficulty.of(difficulty)
        self.seed = seed
        digits = load_digits()
        self.labels = digits.target
        self.sprites = [_sprite(image / 16) for image in digits.images]
        self.photographs = [np.ascontiguousarray(image[..., ::-1]) for image in load_sample_images().images]

    def sources(self, split):
        """Return the indices of the digits that a split may use, a range.

        Raises:
            ValueError: the split is unknown.
        """
        _check_split(split)
        border = int(len(self.labels) * TRAINING_SHARE)
        return range(border) if split == 'training' else range(border, len(self.labels))

    def scene(self, split, index):
        """Compose one :class:`Scene`."""
        sources = self.sources(split)
        rng = np.random.default_rng((self.seed, SPLITS.index(split), index))
        image = self._background(rng, split)
        count = 0 if rng.random() < EMPTY_SHARE else rng.integers(1, MAX_DIGITS + 1)
        placed = []  # (source, alpha, box) from back to front
        for _ in range(count):
            source = int(rng.choice(sources))
            for _ in range(PLACEMENT_ATTEMPTS):
                alpha = self._place(rng, self.sprites[source])
                box = _box(alpha > 0.5)
                if box is not None and all(_overlap(box, other) <= self.difficulty.overlap for *_, other in placed):
                    placed.append((source, alpha, box))
                    break
        instances, semantic = [], np.full(image.shape[:2], BACKGROUND, np.uint8)
        for source, alpha, _ in placed:
            image = self._paint(rng, image, alpha)
            mask = alpha > 0.5
            instances = [other._replace(mask=other.mask & ~mask) for other in instances]
            instances.append(Instance(source, int(self.labels[source]), mask))
            semantic[mask] = self.labels[source] + 1
            semantic[(alpha > 0.1) & (alpha < 0.9)] = IGNORE
        return Scene(image, [instance for instance in instances if instance.mask.any()], semantic)

    def _background(self, rng, split):
        photograph = self.photographs[rng.integers(len(self.photographs))]
        half = photograph.shape[1] // 2
        photograph = photograph[:, :half] if split == 'training' else photograph[:, half:]
        side = int(rng.integers(IMAGE_SIZE, 2 * IMAGE_SIZE))
        y, x = (int(rng.integers(size - side + 1)) for size in photograph.shape[:2])
        crop = cv2.resize(photograph[y : y + side, x : x + side], (IMAGE_SIZE,) * 2, interpolation=cv2.INTER_AREA)
        return crop[:, ::-1] if rng.random() < 0.5 else crop

    def _place(self, rng, sprite):
        """Return how much of each pixel a digit covers at a random place, size and angle: (H, W), float32, 0 to 1."""
        size = rng.uniform(self.difficulty.min_size, self.difficulty.max_size)
        angle = rng.uniform(-self.difficulty.rotation, self.difficulty.rotation)
        center = rng.uniform(size / 2, IMAGE_SIZE - size / 2, 2)
        matrix = cv2.getRotationMatrix2D(((SPRITE - 1) / 2,) * 2, angle, size / 8 / (SPRITE / (8 + 2 * MARGIN)))
        matrix[:, 2] += center - (SPRITE - 1) / 2
        ink = cv2.warpAffine(sprite, matrix, (IMAGE_SIZE,) * 2, flags=cv2.INTER_LINEAR)
        return np.clip((ink - INK_FROM) / (INK_TO - INK_FROM), 0, 1)

    def _paint(self, rng, image, alpha):
        """Paint a digit with a random colour that has enough contrast to the photograph under its strokes."""
        below = np.average(image.mean(axis=2), weights=alpha) / 255
        # any luminance with at least this contrast; if there is none, the farther end of the range
        lower, upper = below - self.difficulty.contrast, 1 - below - self.difficulty.contrast
        room = np.maximum([lower, upper], 0)
        room = room / room.sum() if room.sum() > 0 else np.eye(2)[int(below < 0.5)]
        luminance = rng.uniform(0, max(lower, 0)) if rng.random() < room[0] else 1 - rng.uniform(0, max(upper, 0))
        tint = rng.uniform(-0.2, 0.2, 3)
        colour = np.clip(luminance + tint - tint.mean(), 0, 1) * 255
        return np.round(image + alpha[..., None] * (colour - image)).astype(np.uint8)


def write_digit_scenes(out_dir, train=800, val=200, difficulty=0.3, seed=0):
    """Write the dataset in the layout that the docstring of this module shows.

    Args:
        out_dir: folder; it is created if necessary. Files of an earlier run with more scenes are not removed.
        train, val: number of scenes, at least 1 each.
        difficulty, seed: see :class:`DigitScenes`.

    Returns:
        ``{split: number of instances}``.

    Raises:
        ValueError: a split has no scenes, or difficulty or seed is out of range.
    """
    counts = dict(zip(SPLITS, (train, val), strict=True))
    for split, count in counts.items():
        if count < 1:
            raise ValueError(f'{split} needs at least one scene, got {count}')
    scenes, out_dir = DigitScenes(difficulty, seed), Path(out_dir)
    written = {}
    for split, count in counts.items():
        coco = dict(
            info=dict(description=f'digit scenes, difficulty {difficulty}, seed {seed}, {split}'),
            images=[],
            annotations=[],
            categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
        )
        for folder in ('images', 'annotations'):
            (out_dir / folder / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            scene, name = scenes.scene(split, index), f'{index:05d}.png'
            _write_png(out_dir / 'images' / split / name, scene.image)
            _write_png(out_dir / 'annotations' / split / name, scene.semantic)
            coco['images'].append(dict(id=index, file_name=name, height=IMAGE_SIZE, width=IMAGE_SIZE))
            for instance in scene.instances:
                annotation = _annotation(instance)
                coco['annotations'].append(dict(id=len(coco['annotations']) + 1, image_id=index, **annotation))
        (out_dir / 'annotations' / f'instances_{split}.json').write_text(json.dumps(coco))
        written[split] = len(coco['annotations'])
    return written


def _annotation(instance):
    left, top, right, bottom = _box(instance.mask)
    rle = coco_mask.encode(np.asfortranarray(instance.mask.astype(np.uint8)))
    return dict(
        category_id=instance.label + 1,
        bbox=[left, top, right - left, bottom - top],
        area=int(instance.mask.sum()),
        segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
        iscrowd=0,
        digit=instance.source,
    )


def _sprite(digit):
    """Upscale an 8 x 8 digit smoothly to SPRITE x SPRITE."""
    padded = np.pad(digit.astype(np.float32), MARGIN)
    return cv2.resize(padded, (SPRITE, SPRITE), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def _box(mask):
    """Return (left, top, right, bottom) of a mask, the last two exclusive; None if the mask is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _overlap(a, b):
    """Return the area of the intersection of two boxes divided by the area of the smaller box."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / min(areas)


def _check_split(split):
    if split not in SPLITS:
        raise ValueError(f'split must be one of {SPLITS}, got {split!r}')


def _write_png(path, image):
    if not mmcv.imwrite(image, str(path)):
        raise OSError(f'cannot write {shown(path)}')
