"""Detection from data to prediction, with the tools and APIs that users of mmdet have, on tiny data and a CPU."""

import contextlib
import io
import pickle
import re

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmdefmamba  # noqa: F401  before mmdet
from mmdefmamba.quickstart import detection

TRAIN, VAL = 16, 5
# 2 iterations; the learning rate is that of the warm-up in the config, which is longer than the run
SHORT = {
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'param_scheduler.0.end': 2,
    'param_scheduler.1.end': 1,
    'model.test_cfg.rcnn.max_per_img': 5,  # random detections reach any limit, and each is drawn
}
SIZES = [(70, 45), (128, 203), (33, 97)]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Return the work dir, the scores and the output of a short quickstart."""
    work_dir = tmp_path_factory.mktemp('detection')
    with contextlib.redirect_stdout(io.StringIO()) as output:
        scores = detection.run(work_dir, dict(SHORT, **{'randomness.seed': 0}), TRAIN, VAL)
    return work_dir, scores, output.getvalue()


@pytest.fixture(scope='module')
def config(trained):
    return trained[0] / 'mask_rcnn_defmamba_pico_digits.py'


@pytest.fixture(scope='module')
def checkpoint(trained):
    return trained[0] / 'epoch_1.pth'


@pytest.fixture(scope='module')
def tested(config, checkpoint, run_test_tool, tmp_path_factory):
    """Return the folder where one process of tools/test.py saved predictions, pictures and its log."""
    folder = tmp_path_factory.mktemp('tested')
    options = ['--work-dir', folder, '--out', folder / 'out.pkl', '--show-dir', folder / 'drawn']
    run_test_tool(config, checkpoint, *options)
    return folder


def test_quickstart_prints_scores_and_costs_and_saves_a_picture(trained):
    work_dir, (box, mask), output = trained
    table = output.rpartition('on digit scenes\n')[2]
    assert re.search(rf'box mAP, IoU 0.50 to 0.95 +{100 * box:.1f} %\n', table)
    assert re.search(rf'mask mAP, IoU 0.50 to 0.95 +{100 * mask:.1f} %\n', table)
    assert re.search(rf' +{TRAIN} and {VAL}, 128 x 128\n', table)
    for name in ('parameters', 'FLOPs', 'selective scan backend', 'images/s', 'training'):
        assert name in table
    picture = cv2.imread(str(work_dir / 'predictions.png'))
    # two columns of pairs (ground truth, prediction); each picture is three times as large as a scene
    assert picture.shape[1] == 2 * 2 * 3 * 128
    truth, prediction = picture[:384, :384].astype(int), picture[:384, 384:768].astype(int)
    assert np.abs(truth - prediction).max() > 0


def test_test_tool_agrees_with_the_quickstart_and_saves_requested_files(
    trained, tested, config, checkpoint, run_test_tool, logged_metrics, tmp_path
):
    scores = logged_metrics(tested)
    assert (scores['coco/bbox_mAP'], scores['coco/segm_mAP']) == trained[1]
    assert len(list(tested.rglob('drawn/**/*.png'))) + len(list(tested.rglob('drawn/**/*.jpg'))) == VAL

    predictions = tmp_path / 'predictions.pkl'
    run_test_tool(config, checkpoint, '--work-dir', tmp_path, '--out', predictions, '--tta')
    saved = pickle.loads(predictions.read_bytes())
    assert len(saved) == VAL
    for image in saved:
        found = image['pred_instances']
        assert len(found['bboxes']) == len(found['masks']) == len(found['scores'])
        assert all(mask['size'] == [128, 128] for mask in found['masks'])


def test_two_processes_predict_and_score_like_one(trained, tested, config, checkpoint, run_dist_test, logged_metrics):
    """5 images do not divide evenly between two processes. Batches of other images change the last bits of a result."""
    folder = run_dist_test(config, checkpoint)
    expected, found = (pickle.loads((path / 'out.pkl').read_bytes()) for path in (tested, folder))
    assert [sample['img_id'] for sample in found] == list(range(VAL))
    for sample, reference in zip(found, expected, strict=True):
        assert_same_instances(sample['pred_instances'], reference['pred_instances'])
    scores = logged_metrics(folder)
    assert (scores['coco/bbox_mAP'], scores['coco/segm_mAP']) == trained[1]


def test_init_detector_predicts_as_the_test_tool(trained, tested, config, checkpoint):
    """After 2 iterations each mAP is 0, so only the predictions show whether the tool tested the trained network."""
    from mmdet.apis import inference_detector, init_detector

    model = init_detector(str(config), str(checkpoint), device='cpu')
    images = sorted(str(path) for path in (trained[0] / 'data/images/validation').glob('*.png'))
    saved = pickle.loads((tested / 'out.pkl').read_bytes())
    for result, sample in zip(inference_detector(model, images), saved, strict=True):
        assert_same_instances(result.pred_instances, sample['pred_instances'])


def test_init_detector_takes_images_of_any_and_mixed_sizes(config, checkpoint):
    from mmdet.apis import inference_detector, init_detector

    model = init_detector(str(config), str(checkpoint), device='cpu')
    assert model.dataset_meta['classes'] == tuple('0123456789')
    images = [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(SIZES)]
    for image, result in zip(images, inference_detector(model, images), strict=True):
        found = result.pred_instances
        assert found.masks.shape == (len(found), *image.shape[:2])
        assert found.bboxes.isfinite().all()
        assert (found.bboxes[:, 2] <= image.shape[1]).all()
        assert (found.bboxes[:, 3] <= image.shape[0]).all()
    # all sizes in one padded batch
    with torch.no_grad():
        batch = dict(
            inputs=[torch.from_numpy(image.transpose(2, 0, 1)) for image in images],
            data_samples=[_sample(image.shape[:2]) for image in images],
        )
        results = model.test_step(batch)
    assert [tuple(result.pred_instances.masks.shape[1:]) for result in results] == SIZES


def test_det_inferencer_works_on_config_and_checkpoint(config, checkpoint, trained, tmp_path):
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(model=str(config), weights=str(checkpoint), device='cpu', show_progress=False)
    images = sorted(str(path) for path in (trained[0] / 'data/images/validation').glob('*.png'))[:3]
    result = inferencer(images, batch_size=2, out_dir=str(tmp_path), pred_score_thr=0.0)
    assert len(result['predictions']) == 3
    assert all(len(p['scores']) == len(p['masks']) == len(p['labels']) for p in result['predictions'])
    assert len(list((tmp_path / 'vis').iterdir())) == 3


def test_image_without_objects_can_be_trained_on_alone_or_in_a_batch(config):
    model = _build(config)
    model.train()
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in SIZES]
    samples = [_sample(size, boxes=int(i == 1)) for i, size in enumerate(SIZES)]
    for chosen in (slice(0, 3), slice(0, 1)):
        data = model.data_preprocessor(dict(inputs=images[chosen], data_samples=samples[chosen]), True)
        loss, parts = model.parse_losses(model(**data, mode='loss'))
        assert loss.isfinite()
        loss.backward()
        assert parts['loss_rpn_cls'] > 0
        assert (parts['loss_mask'] > 0) == (chosen.stop == 3)


def test_backbone_starts_from_a_classification_checkpoint(config, tmp_path):
    cfg = Config.fromfile(config)
    source = MODELS.build({**cfg.model.backbone, 'init_cfg': None, 'out_indices': (3,)})
    state = {f'backbone.{key}': torch.randn_like(value) for key, value in source.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'classifier.pth')
    model = _build(config, {'model.backbone.init_cfg.checkpoint': str(tmp_path / 'classifier.pth')})
    model.init_weights()
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())
    wrong = _build(config, {'model.backbone.init_cfg': dict(checkpoint=str(tmp_path / 'classifier.pth'), prefix='x.')})
    with pytest.raises(ValueError, match=r"prefix='x\.'"):
        wrong.init_weights()


def assert_same_instances(found, expected):
    assert len(expected['scores']) > 0
    assert found['labels'].tolist() == expected['labels'].tolist()
    for name in ('scores', 'bboxes'):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)


def _build(config, options=None):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options or {})
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def _sample(size, boxes=0):
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    height, width = size
    masks = np.zeros((boxes, height, width), np.uint8)
    masks[:, 4:30, 4:30] = 1
    truth = InstanceData(
        bboxes=torch.tensor([[4.0, 4.0, 30.0, 30.0]] * boxes).reshape(-1, 4),
        labels=torch.zeros(boxes, dtype=torch.long),
        masks=BitmapMasks(masks, height, width),
    )
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
    return DetDataSample(metainfo=meta, gt_instances=truth)
