"""The computations behind the page: what it shows of a model and an image. They need no browser."""

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from mmengine.device import get_device

from ..analysis.trace import find_backbone, trace_blocks
from ..apis.predictors import BAD_IMAGE, get_predictor
from ..files import shorten
from ..visualization import draw_activation_map_to_edge, draw_points_to_edge, figure_to_rgb
from ..visualization.animation import animate_scan
from ..visualization.enlarge import enlarge_image, zoom_for
from ..visualization.inputs import rgb_images
from ..visualization.points import token_offsets
from .uploads import UploadError, prepare_digit

MODELS_IN_MEMORY = 3
# A map with more tokens is not shown, because its tokens could not be distinguished or clicked.
MAX_TOKENS = 4096
TOP = 5  # number of listed classes


@dataclass(frozen=True, eq=False)
class Analysis:
    """The result of one model for one image.

    Attributes:
        model: name of the :class:`~mmdefmamba.app.trained_models.TrainedModel`.
        task: 'classification', 'detection' or 'segmentation'.
        picture: the image with the prediction, (height, width, 3), uint8, RGB.
        summary: the prediction in a few words.
        shares: pairs of a class name and a number from 0 to 1: the score of a class (classification) or of an object
            (detection; the name begins with the number of the box), or the share of the pixels (segmentation). The
            largest number is first.
        seen: the image that the network was given, (height, width, 3), uint8, RGB.
        traces: dict of label to the :class:`~mmdefmamba.analysis.BlockTrace` of a block.
    """

    model: str
    task: str
    picture: np.ndarray
    summary: str
    shares: list
    seen: np.ndarray
    traces: dict

    @property
    def verdict(self):
        """The class that a classifier predicts, a name; None for the other tasks."""
        return self.shares[0][0] if self.task == 'classification' else None

    def describe_block(self, block):
        """Return the name of a block on the page."""
        trace = self.traces[block]
        height, width = trace.map_size
        return f'Stage {trace.stage + 1}, block {trace.block + 1}: {height} x {width} tokens'

    def points(self, block):
        """Draw the points at which the deformable scan reads; None if the block does not learn points.

        Returns:
            (height, width, 3), uint8, RGB, or None.
        """
        trace = self.traces[block]
        return None if trace.point_offset is None else figure_to_rgb(draw_points_to_edge(self.seen, trace))

    def animation(self, block, scan=None):
        """Draw the order of a scan as an animated WebP, bytes."""
        trace = self.traces[block]
        return animate_scan(self.seen, trace.orders[trace.scan_index(scan)][0].numpy(), trace.map_size)

    def activation(self, block, token):
        """Draw the activation map of a token, (row, column). The cells of the picture are the tokens.

        Returns:
            (height, width, 3), uint8, RGB.
        """
        return figure_to_rgb(draw_activation_map_to_edge(self.seen, self.traces[block], token))

    def centre(self, block):
        """Return the token in the middle of a block's map, (row, column)."""
        return self.traces[block].centre

    def neighbour(self, block, token, event):
        """Return the token that a visitor selects.

        Args:
            block: label of the block.
            token: (row, column) of the token that is selected now.
            event: dict of ``x`` and ``y``, the clicked place from 0 to 1 along the picture, or of ``step``, the number
                of (rows, columns) to move.

        Returns:
            (row, column). A place outside the map gives the nearest token.
        """
        map_size = self.traces[block].map_size
        if 'step' in event:
            wanted = [place + int(step) for place, step in zip(token, event['step'], strict=True)]
        else:
            wanted = [math.floor(float(event[name]) * side) for name, side in zip('yx', map_size, strict=True)]
        return tuple(min(max(place, 0), side - 1) for place, side in zip(wanted, map_size, strict=True))

    def describe_points(self, block):
        """Describe in words how far the points of a block have moved."""
        length = token_offsets(self.traces[block])
        return f'moved by {length.mean():.2f} tokens on average, {length.max():.2f} at most.'


