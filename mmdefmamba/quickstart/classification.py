"""The quickstart of classification: train and test on handwritten digits, count, and draw the learned scan order."""

from pathlib import Path

import numpy as np

from ..datasets.digits import load_digits_split
from ..visualization import draw_digits, trace_blocks
from .common import cost_rows, images_per_second, load_config, print_table, train_and_test

CONFIG = 'defmamba_pico_digits'
NUM_DRAWN = 8


def run(work_dir, cfg_options=None):
    """Train the pico DefMamba on scikit-learn's digits and show what it learned.

    Args:
        work_dir: folder for log, checkpoint and picture.
        cfg_options: dict of dotted keys that override the config.

    Returns:
        The top-1 accuracy on the held-out fifth, in percent.
    """
    cfg = load_config(CONFIG, work_dir, cfg_options)
    metrics, tester, checkpoint, seconds = train_and_test(cfg)
    model = tester.model.eval()

    figure, batch = draw_predictions(model, tester.test_dataloader)
    picture = Path(work_dir) / 'digits.png'
    figure.savefig(picture)

    speed = images_per_second(lambda: model(**batch, mode='predict'), len(batch['inputs']))
    accuracy = metrics['accuracy/top1']
    print_table(
        'DefMamba pico on handwritten digits',
        [
            ('top-1 accuracy, held-out fifth', f'{accuracy:.2f} %'),
            ('training', f'{seconds:.0f} s'),
            *cost_rows(cfg, (cfg.image_size,)),
            ('images/s, inference', f'{speed:.0f}'),
            ('checkpoint', checkpoint),
            ('picture', str(picture)),
        ],
    )
    return accuracy


def draw_predictions(model, dataloader):
    """Draw digits from the first batch of the held-out fifth with the predictions of a classifier.

    Returns:
        A matplotlib Figure, and the batch that the model was given.
    """
    batch = model.data_preprocessor(next(iter(dataloader)))
    samples, (first, *_) = trace_blocks(model, **batch, mode='predict', stages=0, state_space=False)
    images, labels = load_digits_split('test')
    predictions = np.array([int(sample.pred_label) for sample in samples])
    chosen = _chosen(labels[: len(predictions)], predictions)
    return draw_digits(images[chosen], labels[chosen], predictions[chosen], first.select(chosen)), batch


def _chosen(labels, predictions):
    """Choose the digits to draw: wrong predictions first, then the first digit of each class."""
    wrong = np.flatnonzero(labels != predictions)
    one_each = [np.flatnonzero(labels == digit)[0] for digit in np.unique(labels)]
    rest = [i for i in one_each if i not in wrong]
    return np.array([*wrong, *rest][:NUM_DRAWN])
