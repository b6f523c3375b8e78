"""Digit scenes: find the digits, with boxes and masks."""

from .scenes import TRAIN, VAL, run_scenes

CONFIG = 'mask_rcnn_defmamba_pico_digits'


def run(work_dir, cfg_options=None, train=TRAIN, val=VAL):
    """Train the pico Mask R-CNN on digit scenes and show what it learned.

    Args:
        work_dir: where data, log, checkpoint and picture go.
        cfg_options: dict of dotted keys that override the config.
        train, val: number of scenes.

    Returns:
        box mAP and mask mAP on the validation scenes, of 1.
    """
    scores = [
        ('box mAP, IoU 0.50 to 0.95', 'coco/bbox_mAP', 100),
        ('mask mAP, IoU 0.50 to 0.95', 'coco/segm_mAP', 100),
    ]
    title = 'Mask R-CNN with DefMamba pico on digit scenes'
    metrics = run_scenes(CONFIG, work_dir, cfg_options, train, val, title, scores)
    return metrics['coco/bbox_mAP'], metrics['coco/segm_mAP']
