"""One way to predict, describe and draw for all three tasks, on the inferencers of mmpretrain, mmdet and mmseg."""

import importlib

import cv2
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DefaultScope

from ..visualization.enlarge import enlarge_image, enlarge_sample, zoom_for
from .zoo import load_config, task_of

# The module of each task's predictor.
_MODULES = {'classification': 'classifier', 'detection': 'detector', 'segmentation': 'segmentor'}
# What a bad image raises in the pipelines and networks of the three libraries.
BAD_IMAGE = (OSError, ValueError, RuntimeError, AssertionError, cv2.error)


class PlainCollate:
    """Spares an inferencer MMEngine's search for its collate function."""

    def _init_collate(self, cfg):
        # MMEngine looks for one in a registry that the library does not have, warns, and takes this
        return pseudo_collate


class Predictor:
    """A trained model behind its library's inferencer; a subclass for each task.

    Args:
        cfg: Config of the model.
        checkpoint: path or URL.
        device: where to run, as for ``torch.nn.Module.to``.
        score_thr: objects of a lower score are neither described nor drawn; detection only.

    Attributes:
        task: 'classification', 'detection' or 'segmentation'.
        inferencer: the library's.
        model: in evaluation mode, from :func:`~mmdefmamba.get_model`.
        any_sizes: whether images of different sizes may share a batch without changing what is predicted.
    """

    task = None
    any_sizes = False
    visualizer = None

    def __init__(self, cfg, checkpoint, device, score_thr=0.3):
        self.score_thr = score_thr

        # no backends: a config may name one that writes here, or sends away
        cfg.visualizer = dict(type=self.visualizer, vis_backends=[])
        # what builds a model leaves its library's scope behind for the whole process
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            self.inferencer = self._build(cfg, checkpoint, device)
        self.model = self.inferencer.model

    @property
    def classes(self):
        """Names of the classes, a tuple; None where neither checkpoint nor config know them."""
        classes = self.model.dataset_meta.get('classes')
        return None if classes is None else tuple(classes)

    def name_of(self, label):
        """Name of a class, its number where names are unknown."""
        return str(label) if self.classes is None else self.classes[label]

    def prepare(self, images):
        """Run the config's test pipeline.

        Args:
            images: list of (height, width, 3) uint8, BGR.

        Returns:
            What ``model.test_step`` takes: a dict of inputs and data_samples.
        """
        return next(iter(self.inferencer.preprocess(images, batch_size=len(images))))

    def predict(self, images):
        """Predict.

        Args:
            images: list of (height, width, 3) uint8, BGR.

        Returns:
            A data sample of the library for each image, on the CPU, at the image's own size.
        """
        return [sample.cpu() for sample in self.inferencer.forward(self.prepare(images))]

    def describe(self, sample):
        """What was predicted, as a dict for JSON.

        Raises:
            ValueError: the prediction is not a number.
        """
        raise NotImplementedError

    def summary(self, sample):
        """What was predicted, in a few words."""
        raise NotImplementedError

    def draw(self, image, sample):
        """Draw a prediction on its image; small images are enlarged.

        Args:
            image: (height, width, 3) uint8, RGB.
            sample: as :meth:`predict` returns it.

        Returns:
            (height * zoom, width * zoom, 3) uint8, RGB.
        """
        zoom = zoom_for(*image.shape[:2])
        if zoom > 1:
            sample = sample.clone()
            enlarge_sample(sample, zoom)
        return self._draw(enlarge_image(image, zoom), sample)

    def _build(self, cfg, checkpoint, device):
        raise NotImplementedError

    def _draw(self, image, sample):
        raise NotImplementedError


def get_predictor(name_or_config, checkpoint, device=None, score_thr=0.3):
    """The :class:`Predictor` of a model's task.

    Args:
        name_or_config: as for :func:`~mmdefmamba.get_model`.
        checkpoint: path or URL.
        device: where to run; None takes a GPU where there is one.
        score_thr: objects of a lower score are neither described nor drawn.

    Raises:
        FileNotFoundError, ValueError, TypeError: as :func:`~mmdefmamba.get_model`.
    """
    cfg = load_config(name_or_config)
    # a library is imported only where its task is asked for
    module = importlib.import_module(f'.{_MODULES[task_of(cfg)]}', __package__)
    return module.TaskPredictor(cfg, checkpoint, device or get_device(), score_thr)
