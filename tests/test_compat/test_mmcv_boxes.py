"""Suppression of overlapping boxes by mmcv's functions, compared with plain NumPy implementations."""

import numpy as np
import pytest
import torch

import mmdefmamba  # noqa: F401  mends mmcv

DEVICES = [
    'cpu',
    pytest.param(
        'cuda', marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')]
    ),
]


def numpy_nms(boxes, scores, threshold, offset):
    order, kept = list(np.argsort(-scores, kind='stable')), []
    while order:
        best = order.pop(0)
        kept.append(best)
        for other in list(order):
            sides = np.minimum(boxes[best, 2:], boxes[other, 2:]) - np.maximum(boxes[best, :2], boxes[other, :2])
            shared = np.prod(np.maximum(sides + offset, 0))
            areas = [np.prod(boxes[i, 2:] - boxes[i, :2] + offset) for i in (best, other)]
            if shared > threshold * (sum(areas) - shared):
                order.remove(other)
    return kept


def random_boxes(count, seed=0):
    """Return boxes on a coarse grid, so that the offset changes the result, and scores of which some are equal."""
    random = np.random.default_rng(seed)
    corner, side = random.integers(0, 20, (count, 2)), random.integers(2, 9, (count, 2))
    return np.concatenate((corner, corner + side), axis=1).astype(float), random.integers(1, 9, count) / 8


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('offset', [0, 1])
def test_nms_matches_numpy_reference(offset, dtype, device):
    from mmcv.ops import nms

    boxes, scores = random_boxes(120)
    expected = numpy_nms(boxes, scores, 0.31, offset)
    assert 20 < len(expected) < 100 and expected != numpy_nms(boxes, scores, 0.31, 1 - offset)
    tensors = (torch.from_numpy(value).to(device, dtype) for value in (boxes, scores))
    detections, kept = nms(*tensors, 0.31, offset)
    assert kept.tolist() == expected and kept.dtype == torch.int64
    assert detections.dtype == dtype and detections.shape == (len(expected), 5)


def test_nms_keeps_a_box_at_the_threshold():
    from mmcv.ops import nms

    boxes, scores = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1]]), torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.5)[1].tolist() == [0, 1]
    assert nms(boxes, scores, 0.49)[1].tolist() == [0]


def test_nms_handles_empty_input_and_limits():
    from mmcv.ops import nms

    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1].tolist() == []
    boxes, scores = random_boxes(60)
    expected = [i for i in numpy_nms(boxes, scores, 0.31, 0) if scores[i] > 0.25][:7]
    assert nms(torch.tensor(boxes), torch.tensor(scores), 0.31, score_threshold=0.25, max_num=7)[1].tolist() == expected


def test_batched_nms_keeps_classes_apart():
    from mmcv.ops import batched_nms

    boxes, _ = random_boxes(90)
    scores = np.random.default_rng(1).permutation(90) / 90
    classes = np.arange(90) % 3
    expected = []
    for label in range(3):
        members = np.flatnonzero(classes == label)
        expected += list(members[numpy_nms(boxes[members], scores[members], 0.4, 0)])
    expected.sort(key=lambda i: -scores[i])
    tensors = (torch.from_numpy(value) for value in (boxes, scores, classes))
    detections, kept = batched_nms(*tensors, {'type': 'nms', 'iou_threshold': 0.4})
    assert kept.tolist() == expected
    np.testing.assert_array_equal(detections[:, 4], scores[expected])


def numpy_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    """Follow the loop of mmcv with its exchange of places, box by box."""
    boxes, scores, order = boxes.copy(), scores.copy(), list(range(len(boxes)))
    kept, left = [], len(order)
    for i in range(len(order)):
        if i >= left:
            break
        best = max(range(i, left), key=lambda j: (scores[order[j]], -j))
        order[i], order[best] = order[best], order[i]
        taken = order[i]
        kept.append((taken, scores[taken]))
        j = i + 1
        while j < left:
            other = order[j]
            sides = np.minimum(boxes[taken, 2:], boxes[other, 2:]) - np.maximum(boxes[taken, :2], boxes[other, :2])
            shared = np.prod(np.maximum(sides + offset, 0))
            areas = [np.prod(boxes[k, 2:] - boxes[k, :2] + offset) for k in (taken, other)]
            iou = shared / (sum(areas) - shared)
            if method == 'gaussian':
                scores[other] *= np.exp(-(iou**2) / sigma)
            elif iou >= threshold:
                scores[other] *= 1 - iou if method == 'linear' else 0
            if scores[other] < min_score:
                left -= 1
                order[j] = order[left]
            else:
                j += 1
    return kept


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_soft_nms_matches_numpy_reference(dtype, offset, method):
    from mmcv.ops import soft_nms

    for seed in range(5):
        boxes, scores = random_boxes(60, seed)  # many scores are equal, so the order depends on the exchanges
        args = (0.3, 0.5, 0.047, method, offset)
        expected = numpy_soft_nms(boxes, scores, *args)
        detections, kept = soft_nms(torch.tensor(boxes, dtype=dtype), torch.tensor(scores, dtype=dtype), *args)
        assert kept.tolist() == [index for index, _ in expected] and kept.dtype == torch.int64
        assert detections.dtype == dtype
        np.testing.assert_array_equal(detections[:, :4], boxes[kept])
        np.testing.assert_allclose(detections[:, 4], [score for _, score in expected], rtol=1e-5)
        assert 10 < len(expected) < 60 or method != 'naive'


