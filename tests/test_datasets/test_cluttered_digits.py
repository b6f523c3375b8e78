import numpy as np
import pytest
from mmengine.registry import DATASETS

from mmdefmamba.datasets.cluttered_digits import compose_cluttered
from mmdefmamba.datasets.digits import load_digits_split


def holds(canvas, digit):
    """Return whether some window of a canvas is nowhere darker than the digit, so that the digit can be there."""
    side = len(canvas) - len(digit) + 1
    windows = (canvas[row : row + 8, column : column + 8] for row in range(side) for column in range(side))
    return any((window >= digit).all() for window in windows)


def test_every_canvas_holds_its_digit():
    images, labels = load_digits_split('test')
    images, labels = images[:20], labels[:20]
    composed, repeated = compose_cluttered(images, labels, copies=3, canvas=13, pieces=2, piece_side=3, noise=0, seed=5)
    assert composed.shape == (60, 13, 13) and composed.dtype == np.uint8
    assert repeated.tolist() == [label for label in labels for _ in range(3)]
    assert all(holds(canvas, images[i // 3]) for i, canvas in enumerate(composed))
    # the canvases of a digit differ: other places, other pieces
    assert len({canvas.tobytes() for canvas in composed}) == 60
    places = np.array([np.argwhere(canvas > 0).mean(0) for canvas in composed])
    assert places.std(0).min() > 0.5
    bare, _ = compose_cluttered(images, labels, copies=1, canvas=13, pieces=0, piece_side=3, noise=0, seed=5)
    assert np.array_equal(bare.sum((1, 2)), images.sum((1, 2)))
    assert (composed.sum((1, 2)).reshape(20, 3).mean(1) > bare.sum((1, 2))).all()


def test_noise_has_the_given_deviation():
    grey = np.full((50, 8, 8), 128, np.uint8)
    composed, _ = compose_cluttered(
        grey, np.zeros(50, int), copies=1, canvas=8, pieces=0, piece_side=1, noise=20.0, seed=0
    )
    assert composed.std() == pytest.approx(20, rel=0.05) and composed.mean() == pytest.approx(128, rel=0.02)


def test_dataset_is_the_same_every_time():
    cfg = dict(type='ClutteredDigits', split='train', per_class=4, copies=2, canvas=9, pieces=1, noise=10.0, seed=3)
    first, second = DATASETS.build(cfg), DATASETS.build(cfg)
    assert len(first) == 4 * 10 * 2
    labels = [item['gt_label'] for item in first]
    assert np.bincount(labels).tolist() == [8] * 10
    for a, b in zip(first, second, strict=True):
        assert a['img'].shape == (9, 9, 3) and a['img_shape'] == (9, 9) and np.array_equal(a['img'], b['img'])
    other = DATASETS.build(dict(cfg, seed=4))
    assert not np.array_equal(first[0]['img'], other[0]['img'])
    assert len(DATASETS.build(dict(type='ClutteredDigits', split='test', copies=2))) == 720


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(canvas=7), 'canvas must be at least 8, got 7'),
        (dict(piece_side=9), 'piece_side must be from 1 to 8, got 9'),
        (dict(split='val'), "got 'val'"),
    ],
)
def test_wrong_argument_is_refused_with_its_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        DATASETS.build(dict(dict(type='ClutteredDigits', split='test'), **wrong))
