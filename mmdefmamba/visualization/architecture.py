"""A picture of a network: its stages, a block, its state space model, its scan (DefMamba, figures 2 and 3)."""

from matplotlib.patches import FancyBboxPatch
from torch import nn

from ..scans import SCANS, DeformableScan
from .canvas import ACCENT, HEADING, LINE, QUIET, SECOND, panels, styled

WIDTH, HEIGHT = 11.0, 5.6  # of the figure, in inches; the boxes are placed in these units
#: What a box is: a layer, an operation of the scan, or something that is learned about where to look.
PLAIN, SCAN, LEARNED = '#F2F2F2', '#DCEAF5', '#FBE3D4'
BOX_HEIGHT = 0.62


@styled
def draw_architecture(backbone, image_size=(224, 224)):
    """Draw a DefMamba: sizes, numbers of blocks and scans are read from the network.

    Args:
        backbone: a :class:`~mmdefmamba.models.DefMamba`.
        image_size: (height, width) of the images for which the sizes of the maps are given.

    Returns:
        A matplotlib Figure.
    """
    figure, ((axis,),) = panels(1, 1, WIDTH, HEIGHT)
    axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect='equal')
    axis.set_axis_off()
    _draw_stages(axis, backbone, image_size)
    _draw_block(axis)
    _draw_dssm(axis, backbone)
    if any(isinstance(scan, DeformableScan) for scan in backbone.stages[0][0].dssm.scans):
        _draw_deformable(axis)
    return figure


def _draw_stages(axis, backbone, image_size):
    height, width = image_size
    texts = [(f'image\n{height} x {width}', PLAIN), ('stem\nstride 4', PLAIN)]
    height, width = -(-height // 4), -(-width // 4)
    for stage, (blocks, dims) in enumerate(zip(backbone.stages, backbone.embed_dims, strict=False)):
        if stage:
            height, width = -(-height // 2), -(-width // 2)
        count = f'{len(blocks)} DM block{"s" * (len(blocks) > 1)}'
        texts.append((f'stage {stage + 1}: {count}\n{height} x {width} x {dims}', SCAN))
    _title(axis, 0.1, 5.3, 'DefMamba', 'a smaller map before each stage but the first, by a convolution with stride 2')
    widths = [1.0, 0.9] + [(WIDTH - 0.2 - 1.9 - 0.3 * (len(texts) - 1)) / (len(texts) - 2)] * (len(texts) - 2)
    _row(axis, 0.1, 4.5, texts, widths, 0.3)


def _draw_block(axis):
    _title(axis, 0.1, 3.85, 'DM block')
    texts = [('LayerNorm', PLAIN), ('DSSM', SCAN), ('+', None), ('LayerNorm', PLAIN), ('FFN', PLAIN), ('+', None)]
    boxes = _row(axis, 0.45, 3.05, texts, [0.85, 0.65, 0.25, 0.85, 0.55, 0.25], 0.2)
    _arrow(axis, (0.1, 3.05), (boxes[0][0], 3.05))
    for first, last in ((0, 2), (3, 5)):  # the residual connections
        _bypass(axis, boxes[first][0] - 0.1, sum(boxes[last]) / 2, 3.05)


def _draw_dssm(axis, backbone):
    dssm = backbone.stages[0][0].dssm
    names = [scan_name(scan) for scan in dssm.scans]
    _title(axis, 5.2, 3.85, 'DSSM', f'{len(names)} scans, each with its own state space model')
    y, x = 3.05, 5.2
    conv = 'SiLU' if isinstance(dssm.conv, nn.Identity) else 'conv 3 x 3\nSiLU'
    texts = [('linear', PLAIN), (conv, PLAIN), ('\n'.join(names), SCAN), ('selective\nscans', SCAN)]
    texts += [('mean', PLAIN), ('x', None), ('linear', PLAIN)]
    widths = [0.58, 0.85, 1.22, 0.8, 0.55, 0.22, 0.58]
    tall = max(BOX_HEIGHT, 0.2 + 0.17 * len(names))
    boxes = _row(axis, x, y, texts, widths, 0.13, heights={2: tall})
    _bypass(axis, boxes[0][1] + 0.06, sum(boxes[5]) / 2, y, text='gate: SiLU', depth=max(0.62, tall / 2 + 0.2))


def _draw_deformable(axis):
    _title(axis, 0.1, 1.75, 'Deformable scan', 'where to read, and in which order, follows from the map itself')
    boxes = _row(axis, 0.1, 0.8, [('map', PLAIN), ('offset network', LEARNED)], [0.7, 1.25], 0.35)
    end = boxes[-1][1]
    for y, texts in (
        (
            1.15,
            [
                ('point offsets\n(2 per token)', LEARNED),
                ('read the map\nat these points', SCAN),
                ('+ offset bias', LEARNED),
            ],
        ),
        (0.35, [('index offsets\n(1 per token)', LEARNED), ('add to the index\nof the token', SCAN), ('sort', SCAN)]),
    ):
        row = _row(axis, end + 0.6, y, texts, [1.3, 1.45, 1.1], 0.3)
        _arrow(axis, (end, 0.8), (row[0][0], y))
        _arrow(axis, (row[-1][1], y), (row[-1][1] + 0.75, 0.75 + (y > 0.75) * 0.1 - 0.05))
    _box(axis, row[-1][1] + 0.75, 0.75, 1.6, 'a sequence of tokens\nto the selective scan', SCAN)


def scan_name(scan):
    """Return the registered name of a scan, such as 'raster'."""
    return next(name for name, kind in SCANS.module_dict.items() if kind is type(scan))


def _title(axis, x, y, title, text=''):
    shown = axis.text(x, y, title, fontsize=HEADING, fontweight='bold', va='center')
    if text:
        axis.annotate(
            text,
            (1, 0.5),
            xycoords=shown,
            xytext=(8, 0),
            textcoords='offset points',
            color=QUIET,
            va='center',
        )


def _row(axis, x, y, texts, widths, gap, heights=()):
    """Draw boxes from left to right with arrows between them; return (left, right) of each."""
    edges = []
    for i, ((text, colour), width) in enumerate(zip(texts, widths, strict=True)):
        if edges:
            _arrow(axis, (edges[-1][1], y), (x, y))
        _box(axis, x, y, width, text, colour, dict(heights).get(i, BOX_HEIGHT))
        edges.append((x, x + width))
        x += width + gap
    return edges


def _box(axis, x, y, width, text, colour, height=BOX_HEIGHT):
    if colour is None:  # an operator: a circle
        height = width
    rounding = width / 2 if colour is None else 0.08
    axis.add_patch(
        FancyBboxPatch(
            (x, y - height / 2),
            width,
            height,
            boxstyle=f'round,pad=0,rounding_size={rounding}',
            facecolor=colour or 'white',
            edgecolor=SECOND if colour == SCAN else ACCENT if colour == LEARNED else LINE,
        )
    )
    axis.text(x + width / 2, y, text, ha='center', va='center')


def _arrow(axis, start, end):
    axis.annotate('', end, start, arrowprops=dict(arrowstyle='->', color=QUIET, shrinkA=0, shrinkB=0, lw=1))


def _bypass(axis, start, end, y, text='', depth=0.55):
    """Draw a connection that leaves at ``start``, runs below the boxes of height ``y`` and ends below ``end``."""
    axis.plot([start, start, end], [y, y - depth, y - depth], color=QUIET, lw=1)
    _arrow(axis, (end, y - depth), (end, y - 0.12))
    if text:
        axis.text((start + end) / 2, y - depth - 0.04, text, ha='center', va='top')
