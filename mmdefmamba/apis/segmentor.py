"""Semantic segmentation with mmseg's inferencer."""

import numpy as np
import torch
from matplotlib import colormaps
from mmengine.structures import PixelData
from mmseg.apis import MMSegInferencer

from ..visualization.enlarge import enlarge_image
from .predictors import PlainCollate, Predictor
from .zoo import get_model

OPACITY = 0.5
#: The largest number of scores, pixels x classes, that are computed for an image: 4 GiB. ADE20K's 150 classes have so
#: many in an image of 7 million pixels.
MAX_SCORES = 2**30


class Inferencer(PlainCollate, MMSegInferencer):
    """mmseg's inferencer, which refuses a checkpoint that does not fit and numbers classes without names.

    mmseg alone would give such classes the names of Cityscapes.
    """

    def _init_model(self, cfg, weights, device='cpu'):
        # an exported file has no checkpoint: its stand-in for a model is given in place of one
        model = weights if isinstance(weights, torch.nn.Module) else get_model(cfg, weights, device)
        meta = model.dataset_meta
        meta.setdefault('classes', tuple(str(label) for label in range(model.num_classes)))
        meta.setdefault('palette', _palette(len(meta['classes'])))
        return model


class TaskPredictor(Predictor):
    """Predicts the class of each pixel."""

    task = 'segmentation'
    visualizer = 'SegLocalVisualizer'

    def _build(self, cfg, checkpoint, device):
        return Inferencer(cfg, checkpoint, device=device)

    def prepare(self, images):
        """Run the test pipeline, see :meth:`Predictor.prepare`.

        mmseg enlarges the scores of all classes to the size of the image. Where these would be more than
        ``MAX_SCORES``, they are enlarged to a half of its sides, or to a smaller part; :meth:`finish` enlarges the map
        of classes to the whole.
        """
        data = super().prepare(images)
        for sample, image in zip(data['data_samples'], images, strict=True):
            height, width = image.shape[:2]
            stride = self._stride(height, width)
            sample.set_metainfo({'ori_shape': (-(-height // stride), -(-width // stride))})
            sample.set_metainfo({'whole_shape': (height, width), 'stride': stride})
        return data

    def finish(self, sample):
        sample, (height, width), stride = sample.cpu(), sample.whole_shape, sample.stride
        if stride > 1:
            sample.set_metainfo({'ori_shape': (height, width)})
            whole = enlarge_image(self.class_map(sample).astype(np.int32), stride)[:height, :width]
            del sample.seg_logits
            sample.set_data({'pred_sem_seg': PixelData(data=torch.from_numpy(whole)[None])})
        return sample

    def _stride(self, height, width):
        outputs = self.model.out_channels
        stride = 1
        while -(-height // stride) * -(-width // stride) * outputs > MAX_SCORES and stride < max(height, width):
            stride += 1
        return stride

    @staticmethod
    def class_map(sample):
        """Return the predicted class of each pixel, (height, width), int64."""
        return sample.pred_sem_seg.data[0].numpy()

    def describe(self, sample):
        """Return ``shares``: the share of the pixels of each predicted class, from 0 to 1, largest first."""
        return {'shares': dict(self.shares(sample))}

    def shares(self, sample):
        """Return pairs of class name and share of the pixels, largest first."""
        class_map = self.class_map(sample)
        labels, counts = np.unique(class_map, return_counts=True)
        pairs = zip(labels.tolist(), (counts / class_map.size).tolist(), strict=True)
        return [(self.name_of(label), share) for label, share in sorted(pairs, key=lambda pair: -pair[1])]

    def summary(self, sample):
        return ', '.join(f'{name} {share:.1%}' for name, share in self.shares(sample)[:5])

    def _draw(self, image, sample):
        return self.inferencer.visualize([image], [sample], return_vis=True, opacity=OPACITY)[0]


def _palette(count):
    """Return ``count`` different colours, each [R, G, B] from 0 to 255."""
    colors = colormaps['turbo'](np.linspace(0, 1, count))[:, :3]
    return np.round(colors * 255).astype(int).tolist()
