"""Checks that MMEngine, mmpretrain, mmdet and mmseg make of backbones, detectors and segmentors in their own tests."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner import Runner, set_random_seed
from mmengine.structures import PixelData
from mmengine.testing import RunnerTestCase

import mmdefmamba  # noqa: F401  before the libraries' models

CONFIGS = Path(__file__).parents[2] / 'configs'
DIMS = (8, 16, 32, 64)
BACKBONE = dict(type='DefMamba', arch=dict(embed_dims=DIMS, depths=(1, 1, 1, 1)), pretrain_img_size=64)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def in_scope(scope, model):
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(ConfigDict(model))


def pico(path):
    cfg = Config.fromfile(CONFIGS / path)
    init_default_scope(cfg.default_scope)
    return cfg.model


# -- MMEngine: a model in its Runner, by epoch and by iteration, resumed, with averaged weights.


class TestRunner(RunnerTestCase):
    """MMEngine's own test case with its data, metric and configs, and a model that begins with the backbone."""

    def model(self):
        class Regressor(BaseModel):
            def __init__(self):
                super().__init__()
                self.backbone = MODELS.build(dict(BACKBONE, out_indices=3))
                self.fc = torch.nn.Linear(DIMS[-1], 1)

            def forward(self, inputs, data_samples=None, mode='tensor'):
                if isinstance(inputs, list):  # without a data preprocessor, inputs are not stacked
                    inputs, data_samples = torch.stack(inputs), torch.stack(data_samples)
                images = inputs.view(-1, 1, 1, 2).expand(-1, 3, 6, 2)
                outputs = self.fc(self.backbone(images)[0].mean((2, 3))).squeeze(1)
                if mode == 'loss':
                    return dict(loss=(data_samples - outputs).square().mean())
                return outputs

        return Regressor()

    def run_config(self, cfg, **changes):
        cfg = cfg.copy()
        cfg.pop('model')
        cfg.merge_from_dict(changes)
        cfg.experiment_name = self.experiment_name
        return Runner(model=self.model(), cfg=cfg, **{k: v for k, v in cfg.items() if k != 'custom_imports'})

    def test_epochs_then_resume(self):
        self.epoch_based_cfg.optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-2), accumulative_counts=2)
        self.run_config(self.epoch_based_cfg).train()
        resumed = self.run_config(self.epoch_based_cfg, resume=True, **{'train_cfg.max_epochs': 3})
        resumed.train()
        assert (resumed.epoch, resumed.iter) == (3, 12)
        assert resumed.test() == {'acc': 1}

    def test_iterations_with_averaged_weights(self):
        self.iter_based_cfg.custom_hooks = [dict(type='EMAHook', momentum=0.5)]
        runner = self.run_config(self.iter_based_cfg)
        runner.train()
        assert runner.iter == 12
        (hook,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
        pairs = zip(runner.model.parameters(), hook.ema_model.module.parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs)
        saved = torch.load(f'{runner.work_dir}/iter_12.pth', weights_only=False)
        assert any(
            not torch.equal(saved['state_dict'][name], runner.model.state_dict()[name]) for name in saved['state_dict']
        )


def test_averaged_model_is_the_average():
    model = MODELS.build(BACKBONE)
    average = ExponentialMovingAverage(model, momentum=0.25)
    average.update_parameters(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data += 1
    average.update_parameters(model)
    for name, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter.data, before[name] + 0.25)
    outs = average(torch.randn(1, 3, 32, 32))
    assert [out.shape[1] for out in outs] == list(DIMS)


# -- mmpretrain: classifiers


def test_classifier_stages_losses_and_predictions():
    from mmpretrain.structures import DataSample

    model = in_scope('mmpretrain', {**pico('classification/defmamba_pico_digits.py')})
    inputs = torch.randn(2, 3, 32, 32)
    samples = [DataSample().set_gt_label(i) for i in (1, 4)]
    model.eval()  # no path is dropped
    (backbone,) = model.extract_feat(inputs, stage='backbone')
    (neck,) = model.extract_feat(inputs, stage='neck')
    assert backbone.shape == (2, 128, 1, 1) and neck.shape == (2, 128)
    assert torch.equal(model.extract_feat(inputs, stage='pre_logits'), neck)
    assert model(inputs).shape == (2, 10)
    assert model(inputs, samples, mode='loss')['loss'].ndim == 0
    predictions = model(inputs, samples, mode='predict')
    for prediction, score in zip(predictions, model.head(model.extract_feat(inputs)).softmax(-1), strict=True):
        torch.testing.assert_close(prediction.pred_score, score)
        assert prediction.pred_label.item() == score.argmax()


def test_classifier_learns_by_its_own_train_step():
    from mmpretrain.structures import DataSample

    model = in_scope(
        'mmpretrain',
        {
            **pico('classification/defmamba_pico_digits.py'),
            'data_preprocessor': dict(type='mmpretrain.ClsDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3),
        },
    )
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters(), 1e-3))
    data = dict(
        inputs=torch.randint(0, 256, (4, 3, 32, 32)), data_samples=[DataSample().set_gt_label(i) for i in range(4)]
    )
    losses = [model.train_step(data, wrapper)['loss'].item() for _ in range(8)]
    assert losses[-1] < 0.7 * losses[0]
    assert len(model.val_step(data)) == len(model.test_step(data)) == 4