class Explorer:
    """Trained models that analyse images. Several threads can use it; they take turns.

    Args:
        models: a list of :class:`~mmdefmamba.app.trained_models.TrainedModel`.
        device: device of the models; None takes a GPU if there is one.
    """

    def __init__(self, models, device=None):
        self.models = {model.name: model for model in models}
        self.device = device or get_device()
        # one lock for all models, because tracing, drawing and MMEngine's scopes are not thread-safe
        self._lock = threading.Lock()
        self._predictors = OrderedDict()

    def is_of_digits(self, name):
        """Return whether a model classifies handwritten digits, so that a drawing can be converted for it."""
        with self._lock:
            predictor = self._predictor(name)
            return predictor.task == 'classification' and predictor.classes == tuple('0123456789')

    def look(self, name, image, as_digit=False):
        """Predict an image and trace every block.

        Args:
            name: name of a model.
            image: (height, width, 3), uint8, RGB.
            as_digit: whether to convert the image to the form of scikit-learn's digits first, see
                :func:`~mmdefmamba.app.uploads.prepare_digit`.

        Returns:
            An :class:`Analysis`.

        Raises:
            UploadError: the image cannot be used.
        """
        if as_digit:
            image = prepare_digit(image)
        with self._lock:
            predictor = self._predictor(name)
            model = predictor.model
            try:
                data = model.data_preprocessor(predictor.prepare([predictor.from_picture(image)]), False)
                stages = _drawable_stages(model, data['inputs'].shape[-2:])
                samples, traces = trace_blocks(model, **data, mode='predict', stages=stages)
                sample = predictor.finish(samples[0])
                return Analysis(
                    model=name,
                    task=predictor.task,
                    picture=predictor.draw(image, sample) if predictor.task != 'classification' else _enlarged(image),
                    summary=predictor.summary(sample),
                    shares=_shares(predictor, sample),
                    seen=rgb_images(data['inputs'], model.data_preprocessor)[0],
                    # a detector may run its backbone more than once; the last run is kept
                    traces={trace.label: trace for trace in traces},
                )
            except BAD_IMAGE as error:
                raise UploadError(f'The model cannot process this image: {error}') from error

    def load_all(self):
        """Load as many models as stay in memory, so that the first image is fast.

        A model that cannot be loaded is removed from ``models``.

        Returns:
            dict of the name of each removed model to the reason.
        """
        failed = {}
        with self._lock:
            for name in list(self.models):
                if len(self._predictors) == MODELS_IN_MEMORY:
                    break
                try:
                    self._predictor(name)
                except UploadError as error:
                    failed[name] = str(error.__cause__ or error)
                    del self.models[name]
        return failed

    def _predictor(self, name):
        if name not in self._predictors:
            model = self.models[name]
            try:
                self._predictors[name] = get_predictor(model.config, model.checkpoint, self.device)
                self._predictors[name].numbered = True
            except (Exception, SystemExit) as error:  # a config is a program, which can raise anything
                raise UploadError(f'The model {name} cannot be loaded: {shorten(error)}') from error
            if len(self._predictors) > MODELS_IN_MEMORY:
                self._predictors.popitem(last=False)
        self._predictors.move_to_end(name)
        return self._predictors[name]


def _shares(predictor, sample):
    found = predictor.describe(sample)
    if predictor.task == 'detection':
        # the numbers are those of the boxes in the picture
        return [(f'{i}: {item["class"]}', item['score']) for i, item in enumerate(found['objects'], 1)]
    if predictor.task == 'segmentation':
        return list(found['shares'].items())
    pairs = enumerate(found['scores'])
    return [(predictor.name_of(label), score) for label, score in sorted(pairs, key=lambda pair: -pair[1])[:TOP]]


def _drawable_stages(model, image_size):
    """Return the stages with at most ``MAX_TOKENS`` tokens, and in any case the last stage."""
    count = len(find_backbone(model).stages)
    tokens = [math.prod(-(-side // (4 * 2**stage)) for side in image_size) for stage in range(count)]
    return [stage for stage in range(count) if tokens[stage] <= MAX_TOKENS or stage == count - 1]


def _enlarged(image):
    return enlarge_image(image, zoom_for(*image.shape[:2]))
