"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, which are part of that package."""

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

SPLITS = ('train', 'test')
TEST_FRACTION = 0.2
SPLIT_SEED = 0
MAX_INTENSITY = 16


def load_digits_split(split):
    """Return the images and labels of one split. A stratified fifth is held out, the same one in every run.

    Args:
        split: 'train' (1,437 images) or 'test' (360).

    Returns:
        images (n, 8, 8), uint8 in 0..255, and labels (n,), int64 in 0..9.

    Raises:
        ValueError: the split is unknown.
        ImportError: scikit-learn is not installed.

    Source: the UCI "Optical Recognition of Handwritten Digits" data, as shipped with scikit-learn.
    """
    try:  # imported here, because the backbone must not need scikit-learn
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError(
            'the digits are part of scikit-learn, which is not installed: pip install scikit-learn'
        ) from error
    if split not in SPLITS:
        raise ValueError(f'split must be one of {SPLITS}, got {split!r}')
    digits = load_digits()
    indices = train_test_split(
        np.arange(len(digits.target)), test_size=TEST_FRACTION, random_state=SPLIT_SEED, stratify=digits.target
    )[SPLITS.index(split)]
    images = np.round(digits.images[indices] * (255 / MAX_INTENSITY)).astype(np.uint8)
    return images, digits.target[indices].astype(np.int64)


@DATASETS.register_module()
class Digits(BaseDataset):
    """The digits as a classification dataset for mmpretrain. The images are in memory and need no loading transform.

    Each item has ``img`` (8, 8, 3) uint8, ``gt_label`` int, ``img_shape`` and ``ori_shape``.

    Args:
        split: 'train' or 'test'.
        pipeline, metainfo, indices, ...: as in MMEngine's BaseDataset.
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(self, split, **kwargs):
        self.split = split
        super().__init__(**kwargs)

    def load_images(self):
        """Return images (n, height, width), uint8, and labels (n,), int64."""
        return load_digits_split(self.split)

    def load_data_list(self):
        images, labels = self.load_images()
        shape = images.shape[1:]
        return [
            {
                'img': np.repeat(image[..., None], 3, axis=-1),
                'gt_label': int(label),
                'img_shape': shape,
                'ori_shape': shape,
            }
            for image, label in zip(images, labels, strict=True)
        ]
