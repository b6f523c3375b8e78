"""The models that ``import mmdefmamba.timm`` registers with timm."""

import copy
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

timm = pytest.importorskip('timm')

from timm import data, optim  # noqa: E402
from timm.models._manipulate import group_parameters  # noqa: E402

import mmdefmamba.timm  # noqa: E402
from mmdefmamba.converters import export_released  # noqa: E402

DIMS = (48, 96, 192, 384)


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return timm.create_model('defmamba_tiny', num_classes=7).eval()


def classifier_of_mmpretrain(formulation, num_classes=7):
    import mmpretrain.models  # noqa: F401

    init_default_scope('mmpretrain')
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='DefMamba', formulation=formulation, out_indices=(3,)),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=384),
        )
    ).eval()


def test_six_names_are_registered_and_need_neither_mmcv_nor_the_task_libraries():
    code = (
        'import sys, mmdefmamba.timm, timm; print(*timm.list_models("defmamba_*")); '
        'print([name for name in ("mmcv", "mmpretrain", "mmdet", "mmseg") if name in sys.modules])'
    )
    out = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout.splitlines()
    sizes = ('base', 'small', 'tiny')
    assert out[0].split() == [f'defmamba_{size}{end}' for size in sizes for end in ('', '_released')]
    assert out[1] == '[]'


@pytest.mark.parametrize('formulation', ['paper', 'released'])
def test_timm_model_equals_mmpretrain_classifier(formulation, tmp_path):
    torch.manual_seed(0)
    ours = classifier_of_mmpretrain(formulation)
    torch.save({'state_dict': ours.state_dict(), 'meta': {}}, tmp_path / 'ours.pth')
    name = 'defmamba_tiny' + ('_released' if formulation == 'released' else '')
    model = timm.create_model(name, num_classes=7, checkpoint_path=tmp_path / 'ours.pth').eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert (model(x) - ours(x)).abs().max() <= 1e-6
        assert torch.equal(model.forward_features(x), ours.backbone(x)[-1])
    if formulation == 'released':  # a file of the authors, with the names of their code
        torch.save({'model': export_released(ours.state_dict())}, tmp_path / 'theirs.pth')
        theirs = timm.create_model(name, num_classes=7, checkpoint_path=tmp_path / 'theirs.pth').eval()
        assert all(map(torch.equal, theirs.state_dict().values(), model.state_dict().values()))
        with pytest.raises(ValueError, match="build it with formulation='released'"):
            timm.create_model('defmamba_tiny', num_classes=7, checkpoint_path=tmp_path / 'theirs.pth')


def test_maps_of_features_only_are_those_of_the_stages(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    features = timm.create_model('defmamba_tiny', features_only=True, checkpoint_path=tmp_path / 'model.pth').eval()
    assert features.feature_info.channels() == list(DIMS)
    assert features.feature_info.reduction() == [4, 8, 16, 32]
    x = torch.randn(1, 3, 33, 71)
    found = {}
    hooks = [
        stage.register_forward_hook(lambda *args, i=i: found.update({i: args[-1].permute(0, 3, 1, 2)}))
        for i, stage in enumerate(model.backbone.stages)
    ]
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        assert torch.equal(final, model.forward_features(x))
        assert len(maps) == 4
        for i, (whole, inner) in enumerate(zip(features(x), maps, strict=True)):
            assert torch.equal(whole, found[i]) and torch.equal(inner, found[i])
        few = timm.create_model('defmamba_tiny', features_only=True, out_indices=(-3, 2), img_size=224).eval()
        assert [tuple(out.shape) for out in few(x)] == [(1, 96, 5, 9), (1, 192, 3, 5)]
        assert len(few.model.backbone.stages) == 3 and few.feature_info.channels() == [96, 192]
    for hook in hooks:
        hook.remove()


def test_options_of_forward_intermediates(model):
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        final, maps = model.forward_intermediates(x)
        normed = model.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)
        assert len(normed) == 1 and torch.equal(normed[0], final)
        last = model.forward_intermediates(x, indices=[1, -1], output_fmt='NHWC', intermediates_only=True)
        assert torch.equal(last[0].permute(0, 3, 1, 2), maps[1]) and torch.equal(last[1].permute(0, 3, 1, 2), maps[3])
        early, [second] = model.forward_intermediates(x, indices=[1], stop_early=True)
        assert torch.equal(early, maps[1]) and torch.equal(second, maps[1])
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW' or 'NHWC', got 'NLC'"):
        model.forward_intermediates(x, output_fmt='NLC')
    with pytest.raises(TypeError, match='return_prefix_tokens'):
        model.forward_intermediates(x, return_prefix_tokens=True)
    with pytest.raises(ValueError, match=r'images must be \(batch, 3'):
        model.forward_intermediates(x[:, :1])


