"""Segmentation from data to prediction, with the tools and APIs that users of mmseg have, on tiny data and a CPU."""

import contextlib
import io
import json
import math
import pickle
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmdefmamba  # noqa: F401  before mmseg
from mmdefmamba.quickstart import segmentation

TRAIN, VAL = 8, 5
SHORT = {
    'train_cfg.max_iters': 2,
    'train_cfg.val_interval': 2,
    'default_hooks.checkpoint.interval': 2,
    'param_scheduler.0.end': 1,
    'param_scheduler.1.begin': 1,
    'param_scheduler.1.end': 2,
    'train_dataloader.batch_size': 4,
}
SIZES = [(70, 45), (128, 203), (33, 97)]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Return the work dir, the mIoU and the output of a short quickstart."""
    work_dir = tmp_path_factory.mktemp('segmentation')
    with contextlib.redirect_stdout(io.StringIO()) as output:
        score = segmentation.run(work_dir, dict(SHORT, **{'randomness.seed': 0}), TRAIN, VAL)
    return work_dir, score, output.getvalue()


@pytest.fixture(scope='module')
def config(trained):
    return trained[0] / 'upernet_defmamba_pico_digits.py'


@pytest.fixture(scope='module')
def checkpoint(trained):
    return trained[0] / 'iter_2.pth'


@pytest.fixture(scope='module')
def tested(config, checkpoint, run_test_tool, tmp_path_factory):
    """Return the folder where one process of tools/test.py saved predictions, pictures and its log."""
    folder = tmp_path_factory.mktemp('tested')
    options = ['--work-dir', folder, '--out', folder / 'out.pkl', '--show-dir', folder / 'drawn']
    run_test_tool(config, checkpoint, *options)
    return folder


def test_quickstart_prints_scores_and_costs_and_saves_a_picture(trained):
    work_dir, score, output = trained
    table = output.rpartition('on digit scenes\n')[2]
    assert re.search(rf'mIoU, background and ten digits +{100 * score:.1f} %\n', table)
    for name in ('parameters', 'FLOPs', 'selective scan backend', 'images/s', 'training'):
        assert name in table
    assert cv2.imread(str(work_dir / 'predictions.png')).shape[1] == 2 * 2 * 3 * 128


def test_test_tool_agrees_with_the_quickstart_and_saves_requested_files(
    trained, tested, config, checkpoint, run_test_tool, logged_metrics, tmp_path
):
    assert 0 < logged_metrics(tested)['mIoU'] == 100 * trained[1]
    assert len(list(tested.rglob('drawn/**/*.png'))) == VAL

    run_test_tool(config, checkpoint, '--work-dir', tmp_path, '--out', tmp_path / 'masks', '--tta')
    masks = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted((tmp_path / 'masks').glob('*.png'))]
    assert [mask.shape for mask in masks] == [(128, 128)] * VAL
    assert max(mask.max() for mask in masks) < 11


def test_multi_scale_test_merges_views_of_all_scales(trained, config, checkpoint, run_test_tool, tmp_path):
    """Views of equal size give the result of one view. Views of other sizes give another result."""
    outcomes = []
    for ratios in ((1.0, 1.0), (0.25, 0.5, 1.0)):
        scales = [dict(type='Resize', scale_factor=ratio, keep_ratio=True) for ratio in ratios]
        changed = tmp_path / f'views{len(ratios)}.py'
        views = [scales, [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]]
        pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=views)]
        changed.write_text(f'_base_ = {str(config)!r}\ntta_pipeline = {pipeline!r}\n')
        out = tmp_path / f'views{len(ratios)}.json'
        run_test_tool(changed, checkpoint, '--work-dir', tmp_path, '--tta', '--out', out, '--out-item', 'metrics')
        outcomes.append(json.loads(out.read_text())['mIoU'])
    assert outcomes[0] == 100 * trained[1]
    assert outcomes[1] != outcomes[0]


def test_two_processes_predict_and_score_like_one(trained, tested, config, checkpoint, run_dist_test, logged_metrics):
    """5 images do not divide evenly between two processes."""
    folder = run_dist_test(config, checkpoint)
    expected, found = (pickle.loads((path / 'out.pkl').read_bytes()) for path in (tested, folder))
    assert [Path(sample['img_path']).stem for sample in found] == [f'{i:05d}' for i in range(VAL)]
    logits = [sample['seg_logits']['data'] for sample in expected]
    for sample, reference in zip(found, logits, strict=True):
        torch.testing.assert_close(sample['seg_logits']['data'], reference)
    assert (logits[0] - logits[1]).abs().max() > 1e-2, 'images differ, so that a wrong order of samples is seen'
    assert logged_metrics(folder)['mIoU'] == 100 * trained[1]


def test_init_model_takes_images_of_any_size(config, checkpoint):
    from mmseg.apis import inference_model, init_model

    model = init_model(str(config), str(checkpoint), device='cpu')
    for i, size in enumerate(SIZES):
        image = np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)
        result = inference_model(model, image)
        assert result.pred_sem_seg.data.shape == (1, *size)
        assert result.seg_logits.data.shape == (11, *size)
        assert result.seg_logits.data.isfinite().all()


def test_mmseg_inferencer_works_on_config_and_checkpoint(config, checkpoint, trained, tmp_path):
    from mmseg.apis import MMSegInferencer

    inferencer = MMSegInferencer(model=str(config), weights=str(checkpoint), device='cpu')
    images = sorted(str(path) for path in (trained[0] / 'data/images/validation').glob('*.png'))[:2]
    result = inferencer(images, out_dir=str(tmp_path))
    assert [prediction.shape for prediction in result['predictions']] == [(128, 128)] * 2
    assert len(list((tmp_path / 'vis').iterdir())) == 2


def test_mixed_sizes_and_ignored_images_can_be_trained_on(config):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    cfg = Config.fromfile(config)
    # images are padded to the largest of the batch, 128 x 203, which is not a multiple of 32
    cfg.merge_from_dict({'model.data_preprocessor.size': (128, 203)})
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    inputs = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in SIZES]
    labels = [torch.full((1, *SIZES[0]), 255), torch.randint(0, 11, (1, *SIZES[1])), torch.zeros(1, *SIZES[2]).long()]
    samples = [
        SegDataSample(metainfo=dict(img_shape=size, ori_shape=size), gt_sem_seg=PixelData(data=label))
        for size, label in zip(SIZES, labels, strict=True)
    ]
    data = model.data_preprocessor(dict(inputs=inputs, data_samples=samples), True)
    loss, parts = model.parse_losses(model(**data, mode='loss'))
    assert loss.isfinite()
    loss.backward()
    # The network has not learned yet, so the loss is near log(11) per labelled pixel. mmseg averages over all pixels;
    # ignored and padded ones have a loss of 0.
    labelled = sum(height * width for height, width in SIZES[1:]) / (3 * 128 * 203)
    assert parts['decode.loss_ce'].item() == pytest.approx(math.log(11) * labelled, rel=0.25)
