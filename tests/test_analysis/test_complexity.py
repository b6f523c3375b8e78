import pytest
from mmengine import Config

from mmdefmamba.analysis import complexity, config_complexity
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
    ('config', 'options', 'shape', 'without_scan', 'with_scan'),
    [
        ('classification/defmamba_t_in1k', {}, (224, 224), 1.17, 1.29),
        ('classification/defmamba_s_in1k', {}, (224, 224), 4.75, 5.00),
        ('classification/defmamba_s_in1k', {'model.backbone.formulation': 'released'}, (224, 224), 4.76, 5.01),
        ('classification/defmamba_b_in1k', {'model.backbone.formulation': 'released'}, (224, 224), 8.52, 8.93),
        ('detection/mask_rcnn_defmamba_s_1x', {}, (1280, 800), 268.01, 273.09),
        ('segmentation/upernet_defmamba_s_160k', {}, (512, 2048), 945.55, 950.75),
    ],
)
def test_counts_match_the_published_numbers(config, options, shape, without_scan, with_scan):
    """1.2 / 4.8 / 8.5 G without the scan and 1.3 / 5.0 / 8.9 G with it; 268 / 273 G; 946 / 950 G."""
    cfg = Config.fromfile(f'configs/{config}.py')
    cfg.merge_from_dict(options)
    counts, counted_shape = config_complexity(cfg)
    assert counted_shape == (3, *shape)
    assert counts['flops_without_scan'] / 1e9 == pytest.approx(without_scan, abs=0.005)
    assert counts['flops'] / 1e9 == pytest.approx(with_scan, abs=0.005)


@pytest.mark.parametrize('shape', [(224, 224), (3, 0, 224)], ids=str)
def test_wrong_input_shape_is_refused_with_its_value(shape):
    with pytest.raises(ValueError, match='input_shape must be'):
        complexity(DefMamba(PICO, out_indices=(1,)), shape)