@pytest.mark.parametrize(('indices', 'norm'), [([0], True), ([1, 2], False), ([3], True)])
def test_pruned_model_has_no_parameter_without_gradient(model, indices, norm):
    pruned = copy.deepcopy(model).train()
    taken = pruned.prune_intermediate_layers(indices, prune_norm=not norm)
    assert taken == indices and pruned.num_classes == 0
    x = torch.randn(1, 3, 32, 32)
    maps = pruned.forward_intermediates(x, indices=taken, norm=norm, intermediates_only=True)
    sum(map(torch.sum, maps)).backward()
    assert [name for name, parameter in pruned.named_parameters() if parameter.grad is None] == []
    assert pruned.num_features == DIMS[indices[-1]] and pruned(x).shape[1] == DIMS[indices[-1]]


def test_classifier_and_pooling_can_be_replaced(model):
    model = copy.deepcopy(model)
    x = torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        assert torch.allclose(pooled, model.forward_features(x).mean((2, 3)), atol=1e-6)
        model.reset_classifier(0)
        assert torch.equal(model(x), pooled) and model.num_classes == 0
        model.reset_classifier(3, 'catavgmax')
        assert model(x).shape == (2, 3) and model.get_classifier().in_features == model.head_hidden_size == 768
        model.reset_classifier(0, '')
        assert torch.equal(model(x), model.forward_features(x))
    model = timm.create_model('defmamba_tiny', num_classes=0, global_pool='', in_chans=5)
    assert model(torch.randn(1, 5, 32, 32)).shape == (1, 384, 1, 1)


