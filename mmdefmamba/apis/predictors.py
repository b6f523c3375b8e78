"""Predictors: one interface to predict, describe and draw, based on the inferencers of the three libraries."""

import importlib

import cv2
import numpy as np
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DefaultScope

from ..analysis.trace import image_channels
from ..config_tree import innermost_dataset, library_of
from ..guards.image_size import MAX_PIXELS, check_resized
from ..visualization.enlarge import enlarge_image, enlarge_sample, shrink_image, shrink_sample, stride_for, zoom_for
from ..visualization.inputs import LOAD, ImageReader, image_pipeline
from .zoo import load_config, task_of

# The module of each task's predictor.
_MODULES = {'classification': 'classifier', 'detection': 'detector', 'segmentation': 'segmentor'}
# The errors that a bad image causes in the pipelines and networks of the three libraries.
BAD_IMAGE = (OSError, ValueError, RuntimeError, AssertionError, MemoryError, cv2.error)


class PlainCollate:
    """A mixin for inferencers that sets the collate function without MMEngine's search for it."""

    def _init_collate(self, cfg):
        # MMEngine searches a registry that the library does not have, warns, and then uses this function
        return pseudo_collate


class Predictor:
    """A trained model and its library's inferencer. There is one subclass per task.

    Args:
        cfg: Config of the model.
        checkpoint: path or URL of the checkpoint.
        device: device of the model, as for ``torch.nn.Module.to``.
        score_thr: objects with a lower score are neither described nor drawn; for detection only.
        max_pixels: the largest image that ``read`` decodes, in pixels; None for no limit.

    Attributes:
        task: 'classification', 'detection' or 'segmentation'.
        inferencer: the inferencer of the library.
        model: the model from :func:`~mmdefmamba.get_model`, in evaluation mode.
        read: the :class:`~mmdefmamba.visualization.inputs.ImageReader` of the config: ``read(path)`` returns an image
            for :meth:`predict`.
        any_sizes: whether images of different sizes can be in one batch without an effect on the predictions.
    """

    task = None
    any_sizes = False
    visualizer = None

    def __init__(self, cfg, checkpoint, device, score_thr=0.3, max_pixels=MAX_PIXELS):
        self.score_thr = score_thr

        # a backend of the config could write files, or send data to a server
        cfg.visualizer = dict(type=self.visualizer, vis_backends=[])
        cfg.default_scope = library_of(cfg)
        # the inferencers know one way to read files, by its name, and are given images that this reader has read
        self.read = ImageReader(cfg, max_pixels)
        dataset = innermost_dataset(cfg.test_dataloader.dataset)
        self._steps = image_pipeline(cfg)
        dataset.pipeline = [dict(type=LOAD), *self._steps]
        cfg.test_dataloader.dataset = dataset
        # building a model changes the default scope of the process
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            self.inferencer = self._build(cfg, checkpoint, device)
        self.model = self.inferencer.model

    @property
    def classes(self):
        """The names of the classes, a tuple; None if they are neither in the checkpoint nor in the config."""
        classes = self.model.dataset_meta.get('classes')
        return None if classes is None else tuple(classes)

    def name_of(self, label):
        """Return the name of a class, or its number as text if the names are unknown."""
        return str(label) if self.classes is None else self.classes[label]

    def from_picture(self, picture):
        """Convert a picture to an image for :meth:`predict`: BGR, or grey for a model of one channel.

        Args:
            picture: (height, width, 3), uint8, RGB.

        Raises:
            ValueError: the model takes images of another number of channels.
        """
        channels = image_channels(self.model)
        if channels not in (1, 3):
            raise ValueError(f'the model takes images of {channels} channels, a picture has 3 colours')
        if channels == 1:
            return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        return np.ascontiguousarray(picture[..., ::-1])

    def prepare(self, images):
        """Run the test pipeline of the config.

        Args:
            images: list of images as ``read`` reads them, (height, width[, channels]); three channels are BGR.

        Returns:
            The input of ``model.test_step``: a dict of inputs and data_samples.

        Raises:
            ValueError: the pipeline would make a far larger image of one of them, of gigabytes.
        """
        for image in images:
            check_resized(self._steps, *image.shape[:2])
        return next(iter(self.inferencer.preprocess(images, batch_size=len(images))))

    def predict(self, images):
        """Predict images.

        Args:
            images: as for :meth:`prepare`.

        Returns:
            A list with one data sample of the library per image, on the CPU, at the original size of the image.
        """
        return [self.finish(sample) for sample in self.inferencer.forward(self.prepare(images))]

    def finish(self, sample):
        """Return a data sample that the model gave for an input of :meth:`prepare`, on the CPU and at full size."""
        return sample.cpu()

    def describe(self, sample):
        """Return a prediction as a dict for JSON.

        Raises:
            ValueError: the prediction contains a number that is not finite.
        """
        raise NotImplementedError

    def summary(self, sample):
        """Describe a prediction in a few words."""
        raise NotImplementedError

    def draw(self, image, sample):
        """Draw a prediction on its image. A small image is enlarged, a large one is made smaller.

        Args:
            image: (height, width, 3) uint8, RGB.
            sample: the data sample from :meth:`predict`.

        Returns:
            (height * zoom, width * zoom, 3) uint8, RGB. A side has at most ``visualization.enlarge.MAX_DRAWN`` pixels.
        """
        stride = stride_for(*image.shape[:2])
        if stride > 1:
            sample = sample.clone()
            shrink_sample(sample, stride)
            image = shrink_image(image, stride)
        zoom = zoom_for(*image.shape[:2])
        if zoom > 1:
            sample = sample.clone()
            enlarge_sample(sample, zoom)
        return self._draw(enlarge_image(image, zoom), sample)

    def _build(self, cfg, checkpoint, device):
        raise NotImplementedError

    def _draw(self, image, sample):
        raise NotImplementedError


def get_predictor(name_or_config, checkpoint, device=None, score_thr=0.3, max_pixels=MAX_PIXELS):
    """Build the :class:`Predictor` for the task of a model.

    Args:
        name_or_config: as for :func:`~mmdefmamba.get_model`.
        checkpoint: path or URL of the checkpoint.
        device: device of the model; None takes a GPU if there is one.
        score_thr: objects with a lower score are neither described nor drawn.
        max_pixels: the largest image file that is decoded, in pixels; None for no limit.

    Raises:
        FileNotFoundError, ValueError, TypeError: as :func:`~mmdefmamba.get_model`.
    """
    cfg = load_config(name_or_config)
    # imported by name, so that only the library of this task is needed
    module = importlib.import_module(f'.{_MODULES[task_of(cfg)]}', __package__)
    return module.TaskPredictor(cfg, checkpoint, device or get_device(), score_thr, max_pixels)
