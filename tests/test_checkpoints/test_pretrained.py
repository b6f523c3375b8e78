"""Loading with ``init_cfg=dict(type='Pretrained')``, by a DefMamba and by modules of other packages."""

import copy
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict

import mmdefmamba  # noqa: F401
from mmdefmamba.models import DefMamba

ARCH = dict(embed_dims=(8, 16), depths=(1, 1))
SMALL = dict(arch=ARCH, pretrain_img_size=32, out_indices=(0, 1))


@pytest.fixture
def classifier(tmp_path):
    """Return the path and the weights of a checkpoint as mmpretrain writes it, with one output norm and a head."""
    torch.manual_seed(1)
    backbone = DefMamba(arch=ARCH, pretrain_img_size=32, out_indices=(1,))
    state = {f'backbone.{key}': torch.randn_like(value) for key, value in backbone.state_dict().items()}
    state['head.fc.weight'] = torch.zeros(10, 16)
    path = tmp_path / 'classifier.pth'
    torch.save(dict(state_dict=state, meta=dict(epoch=3)), path)
    return path, state


def build(path, **kwargs):
    init_cfg = dict(type='Pretrained', checkpoint=path and str(path), prefix='backbone.')
    init_cfg |= {key: kwargs.pop(key) for key in ('prefix', 'weights', 'output_norms') if key in kwargs}
    return MODELS.build(dict(type='DefMamba', init_cfg=init_cfg, **{**SMALL, **kwargs}))


def test_backbone_loads_a_classification_checkpoint_and_reports_it(classifier, told):
    path, state = classifier
    backbone = build(path)
    norm0 = backbone.norm0.weight.clone()
    backbone.init_weights()
    own = backbone.state_dict()
    for key in own.keys() - {'norm0.weight', 'norm0.bias'}:
        torch.testing.assert_close(own[key], state[f'backbone.{key}'], rtol=0, atol=0)
    torch.testing.assert_close(own['norm0.weight'], norm0, rtol=0, atol=0)
    total = len(own)
    [report] = [text for level, text in told if level == 'INFO' and text.startswith('DefMamba: ')]
    assert f'{total - 2} of {total} parameters and buffers loaded from {path}' in report
    assert report.endswith('; 2 missing in the checkpoint: norm0.weight, norm0.bias')


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
def test_prefix_works_with_and_without_trailing_dot(classifier, prefix):
    path, state = classifier
    backbone = build(path, prefix=prefix)
    backbone.init_weights()
    assert torch.equal(backbone.stem[0].conv.weight, state['backbone.stem.0.conv.weight'])


@pytest.mark.parametrize('prefix', [None, 'neck.', 'head.'])
def test_checkpoint_without_a_matching_entry_is_refused(classifier, prefix):
    path, _ = classifier
    with pytest.raises(ValueError, match=rf'classifier.pth has no weight for DefMamba.*prefix={prefix!r}'):
        build(path, prefix=prefix).init_weights()


def test_checkpoint_of_another_arch_is_refused(tmp_path):
    other = DefMamba(arch=dict(embed_dims=(20, 40), depths=(1, 1)), pretrain_img_size=16, out_indices=(0, 1))
    narrow = {key: value for key, value in other.state_dict().items() if 'channel_attention' not in key}
    torch.save(
        dict(state_dict={f'backbone.{key}': value[..., :1] for key, value in narrow.items()}), tmp_path / 'x.pth'
    )
    with pytest.raises(
        ValueError, match=r'x\.pth has no weight for DefMamba.*\(20, 10, 3, 1\) instead of \(8, 4, 3, 3\)'
    ):
        build(tmp_path / 'x.pth').init_weights()


def test_backbone_without_a_checkpoint_keeps_its_random_weights(told):
    backbone = build(None)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.init_weights()
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    assert ('INFO', 'DefMamba starts from random weights: its init_cfg names no checkpoint') in told