def test_groups_and_weight_decay_are_those_of_the_configs(model):
    depths = group_parameters(model, model.group_matcher(), reverse=True)
    for name, depth in depths.items():
        assert depth == model.backbone.get_layer_depth(name, 'backbone.')[0]
    assert (depths['backbone.stem.0.conv.weight'], depths['backbone.downsamples.0.conv.weight']) == (0, 3)
    assert (depths['backbone.stages.3.1.norm1.weight'], depths['head.fc.weight']) == (11, 12)
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert coarse['backbone.downsamples.0.conv.weight'] == coarse['backbone.stages.1.1.norm1.weight'] == 2
    assert (coarse['backbone.stem.0.conv.weight'], coarse['head.fc.weight']) == (0, 5)
    groups = optim.param_groups_layer_decay(model, 0.05, model.no_weight_decay(), layer_decay=0.5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed = {names[p] for group in groups if group['weight_decay'] for p in group['params']}
    scale = {names[p]: group['lr_scale'] for group in groups for p in group['params']}
    assert scale['backbone.stages.3.1.ffn.0.weight'] == 0.5 and scale['backbone.stem.0.conv.weight'] == 0.5**12
    parts = ('A_log', 'dt_proj_bias', 'table', 'norm', '.bias', '.D')
    assert not [name for name in decayed if any(part in name for part in parts)]
    assert {'backbone.stages.0.0.dssm.x_proj_weight', 'head.fc.weight'} <= decayed


def test_preprocessing_is_that_of_the_config():
    from mmpretrain.datasets.transforms import CenterCrop, ResizeEdge  # loads mmpretrain

    pixels = np.random.default_rng(0).integers(0, 256, (300, 411, 3), dtype=np.uint8)
    for name, interpolation in (('defmamba_tiny', 'bicubic'), ('defmamba_tiny_released', 'bilinear')):
        cfg = data.resolve_data_config(model=timm.create_model(name, device='meta'))
        image = data.create_transform(**cfg)(Image.fromarray(pixels))
        resized = ResizeEdge(scale=256, edge='short', backend='pillow', interpolation=interpolation)({'img': pixels})
        crop = CenterCrop(crop_size=224)(resized)['img'].astype(np.float32)
        expected = (crop - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
        assert np.abs(image.permute(1, 2, 0).numpy() - expected).max() < 1e-5


def test_checkpoint_of_a_training_loads_with_custom_load(model, tmp_path):
    file = str(tmp_path / 'epoch_1.pth')
    torch.save({'state_dict': model.state_dict(), 'message_hub': {'loss': HistoryBuffer([1.0], [1])}}, file)
    cfg = dict(file=file, custom_load=True, num_classes=7)
    loaded = timm.create_model('defmamba_tiny', True, pretrained_cfg_overlay=cfg, num_classes=7)
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    other = timm.create_model('defmamba_tiny', True, pretrained_cfg_overlay=cfg, num_classes=3, in_chans=1)
    stem = 'backbone.stem.0.conv.weight'
    assert torch.allclose(other.state_dict()[stem], model.state_dict()[stem].sum(1, keepdim=True))
    with pytest.raises(RuntimeError, match='No pretrained weights exist for defmamba_tiny'):
        timm.create_model('defmamba_tiny', pretrained=True)


def test_models_are_copied_pickled_compiled_and_halved(model):
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
        half = copy.deepcopy(model).bfloat16()(x.bfloat16())
        assert half.dtype == torch.bfloat16 and (half - expected).abs().max() < 0.05
        compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
        assert torch.allclose(compiled(x), expected, atol=1e-5)
    for part in (model, model.backbone):
        with pytest.raises(TypeError, match=r'cannot be compiled by torch\.jit\.script'):
            torch.jit.script(part)


def test_checkpointing_gives_equal_gradients(model):
    x, gradients = torch.randn(1, 3, 32, 32), []
    for enable in (False, True):
        copied = copy.deepcopy(model).train()
        copied.set_grad_checkpointing(enable)
        copied(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in copied.parameters()])
    assert all(map(torch.equal, *gradients))


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match='not_an_argument'):
        timm.create_model('defmamba_tiny', not_an_argument=1)
    with pytest.raises(ValueError, match='out_indices selects maps, which need features_only=True'):
        timm.create_model('defmamba_tiny', out_indices=(1,))
    with pytest.raises(ValueError, match="feature_cls must be 'getter'"):
        timm.create_model('defmamba_tiny', features_only=True, feature_cls='hook')
    with pytest.raises(ValueError, match='output_stride must be 32'):
        timm.create_model('defmamba_tiny', features_only=True, output_stride=16)
    with pytest.raises(ValueError, match="did you mean 'raster'"):
        timm.create_model('defmamba_tiny', scans=['rastr'])


def test_arguments_reach_the_backbone():
    model = timm.create_model(
        'defmamba_tiny', scans=['local'], img_size=(64, 128), drop_rate=0.3, drop_path_rate=0.1, device='meta'
    )
    assert isinstance(model.backbone.stages[0][0].dssm.scans, torch.nn.ModuleList)
    assert len(model.backbone.stages[0][0].dssm.scans) == 1 and model.head.drop.p == 0.3
    assert model.backbone.stages[3][1].drop_path.drop_prob == pytest.approx(0.1)
    model = timm.create_model('defmamba_tiny', img_size=(64, 128), device='meta', dtype=torch.float16)
    assert model.backbone.stages[0][0].dssm.scans[2].offset_bias.table.shape[1:] == (16, 32)
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert {p.device.type for p in model.parameters()} == {'meta'}


def test_missing_timm_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm.layers', None)
    monkeypatch.delitem(sys.modules, 'mmdefmamba.timm')
    with pytest.raises(ImportError, match=r"Install it with pip install 'mmdefmamba\[timm\]'"):
        __import__('mmdefmamba.timm')
    assert isinstance(mmdefmamba.timm, types.ModuleType)
