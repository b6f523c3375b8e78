"""Numbers stay right in half precision, over long sequences, with ties, in repeated runs and in any batch."""

from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import set_random_seed

import mmdefmamba  # noqa: F401  before the libraries' models
from mmdefmamba.datasets.digits import load_digits_split
from mmdefmamba.models import DefMamba
from mmdefmamba.scans import ScanContext, build_scan

CONFIGS = Path(__file__).parents[2] / 'configs'
PICO = {'embed_dims': (8, 16, 32, 64), 'depths': (1, 2, 1, 1)}
HALF = pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')]
DEVICE = pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=gpu)])


def build(device, arch=PICO, **kwargs):
    torch.manual_seed(0)
    return DefMamba(arch, **{'pretrain_img_size': 64, **kwargs}).to(device)


def assert_finite(model, images, dtype, halvings=0):
    """Check one step in mixed precision: maps are finite, and so are gradients after GradScaler has found its scale.

    Args:
        halvings: how often GradScaler may halve its first scale, 65,536.
    """
    device = images.device.type
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    for halved in range(halvings + 1):  # noqa: B007
        optimizer.zero_grad()
        with torch.autocast(device, dtype=dtype):
            outs = model(images)
            loss = sum(out.float().square().mean() for out in outs)
        assert [i for i, out in enumerate(outs) if not out.isfinite().all()] == []
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        infinite = [name for name, parameter in model.named_parameters() if not parameter.grad.isfinite().all()]
        scaler.step(optimizer)
        scaler.update()
        if not infinite or dtype != torch.float16:
            break
    print(f'{dtype}: scale halved {halved} times')
    assert infinite == []
    assert any(parameter.grad.any() for parameter in model.parameters())
    return outs


@HALF
@DEVICE
def test_large_images_stay_finite(device, dtype):
    images = 1e4 * torch.randn(2, 3, 64, 96, device=device)
    assert_finite(build(device), images, dtype)


@HALF
@DEVICE
def test_large_activations_stay_finite(device, dtype):
    """The inputs of the state space models are ten thousand times as large, and the models multiply four of them.

    Gradients of 1e8 and more exceed float16 under any scale of 1 or more, so GradScaler halves its scale many times.
    """
    model = build(device)
    for name, parameter in model.named_parameters():
        if name.endswith('norm1.weight'):
            parameter.data *= 1e4
    assert_finite(model, torch.randn(2, 3, 64, 96, device=device), dtype, halvings=32)


@HALF
@DEVICE
@pytest.mark.parametrize('step', [1e4, 1e8])
def test_large_time_steps_stay_finite(device, dtype, step):
    model = build(device)
    for name, parameter in model.named_parameters():
        if name.endswith('dt_proj_bias'):
            parameter.data.fill_(step)
    assert_finite(model, torch.randn(2, 3, 64, 96, device=device), dtype)


@HALF
@DEVICE
def test_long_sequences_stay_finite(device, dtype):
    """65,536 tokens: in float16 this number is infinity."""
    model = build(device, dict(embed_dims=(2,), depths=(1,)), out_indices=0)
    (out,) = assert_finite(model, torch.randn(1, 3, 1024, 1024, device=device), dtype)
    assert out.shape[-2:] == (256, 256)


def digits(device, count):
    images, labels = load_digits_split('train')
    images = torch.from_numpy(images[:count]).float().unsqueeze(1).expand(-1, 3, -1, -1)
    images = F.interpolate(images, (32, 32), mode='bicubic')
    return ((images - 127.5) / 127.5).to(device), torch.from_numpy(labels[:count]).to(device)