def test_other_initializers_run_before_the_checkpoint_and_init_cfg_is_kept(classifier):
    path, state = classifier
    init_cfg = [dict(type='Constant', layer='LayerNorm', val=7.0), dict(type='Pretrained', checkpoint=str(path))]
    init_cfg[1]['prefix'] = 'backbone.'
    backbone = MODELS.build(dict(type='DefMamba', init_cfg=copy.deepcopy(init_cfg), **SMALL))
    backbone.init_weights()
    assert backbone.init_cfg == init_cfg and backbone.is_init
    assert (backbone.norm0.weight == 7).all()  # the checkpoint does not have it
    assert torch.equal(backbone.norm1.weight, state['backbone.norm1.weight'])


# ---- offset bias tables


def tables_of(state):
    return {key: value for key, value in state.items() if key.endswith('offset_bias.table')}


@pytest.mark.parametrize('size', [64, 48, (80, 32)])
def test_tables_of_another_image_size_are_resized_and_reported_once(classifier, size, caplog):
    path, state = classifier
    backbone = build(path, pretrain_img_size=size, out_indices=(1,))
    with caplog.at_level('INFO', logger='mmdefmamba'):
        backbone.init_weights()
    for key, table in tables_of(state).items():
        own = backbone.state_dict()[key.removeprefix('backbone.')]
        assert own.shape[1:] == tuple(-(-s // (4 if 'stages.0' in key else 8)) for s in backbone_size(size))
        expected = torch.nn.functional.interpolate(table[None], own.shape[1:], mode='bilinear', align_corners=True)
        torch.testing.assert_close(own, expected[0], rtol=0, atol=0)
    [report] = [record.getMessage() for record in caplog.records if 'offset bias' in record.getMessage()]
    assert report.startswith('2 offset bias tables of the checkpoint are resized to the pretrain_img_size of the model')
    assert 'those of stages.0 from 8 x 8 to' in report


def backbone_size(size):
    return (size, size) if isinstance(size, int) else size


def test_resized_table_is_the_same_function_of_position():
    """At the normalised positions of the entries of the small table, the large table has the same values."""
    torch.manual_seed(0)
    small, large = (DefMamba(**{**SMALL, 'pretrain_img_size': side}) for side in (16, 28))
    state = small.double().state_dict()
    large.double().load_state_dict(state)
    for name, table in tables_of(state).items():
        own = large.state_dict()[name]
        # each position of the small table occurs in the large one
        assert (table.shape[1], own.shape[1]) in ((4, 7), (2, 4))
        positions = torch.linspace(-1, 1, table.shape[1], dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(positions, positions, indexing='xy'), -1)[None]
        read = torch.nn.functional.grid_sample(own[None], grid, align_corners=True)[0]
        torch.testing.assert_close(read, table)


def test_features_do_not_change_with_resized_tables():
    torch.manual_seed(0)
    small, large = (DefMamba(**{**SMALL, 'pretrain_img_size': side}).double().eval() for side in (32, 60))
    for name, parameter in small.named_parameters():
        if name.endswith('offset_bias.table'):  # a weighted sum of the coordinates, which resizing keeps exactly
            axis = torch.linspace(-1, 1, parameter.shape[1], dtype=torch.float64)
            parameter.data = (axis[:, None] + 2 * axis).expand_as(parameter).clone()
    large.load_state_dict(small.state_dict())
    image = torch.randn(1, 3, 40, 48, dtype=torch.float64)
    for a, b in zip(small(image), large(image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(('file', 'model'), [('paper', 'released'), ('released', 'paper')])
def test_tables_of_the_other_formulation_are_refused(file, model, tmp_path):
    state = DefMamba(arch=ARCH, pretrain_img_size=32, formulation=file, out_indices=(0, 1)).state_dict()
    torch.save(dict(state_dict={f'backbone.{key}': value for key, value in state.items()}), tmp_path / 'x.pth')
    message = f"belong to formulation='{file}', the model has formulation='{model}'; build it with formulation='{file}'"
    with pytest.raises(ValueError, match=message):
        build(tmp_path / 'x.pth', formulation=model).init_weights()
    with pytest.raises(ValueError, match=message):
        DefMamba(**SMALL, formulation=model).load_state_dict(state)


def test_tables_of_an_impossible_size_are_refused():
    state = DefMamba(**SMALL).state_dict()
    state['stages.1.0.dssm.scans.2.offset_bias.table'] = torch.zeros(16, 9, 9)
    with pytest.raises(ValueError, match=r'the checkpoint, 8 x 8, 9 x 9, belong to no formulation'):
        DefMamba(**SMALL).load_state_dict(state)


def test_loading_does_not_change_the_given_state_dict():
    state = DefMamba(**SMALL).state_dict()
    before = {key: value.clone() for key, value in state.items()}
    DefMamba(**{**SMALL, 'pretrain_img_size': 64}).load_state_dict(state)
    assert all(torch.equal(before[key], value) for key, value in state.items())


# ---- stages that the backbone does not have

DEEP = dict(arch=dict(embed_dims=(8, 16, 32), depths=(1, 1, 2)), pretrain_img_size=32)


@pytest.fixture
def deep():
    torch.manual_seed(2)
    return DefMamba(**DEEP).state_dict()


def test_whole_checkpoint_loads_into_a_shorter_backbone_and_one_line_says_what_is_left_out(
    deep, tmp_path, told, caplog
):
    torch.save(dict(state_dict={f'backbone.{key}': value for key, value in deep.items()}), tmp_path / 'x.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'), prefix='backbone.')
    short = DefMamba(**DEEP, out_indices=1, init_cfg=init_cfg)
    with caplog.at_level('INFO', logger='mmdefmamba'):
        short.init_weights()
    own = short.state_dict()
    assert all(torch.equal(value, deep[key]) for key, value in own.items())
    [report] = [text for level, text in told if text.startswith('DefMamba: ')]
    assert f'{len(own)} of {len(own)} parameters and buffers loaded' in report and report.endswith('; it fits exactly')
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(f'{len(deep) - len(own)} entries of the checkpoint are left out')
    assert line.endswith('this backbone with out_indices=(1,) does not need them')


@pytest.mark.parametrize('strict', [True, False])
def test_whole_checkpoint_loads_without_warnings_as_load_from_does(deep, strict, told):
    model = torch.nn.ModuleDict(dict(backbone=DefMamba(**DEEP, out_indices=0)))
    state = {f'backbone.{key}': value for key, value in deep.items()}
    before = dict(state)
    load_state_dict(model, OrderedDict(state), strict=strict, logger='current')
    model.load_state_dict(state, strict=strict)
    assert [level for level, _ in told] == ['INFO'] * 2 and 'are left out' in told[0][1] and state == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    'name', ['stages.2.2.norm1.weight', 'stages.3.0.norm1.weight', 'downsamples.2.norm.bias', 'norm3.bias', 'norm.bias']
)
def test_an_entry_that_the_arch_does_not_have_is_still_reported(deep, name):
    deep[name] = torch.zeros(4)
    with pytest.raises(RuntimeError, match=rf'Unexpected key\(s\) in state_dict: "{name}"'):
        DefMamba(**DEEP, out_indices=1).load_state_dict(deep)


@pytest.mark.parametrize(('file', 'model'), [('paper', 'released'), ('released', 'paper')])
def test_tables_of_the_other_formulation_are_refused_by_a_backbone_of_one_stage(file, model):
    """A first table of 7 x 7 belongs to both formulations; the other stages of the checkpoint tell them apart."""
    sizes = dict(paper=28, released=64)
    state = DefMamba(**{**DEEP, 'pretrain_img_size': sizes[file]}, formulation=file).state_dict()
    short = DefMamba(**{**DEEP, 'pretrain_img_size': sizes[model]}, formulation=model, out_indices=0)
    if model == 'released':
        assert tables_of(short.state_dict()).keys() <= tables_of(state).keys()
    with pytest.raises(ValueError, match=f"belong to formulation='{file}'"):
        short.load_state_dict(state)


# ---- modules of other packages

VIT = """
import sys
import torch
{first}
from mmpretrain.models import VisionTransformer
arch = dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8)
def vit(size, init_cfg=None):
    torch.manual_seed(size)
    return VisionTransformer(arch, img_size=size, patch_size=16, init_cfg=init_cfg)
path = sys.argv[1]
torch.save(dict(state_dict={{'backbone.' + k: v for k, v in vit(64).state_dict().items()}}, meta={{}}), path)
found = {{}}
for prefix in ('backbone.', None):
    if prefix is None:
        torch.save(dict(state_dict=vit(64).state_dict()), path)
    model = vit(128, dict(type='Pretrained', checkpoint=path, prefix=prefix))
    model.init_weights()
    found[prefix] = model.state_dict()
torch.save(found, sys.argv[2])
"""


def test_other_modules_load_exactly_as_without_this_package(tmp_path):
    """mmpretrain's ViT resizes its position embedding in a loading hook. The result must not depend on our import."""
    results = []
    for name, first in (('with', 'import mmdefmamba'), ('without', '')):
        out = tmp_path / f'{name}.pt'
        code = VIT.format(first=first)
        subprocess.run([sys.executable, '-c', code, tmp_path / 'vit.pth', out], check=True, capture_output=True)
        results.append(torch.load(out))
    with_us, without = results
    for prefix in ('backbone.', None):
        assert with_us[prefix].keys() == without[prefix].keys()
        assert all(torch.equal(value, without[prefix][key]) for key, value in with_us[prefix].items())
        # 8 x 8 patches and the class token; the values are interpolated from 4 x 4 patches and not random
        embedding = with_us[prefix]['pos_embed']
        assert embedding.shape == (1, 65, 8) and torch.equal(embedding, with_us['backbone.']['pos_embed'])
    assert sorted(torch.load(tmp_path / 'vit.pth')['state_dict']) == sorted(with_us[None])


def test_metadata_of_a_checkpoint_reaches_the_modules(tmp_path):
    """Modules read their own version from it. A BatchNorm of version 1, for example, has no counter of batches."""
    seen = []

    class Versioned(DefMamba):
        _version = 3

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
            seen.append(local_metadata.get('version'))
            super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    model = torch.nn.ModuleDict({'backbone': Versioned(**SMALL)})
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'x.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'), prefix='backbone.')
    Versioned(**SMALL, init_cfg=init_cfg).init_weights()
    assert set(seen) == {3}