@pytest.mark.parametrize(
    ('method', 'expected'),
    [
        ('naive', {1: 0.9, 0: 0.6, 3: 0.2}),
        ('linear', {1: 0.9, 0: 0.6, 2: 0.7 * (1 - 24 / 41), 3: 0.2}),
        (
            'gaussian',
            {
                1: 0.9,
                0: 0.6 * np.exp(-((2 / 36) ** 2) / 0.5),
                2: 0.7 * np.exp(-((24 / 41) ** 2) / 0.5),
                3: 0.2 * np.exp(-((6 / 60) ** 2) / 0.5) * np.exp(-((6 / 38) ** 2) / 0.5),
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)
def test_soft_nms_of_four_boxes(method, expected):
    """Areas: 8, 30, 35 and 36. Intersections: 2 of boxes 0 and 1, 24 of 1 and 2, 6 of 0 and 3, 6 of 1 and 3."""
    from mmcv.ops import soft_nms

    boxes = np.array([[6.0, 3, 8, 7], [3, 6, 9, 11], [3, 7, 10, 12], [1, 4, 13, 7]], dtype=np.float32)
    scores = np.array([0.6, 0.9, 0.7, 0.2], dtype=np.float32)
    detections, kept = soft_nms(boxes, scores, 0.3, 0.5, 0.01, method)
    assert kept.tolist() == list(expected)
    np.testing.assert_allclose(detections[:, 4], list(expected.values()), rtol=1e-5)


def test_soft_nms_handles_boxes_without_area_and_none_at_all():
    from mmcv.ops import soft_nms

    boxes = np.array([[4.0, 3, 5, 3], [4, 3, 5, 4], *[[3, 1, 3, 1]] * 4], dtype=np.float32)
    scores = np.array([0.9, 0.9, 0.5, 0.5, 0.4, 0.0], dtype=np.float32)
    detections, kept = soft_nms(boxes, scores, 0.6, sigma=0.5)
    assert kept.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(detections[:, 4], scores[:5])
    detections, kept = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert detections.shape == (0, 5) and kept.shape == (0,) and kept.dtype == torch.int64


def test_batched_soft_nms_keeps_classes_apart():
    from mmcv.ops import batched_nms, soft_nms

    boxes, _ = random_boxes(60)
    scores = np.random.default_rng(1).permutation(60) / 60
    classes = np.arange(60) % 3
    expected = {}
    for label in range(3):
        members = np.flatnonzero(classes == label)
        detections, kept = soft_nms(boxes[members], scores[members], 0.4, min_score=0.1)
        expected.update(zip(members[kept], detections[:, 4], strict=True))
    tensors = (torch.from_numpy(value) for value in (boxes, scores, classes))
    detections, kept = batched_nms(*tensors, dict(type='soft_nms', iou_threshold=0.4, min_score=0.1))
    assert kept.tolist() == sorted(expected, key=lambda i: -expected[i])
    np.testing.assert_allclose(detections[:, 4], [expected[i] for i in kept.tolist()])


def numpy_nms_match(boxes, scores, threshold):
    order, groups = list(np.argsort(-scores, kind='stable')), []
    while order:
        group = [order.pop(0)]
        for other in list(order):
            sides = np.minimum(boxes[group[0], 2:], boxes[other, 2:]) - np.maximum(
                boxes[group[0], :2], boxes[other, :2]
            )
            shared = np.prod(np.maximum(sides, 0))
            areas = [np.prod(boxes[i, 2:] - boxes[i, :2]) for i in (group[0], other)]
            if shared >= threshold * (sum(areas) - shared):
                order.remove(other)
                group.append(other)
        groups.append(group)
    return groups


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_nms_match_matches_numpy_reference(dtype):
    from mmcv.ops import nms_match

    boxes, scores = random_boxes(120)
    expected = numpy_nms_match(boxes, scores, 0.31)
    assert 20 < len(expected) < 100
    boxes_and_scores = np.concatenate((boxes, scores[:, None]), axis=1).astype(dtype)
    groups = nms_match(boxes_and_scores, 0.31)
    assert [group.tolist() for group in groups] == expected
    tensors = nms_match(torch.from_numpy(boxes_and_scores), 0.31)
    assert [group.tolist() for group in tensors] == expected and tensors[0].dtype == torch.int64


def test_nms_match_suppresses_a_box_at_the_threshold():
    from mmcv.ops import nms_match

    dets = torch.tensor([[0.0, 0, 2, 2, 0.9], [0, 0, 2, 1, 0.8]])
    assert [group.tolist() for group in nms_match(dets, 0.5)] == [[0, 1]]
    assert [group.tolist() for group in nms_match(dets, 0.51)] == [[0], [1]]
    assert nms_match(torch.zeros(0, 5), 0.5) == []
