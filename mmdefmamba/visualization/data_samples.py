"""Pictures of the data samples of mmdet and mmseg."""

from mmengine.registry import VISUALIZERS

#: Least height of a name at a box, as a share of the picture's longer side. Reports show pictures of 330 to 800 pixels.
NAME_HEIGHT = 0.025


class _ReadableNames:
    """A visualizer whose texts have at least a height that can be read; mmdet's has 6 points for small boxes."""

    def draw_texts(self, texts, positions, font_sizes=None, **options):
        least = NAME_HEIGHT * max(self.width, self.height) * 72 / self.dpi  # points
        return super().draw_texts(texts, positions, font_sizes=max(font_sizes or 0, least), **options)


def build_visualizer(kind, name, dataset_meta, **options):
    """Build a visualizer of mmdet or mmseg without backends, so that it writes nothing. Its texts can be read.

    Args:
        kind: registered type.
        name: name of the visualizer.
        dataset_meta: classes and palette.
        **options: arguments of the visualizer.
    """
    kind = type('ReadableVisualizer', (_ReadableNames, VISUALIZERS.get(kind)), {})
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
