import copy
import importlib
import sysconfig
from pathlib import Path

import pytest
import torch
from mmengine import Config
from torch import nn

from mmdefmamba.analysis import complexity, config_complexity, flops_text
from mmdefmamba.models import DefMamba

PICO = {'embed_dims': (8, 16), 'depths': (1, 1)}


def scan_flops_by_hand(height, width):
    """3.5 B D L N + 2 B D L over the blocks of PICO, D = 3 scans * C."""
    total = 0
    for dims, stride in ((8, 4), (16, 8)):
        length = -(-height // stride) * -(-width // stride)
        total += 3.5 * 3 * dims * length * 16 + 2 * 3 * dims * length
    return total


def test_counts_of_a_small_network_by_hand():
    model = DefMamba(PICO, scans=('raster',), out_indices=(1,)).train()
    counts = complexity(model, (3, 16, 24))
    linear = conv = norm = 0
    # stem: 3 -> 4 at 8x12, 4 -> 8 at 4x6; downsample 8 -> 16 at 2x3
    for cin, cout, size in ((3, 4, 96), (4, 8, 24), (8, 16, 6)):
        conv += 9 * cin * cout * size
        norm += 5 * cout * size
    for dims, size in ((8, 24), (16, 6)):
        linear += size * dims * (2 * dims + dims + 8 * dims)  # in_proj, out_proj, ffn
        linear += size * (dims * (1 + 32) + dims)  # x_proj with R = 1, dt_proj
        conv += 9 * dims * size
        norm += 2 * 5 * dims * size
    norm += 5 * 16 * 6
    assert counts['flops_without_scan'] == linear + conv + norm
    assert counts['params'] == sum(p.numel() for p in model.parameters())
    assert model.training, 'the mode is kept'


@pytest.mark.parametrize('scan_backend', ['auto', 'reference', 'mamba_ssm'])
def test_the_scan_is_counted_under_any_backend(scan_backend):
    counts = complexity(DefMamba(PICO, out_indices=(1,), scan_backend=scan_backend), (3, 33, 70))
    assert counts['scan_flops'] == scan_flops_by_hand(33, 70)
    assert counts['flops'] == counts['flops_without_scan'] + counts['scan_flops']
    assert counts['scan_flops_vmamba'] == pytest.approx(9 * 16 * counts['scan_flops'] / (3.5 * 16 + 2), rel=1e-6)


@pytest.mark.parametrize(
    ('config', 'options', 'without_scan', 'with_scan'),
    [
        ('classification/defmamba_t_in1k', {}, 1.17, 1.29),
        ('classification/defmamba_s_in1k', {}, 4.75, 5.00),
        ('classification/defmamba_s_in1k', {'model.backbone.formulation': 'released'}, 4.76, 5.01),
        *(
            pytest.param(*case, marks=pytest.mark.sweep)
            for case in [
                ('classification/defmamba_b_in1k', {'model.backbone.formulation': 'released'}, 8.52, 8.93),
                ('detection/mask_rcnn_defmamba_s_1x', {}, 268.01, 273.09),
                ('segmentation/upernet_defmamba_s_160k', {}, 945.55, 950.75),
            ]
        ),
    ],
)
def test_counts_match_the_published_numbers(config, options, without_scan, with_scan):
    """1.2 / 4.8 / 8.5 G without the scan and 1.3 / 5.0 / 8.9 G with it; 268 / 273 G; 946 / 950 G.

    All of them: python -m pytest -m 'sweep or not sweep' -k published tests/test_analysis/test_complexity.py
    """
    cfg = Config.fromfile(f'configs/{config}.py')
    cfg.merge_from_dict(options)
    counts, _ = config_complexity(cfg)
    assert counts['flops_without_scan'] / 1e9 == pytest.approx(without_scan, abs=0.005)
    assert counts['flops'] / 1e9 == pytest.approx(with_scan, abs=0.005)


@pytest.mark.parametrize(
    ('config', 'shape'),
    [
        ('classification/defmamba_pico_digits', (3, 224, 224)),
        ('detection/mask_rcnn_defmamba_pico_digits', (3, 1280, 800)),
        ('segmentation/upernet_defmamba_pico_digits', (3, 512, 2048)),
    ],
)
def test_images_have_the_size_of_the_paper_by_default(config, shape, monkeypatch):
    module = importlib.import_module('mmdefmamba.analysis.config_complexity')
    monkeypatch.setattr(module, 'complexity', lambda model, counted, forward: counted)
    assert config_complexity(Config.fromfile(f'configs/{config}.py')) == (shape, shape)


@pytest.mark.parametrize(
    ('flops', 'text'), [(1_171_253_568, '1.17 G'), (1e9, '1.00 G'), (1_714_208, '1.7 M'), (0, '0.0 M')]
)
def test_flops_have_a_unit_in_which_they_can_be_read(flops, text):
    assert flops_text(flops) == text


@pytest.mark.parametrize('shape', [(224, 224), (3, 0, 224)], ids=str)
def test_wrong_input_shape_is_refused_with_its_value(shape):
    with pytest.raises(ValueError, match='input_shape must be'):
        complexity(DefMamba(PICO, out_indices=(1,)), shape)


@pytest.mark.parametrize(
    ('need_weights', 'masked'), [(True, False), (True, True), (False, False), (False, True)], ids=str
)
def test_attention_counts_the_same_with_a_mask_and_fused(need_weights, masked):
    """4 linear layers and two products; MMEngine counts a masked product, and a fused attention, as 0."""
    layer = nn.MultiheadAttention(6, 2)
    mask = torch.zeros(20, 20) if masked else None

    def forward(images):
        tokens = images.reshape(20, 1, 6)
        return layer(tokens, tokens, tokens, attn_mask=mask, need_weights=need_weights)[0]

    counts = complexity(layer, (3, 8, 5), forward)
    assert counts['flops'] == 4 * 20 * 6 * 6 + 2 * 20 * 20 * 6


@pytest.fixture(scope='module')
def mmdet_configs():
    return Path(sysconfig.get_paths()['purelib'], 'mmdet/.mim/configs')


#: Four stages, whose maps of an image of 64 x 96 have 384, 96, 24 and 6 tokens.
FOUR = dict(type='DefMamba', arch=dict(embed_dims=(8, 16, 32, 64), depths=(1, 1, 1, 1)))


def detector_counts(name, **changes):
    """Return the counts of a config of mmdet with a small backbone, beyond those of that backbone."""
    cfg = Config.fromfile(name)
    backbone = dict(FOUR, **changes.pop('backbone', {}))
    cfg.merge_from_dict(dict(model=changes))
    cfg.model.backbone = backbone
    counts, _ = config_complexity(cfg, (64, 96))
    options = {key: value for key, value in backbone.items() if key != 'type'}
    return counts['flops'] - complexity(DefMamba(**copy.deepcopy(options)), (3, 64, 96))['flops']


def test_counts_of_a_cascade_by_hand(mmdet_configs):
    """1000 boxes go through the box head of each of 3 stages, and 100 boxes through its mask head."""
    width, hidden, classes = 16, 24, 5
    box = dict(in_channels=width, fc_out_channels=hidden, num_classes=classes)
    mask = dict(in_channels=width, conv_out_channels=width, num_classes=classes)
    found = detector_counts(
        mmdet_configs / 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
        neck=dict(in_channels=[8, 16, 32, 64], out_channels=width),
        rpn_head=dict(in_channels=width, feat_channels=width),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=width),
            bbox_head=dict.fromkeys('012', box),
            mask_roi_extractor=dict(out_channels=width),
            mask_head=mask,
        ),
    )
    tokens = (384, 96, 24, 6)
    neck = sum(size * (channels * width + 9 * width**2) for size, channels in zip(tokens, (8, 16, 32, 64), strict=True))
    neck += sum(tokens[:3]) * width  # enlarged maps of the next stage
    proposals = (sum(tokens) + 2) * (9 * width**2 + width * 3 * (1 + 4))  # the fifth map has 2 tokens
    boxes = 49 * width * hidden + hidden**2 + hidden * (classes + 1 + 4)
    masks = 14**2 * 4 * 9 * width**2 + 14**2 * 4 * width**2 + 28**2 * width * classes
    assert found == neck + proposals + 3 * (1000 * boxes + 100 * masks)


def test_counts_of_a_detr_by_hand(mmdet_configs):
    width, hidden, queries, tokens, classes = 16, 24, 10, 6, 5
    attention = dict(embed_dims=width, num_heads=2)
    ffn = dict(embed_dims=width, feedforward_channels=hidden)
    found = detector_counts(
        mmdet_configs / 'detr/detr_r50_8xb2-150e_coco.py',
        backbone=dict(out_indices=(3,)),
        neck=dict(in_channels=[64], out_channels=width),
        num_queries=queries,
        positional_encoding=dict(num_feats=width // 2),
        encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
        decoder=dict(num_layers=3, layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn)),
        bbox_head=dict(embed_dims=width, num_classes=classes),
    )

    def attend(rows, columns):
        return 2 * (rows + columns) * width**2 + 2 * rows * columns * width

    def others(rows, norms):
        return 2 * rows * width * hidden + norms * 5 * rows * width

    encoder = attend(tokens, tokens) + others(tokens, norms=2)
    decoder = attend(queries, queries) + attend(queries, tokens) + others(queries, norms=3 + 1)
    head = queries * (width * (classes + 1) + 2 * width**2 + 4 * width)
    assert found == 64 * width * tokens + 2 * encoder + 3 * (decoder + head)
