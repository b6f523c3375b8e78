"""Detection with mmdet's inferencer."""

from collections import Counter

from mmdet.apis import DetInferencer

from .predictors import PlainCollate, Predictor
from .zoo import get_model

OPACITY = 0.5  # of masks; mmdet's 0.8 would hide the objects


class _Inferencer(PlainCollate, DetInferencer):
    """mmdet's inferencer, which refuses a checkpoint that does not fit."""

    def _init_model(self, cfg, weights, device='cpu'):
        return get_model(cfg, weights, device)


class TaskPredictor(Predictor):
    """Detects objects: boxes, and masks if the model predicts them."""

    task = 'detection'
    visualizer = 'DetLocalVisualizer'
    #: whether boxes are drawn with their place in the list of :meth:`describe`, from 1
    numbered = False

    def _build(self, cfg, checkpoint, device):
        return _Inferencer(cfg, checkpoint, device, show_progress=False)

    def prepare(self, images):
        _, batch = super().prepare(images)  # mmdet's preprocessing also returns the images
        return batch

    def describe(self, sample):
        """Return ``objects``, a list of dicts, highest score first.

        Each has ``label``, ``class``, ``score``, ``box`` (left, top, right, bottom, in pixels), and, if the model
        predicts masks, ``mask`` (run-length encoding of COCO).
        """
        found = self.inferencer.pred2dict(self._above_threshold(sample))
        objects = []
        for i, (label, score, box) in enumerate(zip(found['labels'], found['scores'], found['bboxes'], strict=True)):
            mask = {'mask': found['masks'][i]} if 'masks' in found else {}
            objects.append({'label': label, 'class': self.name_of(label), 'score': score, 'box': box, **mask})
        return {'objects': objects}

    def summary(self, sample):
        counts = Counter(self.name_of(label) for label in self._above_threshold(sample).pred_instances.labels.tolist())
        return ', '.join(f'{count} x {name}' for name, count in sorted(counts.items())) or 'no objects'

    def _above_threshold(self, sample):
        """Return a copy of a sample with the objects that count, highest score first."""
        instances = sample.pred_instances
        if not (instances.scores.isfinite().all() and instances.bboxes.isfinite().all()):
            raise ValueError('scores or boxes are not finite: check the checkpoint for NaN or infinite weights')
        kept = sample.new()
        instances = instances[instances.scores >= self.score_thr]
        kept.pred_instances = instances[instances.scores.argsort(descending=True, stable=True)]
        return kept

    def _draw(self, image, sample):
        self.inferencer.visualizer.alpha = OPACITY
        options = dict(return_vis=True, pred_score_thr=self.score_thr)
        picture = self.inferencer.visualize([image], [sample], **options)[0]
        return self._number(picture, sample) if self.numbered else picture

    def _number(self, picture, sample):
        boxes = self._above_threshold(sample).pred_instances.bboxes
        if not len(boxes):
            return picture
        visualizer = self.inferencer.visualizer
        visualizer.set_image(picture)
        visualizer.draw_texts(
            [str(number) for number in range(1, len(boxes) + 1)],
            boxes[:, 2:],  # the lower right corners: mmdet writes the class into the upper left ones
            colors='white',
            vertical_alignments='bottom',
            horizontal_alignments='right',
            bboxes=dict(facecolor='black', alpha=0.8, pad=1.5, edgecolor='none'),
        )
        return visualizer.get_image()
