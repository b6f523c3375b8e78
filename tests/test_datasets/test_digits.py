import numpy as np
import pytest
from mmengine.registry import DATASETS
from sklearn.datasets import load_digits

from mmdefmamba.datasets.digits import load_digits_split


def test_splits_are_disjoint_stratified_and_real():
    everything = load_digits()
    train, test = load_digits_split('train'), load_digits_split('test')
    assert (len(train[1]), len(test[1])) == (1437, 360)
    together = np.concatenate([train[0], test[0]]).reshape(1797, -1)
    expected = np.round(everything.images * 255 / 16).astype(np.uint8).reshape(1797, -1)
    # the same multiset of images: nothing lost, nothing in both
    assert sorted(map(bytes, together)) == sorted(map(bytes, expected))
    assert np.bincount(test[1]).min() >= 34 and np.bincount(test[1]).max() <= 37


def test_dataset_items():
    dataset = DATASETS.build({'type': 'Digits', 'split': 'test'})
    assert len(dataset) == 360 and dataset.metainfo['classes'] == tuple('0123456789')
    images, labels = load_digits_split('test')
    item = dataset[7]
    assert item['img'].shape == (8, 8, 3) and item['img'].dtype == np.uint8 and item['img'].max() == 255
    assert np.array_equal(item['img'][..., 1], images[7]) and item['gt_label'] == labels[7]


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match=r"split must be one of .* got 'val'"):
        DATASETS.build({'type': 'Digits', 'split': 'val'})
