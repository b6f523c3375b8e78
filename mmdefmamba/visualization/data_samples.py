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


def draw_truth(visualizer, image, sample, **options):
    """Draw the ground truth of a data sample; arguments and result as of :func:`draw_truth_and_prediction`."""
    visualizer.add_datasample('case', image, sample, draw_gt=True, draw_pred=False, **options)
    return visualizer.get_image()


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
    truth = draw_truth(visualizer, image, sample, **options)
    visualizer.add_datasample('case', image, sample, draw_gt=False, draw_pred=True, **options)
    return [truth, visualizer.get_image()]
