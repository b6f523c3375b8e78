"""Classification with mmpretrain's inferencer."""

from mmpretrain.apis import ImageClassificationInferencer
from mmpretrain.visualization import UniversalVisualizer

from .predictors import Predictor
from .zoo import get_model


class TaskPredictor(Predictor):
    """Predicts the class of an image."""

    task = 'classification'
    visualizer = 'UniversalVisualizer'
    any_sizes = True  # the pipelines resize all images to one size

    def _build(self, cfg, checkpoint, device):
        self._visualizer = UniversalVisualizer()
        return ImageClassificationInferencer(get_model(cfg, checkpoint, device))

    def describe(self, sample):
        """Return ``label``, ``class`` and ``score`` of the predicted class, and the ``scores`` of all classes."""
        scores = sample.pred_score
        if not scores.isfinite().all():
            raise ValueError('the scores are not finite: check the checkpoint for NaN or infinite weights')
        label = int(sample.pred_label)
        return {
            'label': label,
            'class': self.name_of(label),
            'score': float(scores[label]),
            'scores': scores.tolist(),
        }

    def summary(self, sample):
        label = int(sample.pred_label)
        return f'{self.name_of(label)} ({float(sample.pred_score[label]):.1%})'

    def _draw(self, image, sample):
        return self._visualizer.visualize_cls(image, sample, classes=self.classes, draw_gt=False)
