"""Classification with an exported file and mmpretrain's inferencer."""

from mmpretrain.apis import ImageClassificationInferencer
from mmpretrain.models import ClsDataPreprocessor, ClsHead
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.visualization import UniversalVisualizer

from .classifier import TaskPredictor
from .onnx_predictor import dataset_meta


class _ExportedClassifier(BaseClassifier):
    """What mmpretrain takes for a classifier: its network is an exported file."""

    def __init__(self, network, cfg):
        described = network.description
        super().__init__(
            data_preprocessor=ClsDataPreprocessor(
                mean=described['mean'], std=described['std'], to_rgb=described['to_rgb'], **described['preprocessor']
            )
        )
        self.network = network
        self.head = ClsHead()
        self.cfg, self.dataset_meta = cfg, dataset_meta(network)
        # the names that mmpretrain's inferencers read
        self._config, self._dataset_meta, self._metainfo = cfg, self.dataset_meta, None

    def forward(self, inputs, data_samples=None, mode='predict'):
        return self.head.predict((self.network(inputs),), data_samples)


class OnnxPredictor(TaskPredictor):
    """Predicts the class of an image with an exported file."""

    def _build(self, cfg, network, device):
        self._visualizer = UniversalVisualizer()
        return ImageClassificationInferencer(_ExportedClassifier(network, cfg).eval())
