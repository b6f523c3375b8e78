import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import rc_context
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.quiver import Quiver
from matplotlib.text import Text

from mmdefmamba import visualization
from mmdefmamba.analysis import activation_map, activation_maps, offset_statistics, trace_blocks
from mmdefmamba.models import DefMamba
from mmdefmamba.scans import SCANS, ContentScan, ScanContext, StaticScan, build_scan
from mmdefmamba.visualization import (
    canvas,
    draw_activation_map,
    draw_activation_map_to_edge,
    draw_activation_maps,
    draw_architecture,
    draw_digits,
    draw_limitation_cases,
    draw_offset_statistics,
    draw_points,
    draw_points_to_edge,
    draw_receptive_fields,
    draw_scan_order,
    draw_static_scans,
    figure_to_rgb,
    limitation_cases,
)
from mmdefmamba.visualization.ablation_figure import draw_runs
from mmdefmamba.visualization.formulation_figures import draw_distances, draw_reads

SIZE = (20, 28)


def network(scans=('raster', 'raster_reverse', 'deformable'), **options):
    torch.manual_seed(0)
    return DefMamba({'embed_dims': (8, 16), 'depths': (1, 1)}, scans=scans, out_indices=-1, **options).eval()


@pytest.fixture(scope='module')
def traces():
    torch.manual_seed(1)
    return trace_blocks(network(), torch.randn(2, 3, *SIZE))[1]


@pytest.fixture(scope='module')
def image():
    return np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)


def is_drawn(figure):
    """Return whether every panel has more than one colour."""
    picture = figure_to_rgb(figure)
    height = picture.shape[0]
    for axis in figure.axes:
        box = axis.get_window_extent()
        panel = picture[height - int(box.y1) : height - int(box.y0), int(box.x0) : int(box.x1)]
        assert len(np.unique(panel.reshape(-1, 3), axis=0)) > 3
    return True


def arrows(axis):
    (quiver,) = (artist for artist in axis.collections if isinstance(artist, Quiver))
    return quiver.XY, np.stack([quiver.U, quiver.V], axis=-1)


def paths(axis):
    return [artist for artist in axis.collections if isinstance(artist, LineCollection)]


def test_arrows_go_from_reference_to_point(traces, image):
    # a map of 5 x 7 over 20 x 28 pixels: cells of 4 x 4
    offset = torch.zeros(2, 5, 7, 2)
    offset[1, 2, 3] = torch.tensor([0.1, -0.15])
    trace = replace(traces[0], point_offset=offset)
    assert trace.map_size == (5, 7)
    start, length = arrows(draw_points(image, trace).axes[1])
    assert np.allclose(length, 0)
    figure = draw_points(image, trace, index=1)
    start, length = arrows(figure.axes[1])
    token = 2 * 7 + 3
    np.testing.assert_allclose(start[token], [3 * 4 + 1.5, 2 * 4 + 1.5], atol=1e-5)
    # tokens: x -0.15 * (7 - 1) / 2, y 0.1 * (5 - 1) / 2, each of 4 pixels
    np.testing.assert_allclose(length[token], [-0.45 * 4, 0.2 * 4], atol=1e-5)
    assert np.allclose(np.delete(length, token, axis=0), 0, atol=1e-5)
    assert 'moved by 0.01 tokens (most: 0.49)' in figure.axes[1].get_title()
    assert is_drawn(figure)


def test_zoom_enlarges_a_window(traces, image):
    figure = draw_points(image, traces[0], zoom=(1, 2, 3, 2))
    assert figure.axes[2].get_xlim() == (2 * 4 - 0.5, 4 * 4 - 0.5)
    assert figure.axes[2].get_ylim() == (4 * 4 - 0.5, 1 * 4 - 0.5)
    assert is_drawn(figure)
    for zoom in ((3, 0, 3, 1), (0, 0, 0, 1), (-1, 0, 2, 2)):
        with pytest.raises(ValueError, match=r'zoom must be .* on a map of 5 x 7 tokens'):
            draw_points(image, traces[0], zoom=zoom)


