"""Digit scenes: name the digit that each pixel belongs to."""

from .scenes import VAL, run_scenes

TRAIN = 6400  # with 1600 the network came to know them by heart: mIoU 0.5 on others
# at 0.3, as detection has it, a quarter of an hour on two cores ends at mIoU 0.59 (docs/detection_segmentation.md)
DIFFICULTY = 0.1
CONFIG = 'upernet_defmamba_pico_digits'


def run(work_dir, cfg_options=None, train=TRAIN, val=VAL):
    """Train the pico UperNet on digit scenes and show what it learned.

    Args:
        work_dir: where data, log, checkpoint and picture go.
        cfg_options: dict of dotted keys that override the config.
        train, val: number of scenes.

    Returns:
        mIoU on the validation scenes, of 1.
    """
    scores = [('mIoU, background and ten digits', 'mIoU', 1), ('pixel accuracy', 'aAcc', 1)]
    title = 'UperNet with DefMamba pico on digit scenes'
    metrics = run_scenes(CONFIG, work_dir, cfg_options, train, val, title, scores, DIFFICULTY)
    return metrics['mIoU'] / 100
