"""What the page shows of a model and an image: computed here, without a browser."""

import math
import pickle
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from mmengine.device import get_device

from ..analysis.trace import find_backbone, trace_blocks
from ..apis.predictors import BAD_IMAGE, get_predictor
from ..visualization.animation import animate_scan
from ..visualization.enlarge import enlarge_image, zoom_for
from ..visualization.inputs import rgb_images
from ..visualization.points import token_offsets
from .pictures import draw_activation, draw_point_arrows
from .uploads import UploadError, prepare_digit

MODELS_IN_MEMORY = 3
# Tokens of a map; of more, none could be told from the next, or clicked on.
MAX_TOKENS = 4096
TOP = 5  # classes that are listed


@dataclass(frozen=True, eq=False)
class Analysis:
    """One image seen by one model.

    Attributes:
        model: name of the :class:`~mmdefmamba.app.trained_models.TrainedModel`.
        task: 'classification', 'detection' or 'segmentation'.
        picture: the prediction drawn, (height, width, 3), uint8, RGB.
        summary: the prediction in a few words.
        shares: pairs of class name and score or share of the pixels, of 1, the largest first; or of object and score.
        seen: the image as the network got it, (height, width, 3), uint8, RGB.
        traces: a :class:`~mmdefmamba.analysis.BlockTrace` of each block, by its label.
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
        """The prediction of a classifier, a name; None for the other tasks."""
        return self.shares[0][0] if self.task == 'classification' else None

    def describe_block(self, block):
        """The block's name on the page."""
        trace = self.traces[block]
        height, width = trace.map_size
        return f'Stage {trace.stage + 1}, block {trace.block + 1}: {height} x {width} tokens'

    def points(self, block):
        """Where the deformable scan reads, (height, width, 3), uint8, RGB; None where the block learns no points."""
        trace = self.traces[block]
        return None if trace.point_offset is None else draw_point_arrows(self.seen, trace)

    def animation(self, block, scan=None):
        """The order of a scan as an animated WebP, bytes."""
        trace = self.traces[block]
        return animate_scan(self.seen, trace.orders[trace.scan_index(scan)][0].numpy(), trace.map_size)

    def activation(self, block, token):
        """What a token, (row, column), receives through all scans; the picture's cells are the tokens, to click on."""
        return draw_activation(self.seen, self.traces[block], token)

    def centre(self, block):
        """The token in the middle of a block's map."""
        return tuple(side // 2 for side in self.traces[block].map_size)

    def neighbour(self, block, token, event):
        """The token that a visitor goes to.

        Args:
            block: label of the block.
            token: (row, column), where the visitor is.
            event: dict of ``x`` and ``y``, the place on the picture, of 1, or of ``step``, (rows, columns).

        Returns:
            (row, column); on the map, whatever the event says.
        """
        map_size = self.traces[block].map_size
        if 'step' in event:
            wanted = [place + int(step) for place, step in zip(token, event['step'], strict=True)]
        else:
            wanted = [math.floor(float(event[name]) * side) for name, side in zip('yx', map_size, strict=True)]
        return tuple(min(max(place, 0), side - 1) for place, side in zip(wanted, map_size, strict=True))

    def describe_points(self, block):
        """How far the points of a block have moved, in words."""
        length = token_offsets(self.traces[block])
        return f'moved by {length.mean():.2f} tokens on average, {length.max():.2f} at most.'


class Explorer:
    """Looks at images with trained models; safe to use from several threads, which take turns.

    Args:
        models: a list of :class:`~mmdefmamba.app.trained_models.TrainedModel`.
        device: where to run; None takes a GPU where there is one.
    """

    def __init__(self, models, device=None):
        self.models = {model.name: model for model in models}
        self.device = device or get_device()
        # one for all models: tracing and drawing are not thread-safe, nor are MMEngine's scopes
        self._lock = threading.Lock()
        self._predictors = OrderedDict()

    def is_of_digits(self, name):
        """Whether a model tells handwritten digits apart, so that a drawing can be made like its training images."""
        with self._lock:
            predictor = self._predictor(name)
            return predictor.task == 'classification' and predictor.classes == tuple('0123456789')

    def look(self, name, image, as_digit=False):
        """Predict an image and trace every block.

        Args:
            name: of a model.
            image: (height, width, 3), uint8, RGB.
            as_digit: make the image like scikit-learn's digits first, see
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
                data = model.data_preprocessor(predictor.prepare([np.ascontiguousarray(image[..., ::-1])]), False)
                stages = _drawable_stages(model, data['inputs'].shape[-2:])
                samples, traces = trace_blocks(model, **data, mode='predict', stages=stages)
                sample = samples[0].cpu()
                return Analysis(
                    model=name,
                    task=predictor.task,
                    picture=predictor.draw(image, sample) if predictor.task != 'classification' else _enlarged(image),
                    summary=predictor.summary(sample),
                    shares=_shares(predictor, sample),
                    seen=rgb_images(data['inputs'], model.data_preprocessor)[0],
                    # a detector may run its backbone more than once; the last time counts
                    traces={trace.label: trace for trace in traces},
                )
            except BAD_IMAGE as error:
                raise UploadError(f'The model cannot take this image: {error}') from error

    def load_all(self):
        """Load as many models as stay in memory, so that the first look is quick; those that cannot be are given up.

        Returns:
            The reasons by name of the models that were given up.
        """
        failed = {}
        with self._lock:
            for name in list(self.models)[:MODELS_IN_MEMORY]:
                try:
                    self._predictor(name)
                except (OSError, ValueError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
                    failed[name] = str(error)
                    del self.models[name]
        return failed

    def _predictor(self, name):
        if name not in self._predictors:
            model = self.models[name]
            if len(self._predictors) == MODELS_IN_MEMORY:
                self._predictors.popitem(last=False)
            self._predictors[name] = get_predictor(model.config, model.checkpoint, self.device)
        self._predictors.move_to_end(name)
        return self._predictors[name]


def _shares(predictor, sample):
    found = predictor.describe(sample)
    if predictor.task == 'detection':
        return [(item['class'], item['score']) for item in found['objects']]
    if predictor.task == 'segmentation':
        return list(found['shares'].items())
    pairs = enumerate(found['scores'])
    return [(predictor.name_of(label), score) for label, score in sorted(pairs, key=lambda pair: -pair[1])[:TOP]]


def _drawable_stages(model, image_size):
    """Stages of at most ``MAX_TOKENS`` tokens; the last in any case."""
    count = len(find_backbone(model).depths)
    tokens = [math.prod(-(-side // (4 * 2**stage)) for side in image_size) for stage in range(count)]
    return [stage for stage in range(count) if tokens[stage] <= MAX_TOKENS or stage == count - 1]


def _enlarged(image):
    return enlarge_image(image, zoom_for(*image.shape[:2]))
