"""Every config of every task, at full size, on images that are small enough for a CPU."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import mmdefmamba  # noqa: F401  before the libraries' models
from mmdefmamba.analysis.config_complexity import config_complexity
from mmdefmamba.analysis.trace import image_channels

CONFIGS = Path(__file__).parents[2] / 'configs'
TREES = ('classification', 'detection', 'segmentation')
# pico_fashion_mnist has the scans of pico_digits, but for those with fixed offsets, which tests/test_scans has.
FOLDERS = (
    *TREES,
    *(f'classification/{name}' for name in ('ablation/pico_digits', 'ablation/tiny_in1k', 'fashion_mnist_peers')),
    *(f'{tree}/digit_scenes_peers' for tree in ('detection', 'segmentation')),
)
NAMES = sorted(str(path.relative_to(CONFIGS)) for tree in FOLDERS for path in (CONFIGS / tree).glob('*.py'))
SIDE = 64
# The rows of an ablation differ in their scans, for which one block per stage is enough.
SHALLOW = dict(embed_dims=(48, 96, 192, 384), depths=(1, 1, 1, 1))
# The models are complete, but use few proposals, queries, points and layers of a transformer, which would take most of
# the time.
FEW = dict(max_per_img=20, num=12, num_queries=20, num_proposals=20, num_points=64)


def cheapen(node):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if key in FEW and isinstance(value, int):
            node[key] = min(value, FEW[key])
        elif key in ('encoder', 'decoder', 'transformer_decoder') and 'num_layers' in value:
            value['num_layers'] = 1
        if isinstance(value, (dict, list)):
            cheapen(value)


def build(name):
    cfg = Config.fromfile(CONFIGS / name)
    init_default_scope(cfg.default_scope)
    if name.startswith('segmentation'):
        cfg.merge_from_dict({'model.data_preprocessor.size': (SIDE, SIDE)})
    if not name.startswith('classification'):
        cheapen(cfg.model)
        cfg.model.data_preprocessor.batch_augments = None  # Mask2Former pads images to 1024 x 1024
    if 'ablation/tiny' in name:
        cfg.model.backbone.arch = SHALLOW
    if name.startswith('classification'):
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = MODELS.build(cfg.model)
    if not name.startswith('classification'):
        model.init_weights()  # some heads of mmdet leave parameters in uninitialised memory until then
    return cfg, model


def batch(model, tree):
    """Return two images with labels, after the data preprocessor.

    Learning without labels takes two views of each image, or a mask.
    """
    channels = image_channels(model)
    inputs = [torch.randint(0, 256, (channels, SIDE, SIDE), dtype=torch.uint8) for _ in range(2)]
    meta = dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE), scale_factor=(1.0, 1.0), batch_input_shape=(SIDE, SIDE))
    if tree == 'classification':
        from mmpretrain.structures import DataSample

        samples = [DataSample(metainfo=meta).set_gt_label(i) for i in range(2)]
        kind = type(model).__name__
        if kind != 'ImageClassifier':
            for sample in samples:
                sample.set_mask(torch.randint(0, 2, (SIDE // 4, SIDE // 4)))
            inputs = torch.stack(inputs)
            inputs = inputs if kind == 'SimMIM' else [inputs, inputs.flip(-1)]
    elif tree == 'segmentation':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        samples = [
            SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=torch.randint(0, 11, (1, SIDE, SIDE))))
            for _ in range(2)
        ]
    else:
        import numpy as np
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        from mmengine.structures import InstanceData, PixelData

        boxes = torch.tensor([[4.0, 4.0, 40.0, 44.0], [20.0, 10.0, 60.0, 60.0]])
        masks = np.zeros((2, SIDE, SIDE), np.uint8)
        masks[0, 4:44, 4:40] = masks[1, 10:60, 20:60] = 1
        truth = dict(bboxes=boxes, labels=torch.tensor([0, 9]))
        if model.with_mask or hasattr(model, 'panoptic_head'):  # RTMDet would read them
            truth['masks'] = BitmapMasks(masks, SIDE, SIDE)
        samples = [DetDataSample(metainfo=meta, gt_instances=InstanceData(**truth)) for _ in range(2)]
        if getattr(model, 'num_stuff_classes', 0):
            for sample in samples:
                sample.gt_sem_seg = PixelData(sem_seg=torch.full((1, SIDE, SIDE), 90))  # of the classes 80 to 132
    return model.data_preprocessor(dict(inputs=inputs, data_samples=samples), training=True)


def test_all_expected_configs_exist():
    expected = {f'detection/mask_rcnn_defmamba_{size}_{kind}.py' for size in 'tsb' for kind in ('1x', 'ms_1x')}
    expected |= {f'segmentation/upernet_defmamba_{size}_160k.py' for size in 'tsb'}
    expected |= {f'classification/defmamba_{size}_in1k.py' for size in 'tsb'}
    assert expected < set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_every_config_builds_and_learns(name):
    """After one forward and one backward pass, the losses are finite and each parameter has a finite gradient."""
    torch.manual_seed(0)
    cfg, model = build(name)
    model.train()
    losses, _ = model.parse_losses(model(**batch(model, name.split('/')[0]), mode='loss'))
    assert losses.isfinite()
    losses.backward()
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert [key for key, parameter in trained.items() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in trained.values())
    # MoCo v3 trains no parameter of its averaged encoder
    assert all('momentum_encoder.' in key for key, _ in model.named_parameters() if key not in trained)
    assert cfg.custom_imports['allow_failed_imports'] is False


PEERS = sorted((CONFIGS / 'classification/fashion_mnist_peers').glob('*.py'))


@pytest.mark.parametrize('path', PEERS, ids=lambda path: path.stem)
def test_peers_have_as_many_parameters_or_flops_as_the_network_that_they_are_named_after(path):
    _, size, counted = path.stem.rsplit('_', 2)
    ours, theirs = (
        config_complexity(Config.fromfile(file), (32,))[0][counted]
        for file in (CONFIGS / f'classification/defmamba_{size}_fashion_mnist.py', path)
    )
    assert abs(theirs / ours - 1) < 0.04


SCENES = {'detection': 'mask_rcnn', 'segmentation': 'upernet'}


@pytest.mark.parametrize(('tree', 'peer'), [(tree, peer) for tree in SCENES for peer in ('convnext', 'swin')])
def test_peers_on_digit_scenes_have_about_as_many_parameters_and_the_same_recipe(tree, peer):
    ours = Config.fromfile(CONFIGS / tree / f'{SCENES[tree]}_defmamba_pico_digits.py')
    theirs = Config.fromfile(CONFIGS / tree / f'digit_scenes_peers/{SCENES[tree]}_{peer}_pico_digits.py')
    init_default_scope(ours.default_scope)
    sizes = [sum(p.numel() for p in MODELS.build(cfg.model.backbone).parameters()) for cfg in (ours, theirs)]
    assert abs(sizes[1] / sizes[0] - 1) < 0.07
    ours.pop('model'), theirs.pop('model')
    assert ours.to_dict() == theirs.to_dict()


DECAYED_BACKBONE_LEAVES = {
    'conv.weight',
    'dwconv.weight',
    'in_proj.weight',
    'out_proj.weight',
    'proj.weight',
    'fc1.weight',
    'fc2.weight',
    '0.weight',
    '2.weight',
    'x_proj_weight',
    'dt_proj_weight',
}
EXEMPT_STATE_SPACE = ('.A_log', '.D', '.dt_proj_bias', '.offset_bias.table')


@pytest.mark.parametrize(
    ('name', 'lr', 'weight_decay'),
    [
        ('classification/defmamba_t_in1k.py', 1e-3, 0.05),
        ('detection/mask_rcnn_defmamba_t_1x.py', 1e-4, 0.05),
        ('segmentation/upernet_defmamba_t_160k.py', 6e-5, 0.01),
    ],
)
def test_weight_decay_exempts_norms_biases_and_state_space_parameters(name, lr, weight_decay):
    cfg, model = build(name)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer) is torch.optim.AdamW
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group['params']}
    named = dict(model.named_parameters())
    assert set(groups) == {id(parameter) for parameter in named.values()}
    assert {group['lr'] for group in groups.values()} == {lr}
    assert {group['weight_decay'] for group in groups.values()} == {0.0, weight_decay}

    exempt = {key for key, parameter in named.items() if groups[id(parameter)]['weight_decay'] == 0}
    norms = {
        f'{prefix}.{leaf}'
        for prefix, module in model.named_modules()
        if isinstance(module, (torch.nn.LayerNorm, torch.nn.modules.batchnorm._BatchNorm))
        for leaf, _ in module.named_parameters(recurse=False)
    }
    expected = {key for key in named if key.endswith(('.bias', *EXEMPT_STATE_SPACE))} | norms
    assert exempt == expected
    for ending in EXEMPT_STATE_SPACE:
        assert sum(key.endswith(ending) for key in exempt) == sum(model.backbone.depths)
    decayed = {key for key in named if key.startswith('backbone.')} - exempt
    assert {'.'.join(key.split('.')[-(2 if key.endswith('.weight') else 1) :]) for key in decayed} == (
        DECAYED_BACKBONE_LEAVES
    )
    assert all(named[key].ndim > 1 for key in decayed)


def test_detection_follows_its_recipe():
    cfg = Config.fromfile(CONFIGS / 'detection/mask_rcnn_defmamba_s_1x.py')
    assert cfg.train_cfg.max_epochs == 12
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (0.001, 1000, False)
    assert (steps.milestones, steps.gamma) == ([8, 11], 0.1)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert dict(type='RandomFlip', prob=0.5) in _plain(cfg.train_dataloader.dataset.pipeline)
    assert _plain(cfg.train_dataloader.dataset.pipeline)[2] == dict(type='Resize', scale=(1333, 800), keep_ratio=True)
    multi_scale = Config.fromfile(CONFIGS / 'detection/mask_rcnn_defmamba_s_ms_1x.py')
    resize = multi_scale.train_dataloader.dataset.pipeline[2]
    assert (resize.type, resize.scales[0], resize.scales[-1]) == ('RandomChoiceResize', (1333, 480), (1333, 800))
    assert multi_scale.val_dataloader == cfg.val_dataloader
    rates = {size: _backbone(f'detection/mask_rcnn_defmamba_{size}_1x.py').drop_path_rate for size in 'tsb'}
    assert rates == dict(t=0.1, s=0.2, b=0.4)


def test_segmentation_follows_its_recipe():
    cfg = Config.fromfile(CONFIGS / 'segmentation/upernet_defmamba_s_160k.py')
    assert cfg.train_cfg.max_iters == 160000
    warm_up, poly = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (1e-6, 1500, False)
    assert (poly.type, poly.power, poly.begin, poly.end, poly.eta_min) == ('PolyLR', 1.0, 1500, 160000, 0.0)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.model.decode_head.norm_cfg.type == 'SyncBN'
    assert (cfg.model.auxiliary_head.in_index, cfg.model.auxiliary_head.loss_decode.loss_weight) == (2, 0.4)
    assert cfg.model.test_cfg.mode == 'whole'
    pipeline = _plain(cfg.train_dataloader.dataset.pipeline)
    assert pipeline[2] == dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True)
    assert pipeline[3] == dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75)
    assert dict(type='PhotoMetricDistortion') in pipeline
    views = cfg.tta_pipeline[1]['transforms']
    assert [view['scale_factor'] for view in views[0]] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert [view['prob'] for view in views[1]] == [0.0, 1.0]
    rates = {size: _backbone(f'segmentation/upernet_defmamba_{size}_160k.py').drop_path_rate for size in 'tsb'}
    assert rates == dict(t=0.1, s=0.3, b=0.4)


def test_config_examples_in_the_docs_work(tmp_path):
    page = (CONFIGS.parent / 'docs/detection_segmentation.md').read_text()
    longer, own = (block.partition('```')[0] for block in page.split('```python\n')[1:])
    configs = []
    for text in (longer, own):
        path = tmp_path / f'{len(configs)}.py'
        path.write_text(text.replace("'./", f"'{CONFIGS}/detection/"))
        configs.append(Config.fromfile(path))
    longer, own = configs
    assert longer.train_cfg.max_epochs == 24
    assert longer.train_cfg.type == 'EpochBasedTrainLoop'
    assert [(step.type, step.end) for step in longer.param_scheduler] == [('LinearLR', 1000), ('MultiStepLR', 24)]
    assert own.train_dataloader.dataset.metainfo.classes == ('cat', 'dog')
    assert own.test_dataloader.dataset.data_root == 'data/mine/'
    assert own.test_evaluator.ann_file == 'data/mine/val.json'
    assert own.test_evaluator.metric == ['bbox', 'segm']


def _backbone(name):
    return Config.fromfile(CONFIGS / name).model.backbone


def _plain(pipeline):
    """Return the steps of a pipeline without the scope that MMEngine adds when a config inherits across packages."""
    return [{key: value for key, value in step.items() if key not in ('_scope_', 'backend_args')} for step in pipeline]
