"""The shared part of detection and segmentation: digit scenes, and a picture of ground truth and prediction."""

from pathlib import Path

import mmcv
import numpy as np
import torch

from ..datasets.digit_scenes import IMAGE_SIZE, write_digit_scenes
from ..files import shown
from ..report.scores import is_score
from ..visualization.enlarge import enlarge_image, enlarge_sample
from .common import cost_rows, images_per_second, load_config, print_table, train_and_test

TRAIN, VAL = 1600, 200
DIFFICULTY = 0.3
ZOOM = 3  # images are enlarged by this factor before boxes and labels are drawn
COLUMNS = 2


def run_scenes(config, work_dir, cfg_options, train, val, title, score_rows, difficulty=DIFFICULTY):
    """Write the scenes, train, test the saved checkpoint, print a table and draw a picture.

    Args:
        config: name of the config.
        work_dir: folder for data, log, checkpoint and picture.
        cfg_options: dict of dotted keys that override the config.
        train, val: number of scenes.
        title: title of the table.
        score_rows: rows of the table, (name, key in the metrics of the test, factor to percent).
        difficulty: difficulty of the scenes, from 0 to 1.

    Returns:
        The metrics of the test.
    """
    work_dir = Path(work_dir)
    write_digit_scenes(work_dir / 'data', train, val, difficulty)
    cfg = load_config(config, work_dir)
    _use_data(cfg, f'{work_dir}/data/')
    cfg.merge_from_dict(cfg_options or {})
    metrics, tester, checkpoint, seconds = train_and_test(cfg)
    model = tester.model.eval()

    batch = _first_scenes_with_digits(tester.test_dataloader, 6)
    with torch.no_grad():
        samples = model.test_step(batch)
    picture = work_dir / 'predictions.png'
    _draw(picture, batch['inputs'], samples, tester.visualizer)
    speed = images_per_second(lambda: model.test_step(batch), len(samples))
    print_table(
        title,
        [
            *((name, _percent(metrics[key], factor)) for name, key, factor in score_rows),
            ('scenes, training and validation', f'{train} and {val}, {IMAGE_SIZE} x {IMAGE_SIZE}'),
            ('difficulty of the scenes', str(difficulty)),
            ('training', f'{seconds / 60:.1f} minutes'),
            *cost_rows(cfg, (IMAGE_SIZE,)),
            ('images/s, inference', f'{speed:.0f}'),
            ('checkpoint', checkpoint),
            ('picture, truth left and prediction right', str(picture)),
        ],
    )
    return metrics


def _percent(score, factor):
    return f'{score * factor:.1f} %' if is_score(score) else '-'


def _use_data(cfg, root):
    for phase in ('train', 'val', 'test'):
        cfg[f'{phase}_dataloader'].dataset.data_root = root
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        if 'ann_file' in evaluator:
            evaluator.ann_file = evaluator.ann_file.replace(cfg.data_root, root)


def _first_scenes_with_digits(loader, count):
    """Return the first validation scenes with digits, as one batch."""
    chosen = []
    for item in loader.dataset:
        sample = item['data_samples']
        truth = sample.gt_instances if 'gt_instances' in sample else sample.gt_sem_seg.data.unique()[1:]
        chosen += [item] if len(truth) else []
        if len(chosen) == count:
            break
    return loader.collate_fn(chosen)


def _draw(path, images, samples, visualizer):
    pairs = []
    for image, sample in zip(images, samples, strict=True):
        image = enlarge_image(image.permute(1, 2, 0).numpy()[..., ::-1], ZOOM)
        enlarge_sample(sample, ZOOM)
        visualizer.add_datasample('scene', np.ascontiguousarray(image), sample, out_file=str(path))
        pairs.append(mmcv.imread(str(path)))
    rows = [np.hstack(pairs[i : i + COLUMNS]) for i in range(0, len(pairs) - len(pairs) % COLUMNS, COLUMNS)]
    if not mmcv.imwrite(np.vstack(rows or pairs), str(path)):
        raise OSError(f'cannot write {shown(path)}')
