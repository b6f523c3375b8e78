"""Orders that are computed from the features, against plain loops."""

import sys
from collections import deque

import pytest
import torch

from mmdefmamba.analysis import complexity
from mmdefmamba.models import DefMamba
from mmdefmamba.ops import permute_tokens
from mmdefmamba.scans import build_scan

SIZES = [(1, 1), (1, 5), (6, 1), (4, 4), (7, 5)]
ARCH = dict(embed_dims=(8, 16), depths=(1, 1))
CONTENT = ['quadtree', 'spanning_tree']


def make_map(size, batch=2, channels=3):
    torch.manual_seed(0)
    return torch.randn(batch, channels, *size, dtype=torch.float64)


def leaves(x, top, left, height, width, cuts):
    """Places of a window (C, height, width) of the quadtree; ``cuts`` is the set of windows that are cut further."""
    if (top, left, height, width) not in cuts:
        return [(row, column) for row in range(top, top + height) for column in range(left, left + width)]
    return [place for window in quarters(top, left, height, width) for place in leaves(x, *window, cuts)]


def quarters(top, left, height, width):
    rows = [(top, -(-height // 2)), (top + -(-height // 2), height // 2)]
    columns = [(left, -(-width // 2)), (left + -(-width // 2), width // 2)]
    return [(t, c, h, w) for t, h in rows for c, w in columns]


@pytest.mark.parametrize(
    ('size', 'levels'), [((2, 4), 1), ((4, 4), 2), ((8, 12), 1), ((8, 12), 2), ((8, 16), 3), ((16, 8), 3)], ids=str
)
def test_quadtree_cuts_the_window_that_varies_most(size, levels):
    x = make_map(size)
    order = build_scan(dict(type='quadtree', levels=levels), None).order(x)
    for image, places in zip(x, order.tolist(), strict=True):
        cuts, window = {(0, 0, *size)}, (0, 0, *size)
        for _ in range(1, levels):

            def varies(window):
                top, left, height, width = window
                inside = image[:, top : top + height, left : left + width].flatten(1)  # noqa: B023
                return inside.var(1, correction=0).mean()

            window = max(quarters(*window), key=varies)
            cuts.add(window)
        assert [divmod(place, size[1]) for place in places] == leaves(image, 0, 0, *size, cuts)


def test_quadtree_cuts_where_the_map_varies():
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 0, 4:] = torch.arange(4.0)
    order = build_scan('quadtree', None).order(x)[0].view(4, 16)
    assert order[1, :4].tolist() == [4, 5, 12, 13], 'the second quadrant, window by window'
    assert order[0, :5].tolist() == [0, 1, 2, 3, 8], 'the first, row by row'


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_spanning_tree_is_walked_breadth_first(size):
    x = make_map(size)
    height, width = size
    order = build_scan('spanning_tree', None).order(x)
    for image, places in zip(x, order.tolist(), strict=True):
        tokens = image.flatten(1).T

        def weight(a, b):
            return float((tokens[a] - tokens[b]).square().sum())  # noqa: B023

        def around(place):
            row, column = divmod(place, width)
            if row:
                yield place - width
            if row < height - 1:
                yield place + width
            if column:
                yield place - 1
            if column < width - 1:
                yield place + 1

        # Prim: the tree grows by the lightest edge that leaves it
        tree = {0: []}
        while len(tree) < height * width:
            edges = [(weight(a, b), a, b) for a in tree for b in around(a) if b not in tree]
            _, a, b = min(edges)
            tree[a].append(b)
            tree[b] = []
        depths, queue = {0: 0}, deque([0])
        while queue:
            place = queue.popleft()
            for child in tree[place]:
                depths[child] = depths[place] + 1
                queue.append(child)
        parents = {child: parent for parent, children in tree.items() for child in children}
        walked = [depths[place] for place in places]
        assert places[0] == 0 and sorted(places) == list(range(height * width))
        assert walked == sorted(walked), 'by depth'
        step = {place: i for i, place in enumerate(places)}
        of_parents = [step[parents[place]] for place in places[1:]]
        assert of_parents == sorted(of_parents), 'children in the order of their parents'


@pytest.mark.parametrize('name', CONTENT)
@pytest.mark.parametrize('size', SIZES, ids=str)
def test_every_image_has_its_own_order(name, size):
    x = make_map(size, batch=3)
    scan = build_scan(name, None)
    order = scan.order(x)
    assert order.dtype == torch.int64 and order.shape == (3, size[0] * size[1])
    assert torch.equal(order, torch.cat([scan.order(image[None]) for image in x]))
    assert torch.equal(order, scan.order(x)), 'deterministic'
    # all weights are equal: the order is still defined, the same for each image
    constant = scan.order(torch.zeros(2, 1, *size))
    assert torch.equal(constant[0], constant[1])


@pytest.mark.parametrize('name', CONTENT)
def test_no_gradient_goes_through_the_order(name):
    x = make_map((4, 5)).requires_grad_()
    read, order = build_scan(name, None)(x)
    assert read is x and not order.order.requires_grad
    weights = torch.randn(2, 20, 3, dtype=torch.float64)
    (permute_tokens(read.flatten(2).transpose(1, 2), order) * weights).sum().backward()
    expected = torch.zeros_like(weights)
    for b in range(2):
        expected[b, order.order[b]] = weights[b]
    assert torch.equal(x.grad.flatten(2).transpose(1, 2), expected)


@pytest.mark.parametrize('name', CONTENT)
def test_half_precision_maps_are_ordered_in_float32(name):
    x = make_map((16, 15)).bfloat16()
    scan = build_scan(name, None)
    assert torch.equal(scan(x)[1].order, scan.order(x.float()))


def test_content_dependent_scans_train_in_a_backbone():
    torch.manual_seed(0)
    model = DefMamba(ARCH, out_indices=1, scans=(*CONTENT, 'deformable'))
    model(torch.randn(2, 3, 32, 24))[-1].square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    counted = complexity(model, (3, 32, 24))
    static = complexity(DefMamba(ARCH, scans=('raster', 'raster', 'deformable'), out_indices=1), (3, 32, 24))
    assert (counted['params'], counted['scan_flops']) == (static['params'], static['scan_flops'])


def test_missing_scipy_is_reported_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, 'scipy.sparse', None)
    with pytest.raises(ImportError, match='the spanning_tree scan needs SciPy: pip install scipy'):
        build_scan('spanning_tree', None)(torch.zeros(1, 1, 2, 2))
