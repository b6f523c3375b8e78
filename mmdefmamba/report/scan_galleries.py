"""The points and the scan orders of a tested model on images of the report."""

from mmengine.dataset import pseudo_collate
from mmengine.model import BaseTTAModel, is_model_wrapper

from ..analysis.trace import find_backbone
from ..model_wrappers import plain_model
from ..visualization import draw_points, draw_scan_order, figure_to_rgb, trace_blocks
from ..visualization.canvas import DPI
from ..visualization.inputs import network_inputs
from .case_images import data_uri
from .metric import Case, Gallery, draw_or_name_error, find_images, image_name

MOST_TOKENS = 32 * 32  # more arrows than this could not be distinguished
EACH = 2  # images per group of the report


def scan_galleries(runner, cases):
    """Draw points and order of one stage on some images of each group of the report.

    Args:
        runner: the runner after its test. One rank is enough, because the other ranks take no part.
        cases: the :class:`~mmdefmamba.report.metric.CaseMetric` of the test.

    Returns:
        A list of one :class:`~mmdefmamba.report.metric.Gallery`.
    """
    model = plain_model(runner.model)
    backbone = find_backbone(model, required=False)
    if backbone is None:
        return [Gallery('No scans', 'The model has no DefMamba backbone.', [])]
    records = [record for _, _, records in cases.groups() for record in records[:EACH]]
    places = find_images(cases.dataset, [record['key'] for record in records])
    traced = []

    def draw(record):
        batch = pseudo_collate([cases.dataset[places[record['key']]]])
        if is_tta(runner.model):
            batch = {name: views[0] for name, views in batch.items()}
        inputs, (image,) = network_inputs(model, batch)
        _, traces = trace_blocks(backbone, inputs, state_space=False)
        trace = _readable(traces)
        traced.append(trace)
        figures = {'scan order, over the image and next to the raster order': draw_scan_order(image, trace, columns=2)}
        if trace.points is not None:
            points = draw_points(image, trace, with_image=False)
            figures = {'points: from each token to the point that is read': points, **figures}
        return Case(image_name(record['key']), '', [(name, _sharp(figure)) for name, figure in figures.items()])

    drawn = [draw_or_name_error(draw, record) for record in records]
    if not traced:
        return [Gallery('No scans', '' if drawn else 'The report shows no images.', drawn)]
    trace = traced[-1]
    title = f'Stage {trace.stage + 1}, block {trace.block + 1}'
    note = (
        f'Scan: {trace.scans[trace.scan_index()]}, one of {len(trace.scans)}. This is the earliest stage whose maps '
        f'have at most {MOST_TOKENS} tokens. The images are those that the network was given.'
    )
    return [Gallery(title, note, drawn)]


def _sharp(figure):
    """Return a figure as a data URI, with two pixels for each one of the page, as good screens have them."""
    figure.set_dpi(2 * DPI)
    picture = figure_to_rgb(figure)
    return data_uri(picture)


def is_tta(model):
    """Return whether a runner's model merges the predictions of several views."""
    return isinstance(model.module if is_model_wrapper(model) else model, BaseTTAModel)


def _readable(traces):
    """Choose a block of the earliest stage with few enough tokens, one that learns points if there is one."""
    small = [trace for trace in traces if trace.map_size[0] * trace.map_size[1] <= MOST_TOKENS]
    small = small or traces[-1:]
    first = [trace for trace in small if trace.stage == small[0].stage]
    return next((trace for trace in first if trace.points is not None), first[0])
