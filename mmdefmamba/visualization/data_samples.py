"""Pictures of the data samples of mmdet and mmseg."""

from mmengine.registry import VISUALIZERS


def build_visualizer(kind, name, dataset_meta, **options):
    """Build a visualizer of mmdet or mmseg without backends, so that it writes nothing.

    Args:
        kind: registered type.
        name: name of the visualizer.
        dataset_meta: classes and palette.
        **options: arguments of the visualizer.
    """
    visualizer = VISUALIZERS.build(dict(type=kind, name=name, **options))
    visualizer.dataset_meta = dataset_meta
    return visualizer


def draw_truth_and_prediction(visualizer, image, sample, **options):
    """Draw the ground truth and the prediction of a data sample, each on its own copy of the image.

    Args:
        visualizer: a visualizer of mmdet or mmseg with ``dataset_meta``.
        image: RGB, (height, width, 3) uint8.
        sample: DetDataSample or SegDataSample of the same size.
        **options: for the visualizer's ``add_datasample``.

    Returns:
        Two RGB images: the ground truth and the prediction.
    """
    drawn = []
    for truth in (True, False):
        visualizer.add_datasample('case', image, sample, draw_gt=truth, draw_pred=not truth, **options)
        drawn.append(visualizer.get_image())
    return drawn
