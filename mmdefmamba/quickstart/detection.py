"""The quickstart of detection: boxes and masks of the digits in digit scenes."""

from .scenes import TRAIN, VAL, run_scenes

CONFIG = 'mask_rcnn_defmamba_pico_digits'


def run(work_dir, cfg_options=None, train=TRAIN, val=VAL):
    """Train the pico Mask R-CNN on digit scenes and show what it learned.

    Args:
        work_dir: folder for data, log, checkpoint and picture.
        cfg_options: dict of dotted keys that override the config.
        train, val: number of scenes.

    Returns:
        The box mAP and the mask mAP on the validation scenes, from 0 to 1.
    """
    scores = [
        ('box mAP, IoU 0.50 to 0.95', 'coco/bbox_mAP', 100),
        ('mask mAP, IoU 0.50 to 0.95', 'coco/segm_mAP', 100),
    ]
    title = 'Mask R-CNN with DefMamba pico on digit scenes'
    metrics = run_scenes(CONFIG, work_dir, cfg_options, train, val, title, scores)
    return metrics['coco/bbox_mAP'], metrics['coco/segm_mAP']
