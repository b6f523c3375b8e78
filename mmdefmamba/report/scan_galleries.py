"""Where the deformable scans of a tested model look, and in which order, on the images of a report."""

from mmengine.dataset import pseudo_collate
from mmengine.model import BaseTTAModel, is_model_wrapper

from ..model_wrappers import plain_model
from ..models import DefMamba
from ..visualization import draw_points, draw_scan_order, figure_to_rgb, trace_blocks
from ..visualization.inputs import network_inputs
from .case_images import data_uri, shrink
from .metric import Case, Gallery, find_images, image_name

MOST_TOKENS = 32 * 32  # more arrows than that are not told apart
EACH = 2  # images of each of the report's groups


def scan_galleries(runner, cases):
    """Points and order of one stage on some of the worst and best images of a test.

    Args:
        runner: after its test; on one rank alone, no other has to take part.
        cases: the :class:`~mmdefmamba.report.metric.CaseMetric` of the test.

    Returns:
        A list of one :class:`~mmdefmamba.report.metric.Gallery`.
    """
    model = plain_model(runner.model)
    backbone = next((module for module in model.modules() if isinstance(module, DefMamba)), None)
    if backbone is None:
        return [Gallery('No scans', 'The model has no DefMamba backbone.', [])]
    records = [record for _, _, records in cases.groups() for record in records[:EACH]]
    places = find_images(cases.dataset, [record['key'] for record in records])
    drawn, trace = [], None
    for record in records:
        batch = pseudo_collate([cases.dataset[places[record['key']]]])
        if is_tta(runner.model):
            batch = {name: views[0] for name, views in batch.items()}
        inputs, (image,) = network_inputs(model, batch)
        _, traces = trace_blocks(backbone, inputs, state_space=False)
        trace = _readable(traces)
        figures = [] if trace.points is None else [('points: from each token to where it looks', draw_points)]
        figures.append(('order, first tokens to last, over the image and beside raster order', draw_scan_order))
        pictures = [(caption, data_uri(shrink(figure_to_rgb(draw(image, trace))))) for caption, draw in figures]
        drawn.append(Case(image_name(record['key']), '', pictures))
    if trace is None:
        return [Gallery('No scans', 'There is no image to look at.', [])]
    title = f'Stage {trace.stage + 1}, block {trace.block + 1}'
    note = (
        f'{trace.scans[trace.scan_index()]} scan, the first of {len(trace.scans)} if none is deformable. The earliest '
        f'stage whose maps have at most {MOST_TOKENS} tokens; images as the network is given them.'
    )
    return [Gallery(title, note, drawn)]


def is_tta(model):
    """Whether a runner's model merges the predictions of several views."""
    return isinstance(model.module if is_model_wrapper(model) else model, BaseTTAModel)


def _readable(traces):
    small = [trace for trace in traces if trace.map_size[0] * trace.map_size[1] <= MOST_TOKENS]
    small = small or traces[-1:]
    first = [trace for trace in small if trace.stage == small[0].stage]
    return next((trace for trace in first if trace.points is not None), first[0])