def test_fresh_output_norms_leave_out_the_norm_of_the_classifier(classifier, told):
    path, state = classifier
    norm = state['backbone.norm1.weight']
    loaded, fresh = build(path), build(path, output_norms='fresh')
    for backbone in (loaded, fresh):
        backbone.init_weights()
    assert torch.equal(loaded.norm1.weight, norm) and not torch.equal(norm, torch.ones(16))
    assert torch.equal(fresh.norm1.weight, torch.ones(16)) and torch.equal(fresh.norm1.bias, torch.zeros(16))
    assert torch.equal(fresh.stages[1][0].norm1.weight, state['backbone.stages.1.0.norm1.weight'])
    assert any("; output_norms='fresh': norm1.weight, norm1.bias left out; " in text for _, text in told)


@pytest.fixture
def averaged(classifier):
    """Return the path of a checkpoint as MMEngine's EMAHook leaves it, its averages, and its raw weights."""
    path, averages = classifier
    raw = {name: value + 1 for name, value in averages.items()}
    before = {f'module.{name}': value for name, value in raw.items()} | {'steps': torch.tensor(7)}
    torch.save(dict(state_dict=averages, ema_state_dict=before), path)
    return path, averages, raw


@pytest.mark.parametrize('weights', [None, 'ema', 'raw'])
def test_raw_or_averaged_weights(averaged, weights, told):
    path, averages, raw = averaged
    backbone = build(path, weights=weights)
    backbone.init_weights()
    expected = raw if weights == 'raw' else averages
    assert torch.equal(backbone.norm1.weight, expected['backbone.norm1.weight'])
    which = 'its weights before averaging' if weights == 'raw' else 'its averaged weights'
    assert any(which in text for _, text in told)


def test_raw_weights_of_a_checkpoint_without_averages_are_its_weights(classifier):
    path, state = classifier
    backbone = build(path, weights='raw')
    backbone.init_weights()
    assert torch.equal(backbone.norm1.weight, state['backbone.norm1.weight'])
    with pytest.raises(ValueError, match=r"weights='ema': .*classifier.pth has no averaged weights"):
        build(path, weights='ema').init_weights()


@pytest.mark.parametrize('argument', ['weights', 'output_norms'])
def test_unknown_choices_are_refused(classifier, argument):
    with pytest.raises(ValueError, match=f"{argument} must be one of .*, got 'new'"):
        build(classifier[0], **{argument: 'new'}).init_weights()