@cache
def train_on_digits(device, dtype, steps, seed):
    """Train a small classifier with the loss and optimizer of the pico config, in batches of 16.

    The seed determines the weights, the batches and the dropped paths.

    Returns:
        Mean loss over the last fifth of the steps, and the number of steps that GradScaler skipped.
    """
    from mmpretrain.structures import DataSample

    cfg = Config.fromfile(CONFIGS / 'classification/defmamba_pico_digits.py')
    cfg.model.backbone.update(arch=dict(embed_dims=(8, 16), depths=(1, 1)), out_indices=1)
    cfg.model.head.in_channels = 16
    init_default_scope(cfg.default_scope)
    torch.manual_seed(10**6 * seed)
    model = MODELS.build(cfg.model).to(device)
    model.init_weights()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    images, labels = digits(device, 1437)
    losses, skipped = [], 0
    for step in range(steps):
        for group in optimizer.param_groups:
            group['lr'] = 2e-3 * min(1, (step + 1) / 66)  # the config's warm-up
        torch.manual_seed(10**6 * seed + step)
        chosen = torch.randint(len(labels), (16,))
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            samples = [DataSample().set_gt_label(label) for label in labels[chosen]]
            loss = model(images[chosen], samples, mode='loss')['loss']
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        skipped += not torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0).isfinite()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    last = losses[-(steps // 5) :]
    return sum(last) / len(last), skipped


@HALF
@DEVICE
def test_mixed_precision_learns_as_float32(device, dtype, request):
    """The loss after a few steps. The promise is about ``--steps 200``, where the test compares means over eight seeds:
    with other rounding a training soon takes another course, and its loss is higher or lower by chance.
    """
    steps = request.config.getoption('--steps')
    differences = []
    for seed in range(8 if steps else 1):
        expected, _ = train_on_digits(device, torch.float32, steps or 8, seed)
        found, skipped = train_on_digits(device, dtype, steps or 8, seed)
        differences.append(found / expected - 1)
        print(f'{dtype}, seed {seed}: loss {found:.4f}, in float32 {expected:.4f}; {skipped} steps skipped')
        assert skipped <= 3 * (dtype == torch.float16), 'GradScaler starts from 65,536'
    mean = sum(differences) / len(differences)
    print(f'{dtype}: {mean:+.2%}, from {min(differences):+.2%} to {max(differences):+.2%}')
    assert abs(mean) <= 0.02


# -- Ties.


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('formulation', ['paper', 'released'])
@DEVICE
@pytest.mark.parametrize('size', [(5, 13), (1, 257), (1, 65537)], ids=str)
def test_ties_are_broken_by_place_on_every_device_and_in_every_dtype(size, device, formulation, dtype):
    """With offsets of -1, 0 and 1, about one token in six gets the same key as another token."""
    scan = build_scan(dict(type='deformable', points=False, offset_bias=False), ScanContext(2, 1, (8, 6), formulation))
    length = size[0] * size[1]
    offset = torch.randint(-1, 2, (2, length), generator=torch.Generator().manual_seed(0))
    raw = (offset * 100).view(2, 1, *size).to(device, dtype)  # tanh gives exactly 1
    scan.offset_network.forward = lambda u: raw
    _, order = scan(torch.zeros(2, 2, *size, device=device, dtype=dtype))
    for found, offsets in zip(order.order.tolist(), offset.tolist(), strict=True):
        place = [2 * k + offsets[k] * (length - 1) for k in range(length)]
        assert len(set(place)) < 0.95 * length
        assert found == sorted(range(length), key=place.__getitem__)  # Python's sort is stable


# -- The same numbers in each run.


@pytest.fixture
def deterministic():
    """The mode that MMEngine sets for ``randomness=dict(seed=0, deterministic=True)``."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    set_random_seed(0, deterministic=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize('scans', [('raster', 'raster_reverse', 'deformable'), ('quadtree', 'spanning_tree')], ids=str)
@pytest.mark.parametrize('formulation', ['paper', 'released'])
@DEVICE
def test_deterministic_runs_are_equal_bit_for_bit(device, formulation, scans, deterministic):
    """In this mode new memory is filled with NaN, so a read before the first write is seen."""
    runs = []
    for _ in range(2):
        model = build(device, formulation=formulation, scans=scans, drop_path_rate=0.3)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        images = torch.randn(2, 3, 45, 70, device=device)
        for _ in range(2):
            optimizer.zero_grad()
            sum(out.square().mean() for out in model(images)).backward()
            optimizer.step()
        runs.append(list(model.parameters()))
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(*runs, strict=True))


# -- An image alone and in a batch.


@DEVICE
@pytest.mark.parametrize('others', [1, 6])
@pytest.mark.usefixtures('whole_float32')
def test_features_do_not_depend_on_the_rest_of_the_batch(device, others):
    model = build(device).eval()
    images = torch.randn(1 + others, 3, 96, 72, device=device)
    images[1:] *= 100
    with torch.no_grad():
        for alone, together in zip(model(images[:1]), model(images), strict=True):
            difference = (together[0] - alone[0]).abs().max() / alone.abs().max()
            print(f'{tuple(alone.shape)} beside {others}: {difference:.1e}')
            assert difference < 1e-5
