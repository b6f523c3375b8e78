"""Segmentation with an exported file and mmseg's inferencer."""

from types import SimpleNamespace

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmseg.models import EncoderDecoder, SegDataPreProcessor

from .onnx_predictor import dataset_meta
from .segmentor import Inferencer, TaskPredictor


class _ExportedSegmentor(EncoderDecoder):
    """What mmseg takes for a segmentor: its network is an exported file. Windows, if any, are slid here."""

    def __init__(self, network):
        described, outputs = network.description, network.description['outputs']
        preprocessor = SegDataPreProcessor(
            mean=described['mean'], std=described['std'], bgr_to_rgb=described['to_rgb'], **described['preprocessor']
        )
        # EncoderDecoder would build a backbone and heads
        BaseModel.__init__(self, data_preprocessor=preprocessor)
        self.network = network
        self.test_cfg = ConfigDict(outputs['test_cfg'])
        self.align_corners, self.out_channels = outputs['align_corners'], outputs['channels']
        self.num_classes = outputs['num_classes']
        self.decode_head = SimpleNamespace(threshold=outputs['threshold'])
        self.dataset_meta = dataset_meta(network)

    def encode_decode(self, inputs, batch_img_metas):
        """Return the logits of images, (batch, classes, height, width)."""
        return self.network(inputs)


class OnnxPredictor(TaskPredictor):
    """Predicts the class of each pixel with an exported file."""

    def _build(self, cfg, network, device):
        return Inferencer(cfg, _ExportedSegmentor(network).eval(), device=device)