def test_pictures_to_the_edge_have_the_image_as_their_only_panel(traces, image):
    # 28 pixels become 480: a cell of 4 x 4 pixels is 480 / 7 wide
    for figure in (draw_points_to_edge(image, traces[0], 1), draw_activation_map_to_edge(image, traces[0], (2, -1), 1)):
        picture, (axis,) = figure_to_rgb(figure), figure.axes
        assert picture.shape == (480 * 20 // 28, 480, 3)
        assert (axis.get_xlim(), axis.get_ylim()) == ((-0.5, 27.5), (19.5, -0.5))
        assert axis.get_position().bounds == (0, 0, 1, 1)
        assert is_drawn(figure)
    start, length = arrows(draw_points_to_edge(image, traces[0], 1).axes[0])
    start_framed, length_framed = arrows(draw_points(image, traces[0], 1).axes[1])
    assert np.array_equal(start, start_framed) and np.array_equal(length, length_framed)
    values = activation_map(traces[0], (2, -1), 1)
    np.testing.assert_allclose(axis.get_images()[1].get_array(), values / values.max(), rtol=1e-6)
    # the grid between 5 x 7 tokens, then the dot on the token
    *grid, dot = axis.lines
    assert len(grid) == 4 + 6
    assert np.allclose(dot.get_xydata(), [[6 * 4 + 1.5, 2 * 4 + 1.5]])


def test_released_points_start_half_a_pixel_off(image):
    _, (trace, _) = trace_blocks(network(formulation='released'), torch.zeros(1, 3, *SIZE), state_space=False)
    start, _ = arrows(draw_points(image, trace).axes[1])
    np.testing.assert_allclose(start[0], [0.5 * 4 + 1.5, 0.5 * 4 + 1.5], atol=1e-5)


def test_block_without_points_is_refused(image):
    _, (trace, _) = trace_blocks(network(['raster']), torch.zeros(1, 3, *SIZE))
    with pytest.raises(ValueError, match=r'stages\.0\.0 learns no points: its scans are raster'):
        draw_points(image, trace)
    with pytest.raises(ValueError, match=r'stages\.0\.0 learns no points'):
        draw_points_to_edge(image, trace)
    with pytest.raises(ValueError, match=r'stages\.0\.0 must have learned points for 1 images'):
        draw_limitation_cases({'a': image}, trace)
    with pytest.raises(ValueError, match='scan must be one of'):
        draw_digits([image[..., 0]], [1], [1], trace)


@pytest.mark.parametrize('scan', [None, 'raster_reverse'])
def test_the_heat_map_holds_the_ranks(traces, image, scan):
    figure = draw_scan_order(image, traces[0], 1, scan)
    assert np.array_equal(figure.axes[3].get_images()[0].get_array(), traces[0].ranks(1, scan))
    raster, learned = (paths(figure.axes[i])[0].get_segments() for i in (1, 2))
    places = np.array([[c * 4 + 1.5, r * 4 + 1.5] for r in range(5) for c in range(7)])
    assert np.allclose([segment[0] for segment in raster], places[:-1])
    order = traces[0].orders[traces[0].scan_index(scan)][1].numpy()
    assert np.allclose([segment[0] for segment in learned], places[order[:-1]])
    assert np.allclose([segment[1] for segment in learned], places[order[1:]])
    assert is_drawn(figure)


def test_activation_maps_are_relative_to_their_maximum(traces, image):
    figure = draw_activation_map(image, traces[0], (2, -1), 1)
    expected = [activation_map(traces[0], (2, 6), 1, scan) for scan in (None, 0, 1, 2)]
    for axis, values in zip(figure.axes[1:5], expected, strict=True):
        np.testing.assert_allclose(axis.get_images()[1].get_array(), values / values.max(), rtol=1e-6)
    assert [axis.get_title() for axis in figure.axes[1:5]] == ['all scans', *traces[0].scans]
    # the centre of the token, x then y
    assert np.allclose([line.get_xydata() for line in figure.axes[2].lines], [[[6 * 4 + 1.5, 2 * 4 + 1.5]]])
    assert is_drawn(figure)


def test_activation_maps_of_tokens_share_one_scale(traces, image):
    tokens = [(0, 0), (2, -1), (4, 3), (1, 1)]
    activation = activation_maps(traces[0], tokens, image=1)
    figure = draw_activation_maps(image, activation)
    first, *panels = figure.axes[:5]
    most = max(activation_map(traces[0], token, 1).max() for token in tokens)
    marks = [[0, 0], [2, 6], [4, 3], [1, 1]]
    for axis, token, mark in zip(panels, tokens, marks, strict=True):
        shown = axis.get_images()[1]
        np.testing.assert_allclose(shown.get_array(), activation_map(traces[0], token, 1) / most, rtol=1e-6)
        assert (shown.norm.vmin, shown.norm.vmax) == (0, 1)
        assert np.allclose([line.get_xydata() for line in axis.lines], [[[mark[1] * 4 + 1.5, mark[0] * 4 + 1.5]]])
    # the image has a dot for each token, in the colour of the token's panel
    assert [line.get_color() for line in first.lines] == [axis.lines[0].get_color() for axis in panels]
    assert len({line.get_color() for line in first.lines}) == 4
    assert np.allclose([line.get_xydata()[0] for line in first.lines], [[c * 4 + 1.5, r * 4 + 1.5] for r, c in marks])
    assert [text.get_text() for text in first.texts] == ['1', '2', '3', '4']
    assert [axis.get_title() for axis in figure.axes[:3]] == ['stages.0.0', '1: token (0, 0)', '2: token (2, 6)']
    assert (figure_to_rgb(figure) != 255).any()


def test_every_registered_static_scan_is_drawn():
    figure = draw_static_scans((5, 7))
    static = {name for name, cls in SCANS.module_dict.items() if issubclass(cls, StaticScan)}
    titles = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert set(titles) == static
    assert {'raster', 'hilbert', 'local', 'zigzag'} <= static
    for name, axis in titles.items():
        scan = build_scan(name, ScanContext(8))
        order = scan.order(5, 7).flip(0) if scan.reverse else scan.order(5, 7)
        (path,) = paths(axis)
        visited = [segment[0] for segment in path.get_segments()] + [path.get_segments()[-1][1]]
        assert np.allclose(visited, [[place % 7, place // 7] for place in order.tolist()]), name
    figure_to_rgb(figure)


def test_scans_of_features_are_drawn_over_an_image(image):
    figure = draw_static_scans((5, 7), image=image)
    content = {name for name, cls in SCANS.module_dict.items() if issubclass(cls, ContentScan)}
    assert content <= {axis.get_title() for axis in figure.axes}
    figure = draw_static_scans((5, 7), [dict(type='local', window=2), 'quadtree'], image)
    assert [axis.get_title() for axis in figure.axes[:2]] == ['local, window=2', 'quadtree']
    with pytest.raises(ValueError, match="'quadtree' follows the features: give an image"):
        draw_static_scans((5, 7), ['quadtree'])
    with pytest.raises(ValueError, match="'deformable' is learned"):
        draw_static_scans((5, 7), ['deformable'])
    with pytest.raises(ValueError, match="unknown scan 'hilbrt', did you mean 'hilbert'"):
        draw_static_scans((5, 7), ['hilbrt'])


def test_receptive_fields_share_a_logarithmic_scale():
    fields = {'before training': torch.eye(4), 'after training': torch.full((4, 4), 2.0)}
    figure = draw_receptive_fields(fields)
    before, after = (axis.get_images()[0].get_array() for axis in figure.axes[:2])
    np.testing.assert_allclose(before, 4 * np.eye(4) - 4, atol=1e-6)
    np.testing.assert_allclose(after, np.zeros((4, 4)))
    assert figure.axes[0].get_title() == 'before training\n50 % within 12.5%,\n90 % within 25.0% of the pixels'
    figure_to_rgb(figure)


def test_offset_statistics_have_one_column_per_stage(traces):
    statistics = offset_statistics(network(), torch.randn(2, 3, *SIZE))
    figure = draw_offset_statistics(statistics)
    for axis, block in zip(figure.axes[:2], statistics, strict=True):
        share = axis.get_images()[0].get_array()
        np.testing.assert_allclose(share, block.offset_counts / block.tokens, rtol=1e-6)
    labels = [text.get_text() for axis in figure.axes[2:] for text in axis.get_legend().get_texts()]
    assert labels == [f'block 0: {block.shift:.1%}' for block in statistics]
    assert is_drawn(figure)
    without = offset_statistics(network(['raster']), torch.zeros(1, 3, 8, 8))
    assert 'learns no points' in [text.get_text() for text in draw_offset_statistics(without).axes[0].texts]


def test_limitation_cases_are_a_part_and_a_pattern():
    image = np.zeros((120, 180, 3), np.uint8)
    image[60:, 90:] = 200
    whole, part, pattern = limitation_cases(image).values()
    assert np.array_equal(whole, image)
    assert part.shape == pattern.shape == image.shape
    assert (part == 200).all()
    tile = pattern[:40, :60]
    assert (pattern == np.tile(tile, (3, 3, 1))).all()
    assert (tile[0, 0] == 0).all()
    assert (tile[-1, -1] == 200).all()
    assert {case.shape for case in limitation_cases(image[:40, :12, 0]).values()} == {(320, 96)}
    for options, message in (({'part': 1}, 'part must be'), ({'tiles': 1}, 'tiles must be')):
        with pytest.raises(ValueError, match=message):
            limitation_cases(image, **options)


def test_limitation_cases_are_drawn_one_per_row(traces, image):
    figure = draw_limitation_cases({'first': image, 'second': image}, traces[0])
    axes = np.array(figure.axes).reshape(2, 4)
    for i, name in enumerate(('first', 'second')):
        assert axes[i, 0].get_title() == name
        assert np.array_equal(axes[i, 3].get_images()[0].get_array(), traces[0].ranks(i))
        offset = traces[0].point_offset[i].flatten(0, 1) * torch.tensor([2.0, 3.0])  # in tokens
        assert f'moved by {offset.norm(dim=-1).mean():.2f} tokens' in axes[i, 1].get_title()
    assert is_drawn(figure)


@pytest.mark.parametrize('size', [(1, 1), (1, 40), (33, 3)])
def test_every_image_size_is_drawn(size):
    _, (trace, _) = trace_blocks(network(), torch.zeros(1, 3, *size))
    image = np.full(size, 100, np.uint8)
    for figure in (draw_points(image, trace), draw_scan_order(image, trace), draw_activation_map(image, trace, (0, 0))):
        assert is_drawn(figure)


def test_digits_are_drawn_with_their_orders(traces):
    figure = draw_digits(np.zeros((2, 8, 8), np.uint8), [3, 4], [3, 5], traces[0])
    assert [axis.get_title() for axis in figure.axes[:2]] == ['3', '5, is 4']
    for i in range(2):
        assert np.array_equal(figure.axes[2 + i].get_images()[0].get_array(), traces[0].ranks(i))
    figure_to_rgb(figure)


def test_ablation_has_one_panel_per_metric_and_one_dot_per_run():
    results = {'a': [{'top1': 97.0, 'top5': 1.0}, {'top1': 99.0, 'top5': 2.0}], 'b': [{'top1': 50.0, 'top5': 3.0}]}
    figure = draw_runs(results, ['top1', 'top5'])
    assert [axis.get_xlabel() for axis in figure.axes] == [
        f'{name}: each seed, and the mean' for name in ('top1', 'top5')
    ]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ['a', 'b']
    drawn = [line.get_xydata().tolist() for line in figure.axes[0].lines]
    assert drawn == [[[97, 0], [99, 0]], [[98, 0]], [[50, 1]], [[50, 1]]]
    assert is_drawn(figure)


def test_reads_of_both_formulations_are_drawn_side_by_side():
    inside = {'paper': torch.ones(3, 4), 'released': torch.full((3, 4), 0.5)}
    entries = {'paper': torch.eye(14, dtype=torch.bool), 'released': torch.eye(7, dtype=torch.bool)}
    figure = draw_reads(inside, entries, (14, 12))
    for axis, values in zip(figure.axes[:4], (*inside.values(), *entries.values()), strict=True):
        assert np.array_equal(axis.get_images()[0].get_array(), values)
    assert [axis.get_title().split('\n')[1] for axis in figure.axes[1:3]] == [
        'is inside a 3 x 4 map, no offset',
        'table ever read, 14 x 12 map',
    ]


def test_distances_have_one_panel_per_network_and_one_bar_per_stage():
    measured = {'first': {'offset range': [0.1, 0.2], 'all five': [0.3, 0.4]}, 'second': {'offset range': [0.5, 0.6]}}
    figure = draw_distances(measured)
    assert [axis.get_title() for axis in figure.axes] == ['first', 'second']
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.1, 0.2, 0.3, 0.4]
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0.5, 0.6]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['offset range', 'all five']
    figure_to_rgb(figure)


def outside(figure):
    """Return the texts of a figure that do not lie within its canvas."""
    figure_to_rgb(figure)
    renderer, (width, height) = figure.canvas.get_renderer(), figure.canvas.get_width_height()
    ticks = {tick for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks()}
    shown = [axes for axes in figure.axes if axes.axison]
    drawn = {tick for axes in shown for axis in (axes.xaxis, axes.yaxis) for tick in axis._update_ticks()}
    hidden = {label for tick in ticks - drawn for label in (tick.label1, tick.label2)}  # beyond the limits of an axis
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    texts = [text for text in texts if text not in hidden]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    return [text for text, box in boxes if min(box.x0, box.y0) < 0 or box.x1 > width or box.y1 > height]


def all_figures(size):
    """Return one figure of each drawing function for images of a size, (height, width): a dict of name to figures."""
    torch.manual_seed(0)
    model = network()
    traces = trace_blocks(model, torch.randn(2, 3, *size), state_space=True)[1]
    image, trace = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8), traces[0]
    runs = {'a config with a long name': [{'top-1': 1.0}], 'b': [{'top-1': 2.0}]}
    distances = {name: {f'a point of difference {i}': [1e-3, 0.2] for i in range(10)} for name in ('one', 'other')}
    return {
        'draw_activation_map': [draw_activation_map(image, trace, (0, 0))],
        'draw_activation_map_to_edge': [draw_activation_map_to_edge(image, trace, (0, 0))],
        'draw_activation_maps': [draw_activation_maps(image, activation_maps(trace, [(0, 0), (1, 1), (2, 2)]))],
        'draw_architecture': [draw_architecture(model)],
        'draw_digits': [draw_digits(np.zeros((2, 8, 8), np.uint8), [3, 4], [3, 5], trace)],
        'draw_distances': [draw_distances(distances)],
        'draw_limitation_cases': [draw_limitation_cases({'whole': image, 'a regular pattern of it': image}, trace)],
        'draw_offset_statistics': [
            draw_offset_statistics(offset_statistics(model, torch.randn(2, 3, *size))),
            draw_offset_statistics(offset_statistics(network(['raster']), torch.randn(2, 3, *size))),
        ],
        'draw_points': [
            draw_points(image, trace),
            draw_points(image, trace, with_image=False),
            draw_points(image, trace, zoom=(0, 0, 2, 2)),
        ],
        'draw_points_to_edge': [draw_points_to_edge(image, trace)],
        'draw_reads': [draw_reads({'released': torch.rand(56, 56)}, {'paper': torch.eye(56).bool()}, (56, 56))],
        'draw_receptive_fields': [draw_receptive_fields({'before': torch.rand(size), 'after': torch.rand(size)})],
        'draw_runs': [draw_runs(runs, ['top-1'])],
        'draw_scan_order': [draw_scan_order(image, trace), draw_scan_order(image, trace, columns=2)],
        'draw_static_scans': [draw_static_scans((8, 8), image=image), draw_static_scans((3, 9))],
    }


def drawing_functions():
    """Return the names of all drawing functions of the package."""
    modules = Path(visualization.__file__).parent.glob('*.py')
    names = {name for path in modules for name in re.findall(r'^def (draw_\w+)', path.read_text(), re.MULTILINE)}
    # these draw on an axis, or a data sample by a visualizer of mmdet or mmseg
    return names - {'draw_path', 'draw_arrows', 'draw_truth', 'draw_truth_and_prediction'}


@pytest.fixture(scope='module', params=[(64, 16), (72, 72)], ids=str)
def figures(request):
    with rc_context({'font.size': 30, 'axes.titlesize': 'xx-large', 'font.family': 'monospace'}):  # of a user
        return all_figures(request.param)


def test_no_text_of_any_figure_is_cut_off(figures):
    assert set(figures) == drawing_functions()
    assert {name: [outside(figure) for figure in drawn] for name, drawn in figures.items()} == {
        name: [[]] * len(drawn) for name, drawn in figures.items()
    }


def test_all_figures_have_one_look(figures):
    for name, drawn in figures.items():
        for text in [text for figure in drawn for text in figure.findobj(Text) if text.get_text().strip()]:
            assert text.get_fontsize() in (canvas.HEADING, canvas.TEXT, canvas.SMALL), (name, text.get_text())
            assert text.get_fontfamily() == ['DejaVu Sans'], (name, text.get_text())
        lines = [line for figure in drawn for axis in figure.axes for line in axis.lines]
        colours = {to_hex(line.get_color()).upper() for line in lines}
        assert colours <= {*canvas.PALETTE, canvas.LINE, canvas.QUIET, '#FFFFFF', '#404040'}, name


def test_titles_of_neighbours_do_not_overlap(figures):
    for name in ('draw_scan_order', 'draw_points', 'draw_limitation_cases', 'draw_activation_map', 'draw_digits'):
        for figure in figures[name]:
            figure_to_rgb(figure)
            renderer = figure.canvas.get_renderer()
            boxes = [axis.title.get_window_extent(renderer) for axis in figure.axes if axis.get_title()]
            assert [i for i, box in enumerate(boxes) if box.count_overlaps(boxes) > 1] == [], name


def test_a_large_map_has_the_arrows_of_some_tokens_enlarged():
    trace = trace_blocks(network(), torch.randn(1, 3, 160, 160))[1][0]
    assert trace.map_size == (40, 40)
    image = np.zeros((160, 160, 3), np.uint8)
    offset = torch.zeros(1, 40, 40, 2)
    offset[0, 4, 7] = torch.tensor([0.01, -0.02])  # rows and columns 1, 4, 7, ... of the map are drawn
    figure = draw_points(image, replace(trace, point_offset=offset))
    start, length = arrows(figure.axes[1])
    assert len(start) == 13**2
    (moved,) = np.flatnonzero(length.any(1))
    np.testing.assert_allclose(start[moved], [7 * 4 + 1.5, 4 * 4 + 1.5], atol=1e-4)
    np.testing.assert_allclose(length[moved], 3 * np.array([-0.02, 0.01]) * 39 / 2 * 4, rtol=1e-4)
    assert 'points of every 3rd token, 3 times as far' in figure.axes[1].get_title()


def test_dots_of_two_configs_lie_within_the_panel():
    figure = draw_runs({'first': [{'top-1': 1.0}, {'top-1': 2.0}], 'second': [{'top-1': 3.0}]}, ['top-1'])
    bottom, top = figure.axes[0].get_ylim()
    assert (bottom, top) == (1.5, -0.5)


def test_architecture_is_read_from_the_network():
    figure = draw_architecture(DefMamba('small'))
    assert outside(figure) == []
    texts = {text.get_text() for text in figure.findobj(Text)}
    # table 6 of the paper: 96 channels at a quarter of 224 pixels, blocks 2, 2, 6, 2
    assert {'stage 1: 2 DM blocks\n56 x 56 x 96', 'stage 3: 6 DM blocks\n14 x 14 x 384'} < texts
    assert {'raster\nraster_reverse\ndeformable', 'offset network', 'conv 3 x 3\nSiLU'} < texts
    # an odd size is rounded up, and what a network lacks is not drawn
    texts = {text.get_text() for text in draw_architecture(network(('raster',), dw_conv=False), (30, 20)).findobj(Text)}
    assert {'stage 1: 1 DM block\n8 x 5 x 8', 'stage 2: 1 DM block\n4 x 3 x 16', 'raster', 'SiLU'} < texts
    assert not {'offset network', 'conv 3 x 3\nSiLU'} & texts