def test_learning_rates_decay_with_depth():
    """mmpretrain's constructor asks the backbone for the depth of each parameter."""
    model = in_scope('mmpretrain', {**pico('classification/defmamba_pico_digits.py')})
    wrapper = dict(
        constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor',
        optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    rates = {id(parameter): group['lr'] for group in groups for parameter in group['params']}
    backbone = model.backbone
    blocks = [block for stage in backbone.stages for block in stage]
    modules = [backbone.stem, *blocks, backbone.norm3]
    expected = [0.5 ** (len(modules) - 1 - depth) for depth in range(len(modules))]
    for module, rate in zip(modules, expected, strict=True):
        assert {rates[id(parameter)] for parameter in module.parameters()} == {rate}
    assert rates[id(model.head.fc.weight)] == 1.0


# -- mmdet: detectors of one and of two stages


def retinanet():
    return dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
        backbone=dict(BACKBONE, out_indices=(1, 2, 3)),
        neck=dict(type='FPN', in_channels=list(DIMS[1:]), out_channels=16, add_extra_convs='on_output', num_outs=5),
        bbox_head=dict(
            type='RetinaHead',
            num_classes=10,
            in_channels=16,
            stacked_convs=1,
            feat_channels=16,
            anchor_generator=dict(
                type='AnchorGenerator',
                octave_base_scale=4,
                scales_per_octave=1,
                ratios=[1.0],
                strides=[8, 16, 32, 64, 128],
            ),
            bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
        ),
        train_cfg=dict(
            assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
            sampler=dict(type='PseudoSampler'),
            allowed_border=-1,
            pos_weight=-1,
        ),
        test_cfg=dict(nms_pre=20, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=5),
    )


DETECTORS = {'mask_rcnn': lambda: pico('detection/mask_rcnn_defmamba_pico_digits.py'), 'retinanet': retinanet}


@pytest.mark.parametrize(
    ('name', 'num_items'), [('mask_rcnn', [0, 3]), ('mask_rcnn', [0, 0]), ('retinanet', [2, 3])], ids=str
)
def test_detector_losses_predictions_and_tensors(name, num_items):
    from mmdet.structures import DetDataSample
    from mmdet.testing import demo_mm_inputs

    model = in_scope('mmdet', DETECTORS[name]())
    packed = demo_mm_inputs(2, [[3, 128, 128], [3, 125, 130]], num_items=num_items, with_mask=name == 'mask_rcnn')
    data = model.data_preprocessor(packed, True)
    losses = model.forward(**data, mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    # DistributedDataParallel needs this: each parameter gets a gradient, with or without objects in the images
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []

    model.eval()
    with torch.no_grad():
        results = model.forward(**model.data_preprocessor(packed, False), mode='predict')
        tensors = model.forward(**data, mode='tensor')
    assert len(results) == 2 and all(isinstance(result, DetDataSample) for result in results)
    assert all(result.pred_instances.bboxes.shape[1] == 4 for result in results)
    assert isinstance(tensors, tuple)


# -- mmseg: segmentors


def segmentor(**changes):
    def head(kind, index, channels):
        return dict(
            type=kind,
            in_channels=channels,
            in_index=index,
            channels=16,
            num_classes=5,
            norm_cfg=dict(type='BN'),
            **dict(input_transform='multiple_select', pool_scales=(1, 2)) if kind == 'UPerHead' else {},
        )

    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 48)),
        backbone=BACKBONE,
        decode_head=head('UPerHead', [0, 1, 2, 3], list(DIMS)),
        auxiliary_head=[head('FCNHead', 2, DIMS[2]), head('FCNHead', 3, DIMS[3])],
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    for head_cfg in (model['decode_head'], *model['auxiliary_head']):
        if head_cfg['type'] == 'UPerHead':
            head_cfg.pop('input_transform')
    return {**model, **changes}


def images_with_labels():
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(64, 48), ori_shape=(64, 48), pad_shape=(64, 48)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, 64, 48)))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 256, (3, 64, 48), dtype=torch.uint8) for _ in range(2)], data_samples=samples)


@pytest.mark.parametrize(
    'changes',
    [{}, dict(test_cfg=dict(mode='slide', crop_size=(32, 32), stride=(16, 16))), dict(auxiliary_head=None)],
    ids=['whole', 'slide', 'no auxiliary head'],
)
def test_segmentor_losses_predictions_and_tensors(changes):
    model, packed = in_scope('mmseg', segmentor(**changes)), images_with_labels()
    data = model.data_preprocessor(packed, True)
    total, parts = model.parse_losses(model.forward(**data, mode='loss'))
    total.backward()
    assert total.isfinite()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    assert sum(key.endswith('loss_ce') for key in parts) == 1 + len(changes.get('auxiliary_head', [1, 2]) or [])

    model.eval()
    with torch.no_grad():
        results = model.forward(**model.data_preprocessor(packed, False), mode='predict')
        tensor = model.forward(data['inputs'], mode='tensor')
    assert [tuple(result.pred_sem_seg.data.shape) for result in results] == [(1, 64, 48)] * 2
    assert tensor.shape == (2, 5, 16, 12)
    first = np.stack([result.seg_logits.data.argmax(0) for result in results])
    assert (first == np.stack([result.pred_sem_seg.data[0] for result in results])).all()


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_deterministic_gradients_are_equal_bit_for_bit(task):
    """The mode of ``randomness=dict(seed=0, deterministic=True)``: each operator of both tasks runs on a CPU."""
    from mmdet.testing import demo_mm_inputs

    runs = []
    try:
        for _ in range(2):
            set_random_seed(0, deterministic=True)
            if task == 'detection':
                model, packed = in_scope('mmdet', DETECTORS['mask_rcnn']()), demo_mm_inputs(2, with_mask=True)
            else:
                model, packed = in_scope('mmseg', segmentor()), images_with_labels()
            loss, _ = model.parse_losses(model(**model.data_preprocessor(packed, True), mode='loss'))
            loss.backward()
            runs.append([parameter.grad for parameter in model.parameters()])
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
