import pytest
import torch
from mmengine.registry import MODELS

import mmdefmamba  # noqa: F401
from mmdefmamba.checkpoints import PretrainedInit
from mmdefmamba.models import DefMamba

ARCH = dict(embed_dims=(8, 16), depths=(1, 1))
SMALL = dict(arch=ARCH, pretrain_img_size=32, out_indices=(0, 1))


@pytest.fixture
def classifier(tmp_path):
    """A checkpoint as mmpretrain writes it: one output norm, and a head."""
    torch.manual_seed(1)
    backbone = DefMamba(arch=ARCH, pretrain_img_size=32, out_indices=(1,))
    state = {f'backbone.{key}': torch.randn_like(value) for key, value in backbone.state_dict().items()}
    state['head.fc.weight'] = torch.zeros(10, 16)
    path = tmp_path / 'classifier.pth'
    torch.save(dict(state_dict=state, meta=dict(epoch=3)), path)
    return path, state


def build(path, **kwargs):
    init_cfg = dict(type='Pretrained', checkpoint=path and str(path), **{'prefix': 'backbone.', **kwargs})
    return MODELS.build(dict(type='DefMamba', init_cfg=init_cfg, **SMALL))


def test_backbone_takes_a_classification_checkpoint_and_reports_it(classifier, told):
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
    assert f'{total - 2} of {total} parameters loaded from {path}' in report
    assert 'kept their initial values: norm0.weight, norm0.bias;' in report
    assert 'have another shape there: none; not used: none' in report


@pytest.mark.parametrize('prefix', ['backbone', 'backbone.'])
def test_prefix_may_end_in_a_dot_or_not(classifier, prefix):
    path, state = classifier
    backbone = build(path, prefix=prefix)
    backbone.init_weights()
    assert torch.equal(backbone.stem[0].conv.weight, state['backbone.stem.0.conv.weight'])


def test_checkpoint_of_another_image_size_says_which_tables_it_cannot_give(classifier, told):
    path, state = classifier
    backbone = MODELS.build(
        dict(
            type='DefMamba',
            arch=ARCH,
            pretrain_img_size=64,
            init_cfg=dict(type='Pretrained', checkpoint=str(path), prefix='backbone.'),
            out_indices=(1,),
        )
    )
    backbone.init_weights()
    assert torch.equal(backbone.stem[0].conv.weight, state['backbone.stem.0.conv.weight'])
    [report] = [text for level, text in told if level == 'WARNING']
    assert 'have another shape there: stages.0.0.dssm.scans.2.offset_bias.table, stages.1' in report


@pytest.mark.parametrize('prefix', [None, 'neck.', 'head.'])
def test_nothing_that_matches_is_an_error(classifier, prefix):
    path, _ = classifier
    with pytest.raises(ValueError, match=rf'classifier.pth holds nothing for DefMamba.*prefix={prefix!r}'):
        build(path, prefix=prefix).init_weights()


def test_a_file_of_another_arch_is_an_error_if_no_shape_fits(tmp_path):
    other = DefMamba(arch=dict(embed_dims=(20, 40), depths=(1, 1)), pretrain_img_size=16, out_indices=(0, 1))
    wide = {key: value for key, value in other.state_dict().items() if 'channel_attention' not in key}
    torch.save(dict(state_dict={f'backbone.{key}': value[..., :1] for key, value in wide.items()}), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='but none has its shape too'):
        build(tmp_path / 'x.pth').init_weights()


def test_no_checkpoint_trains_from_random_weights():
    backbone = build(None)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.init_weights()
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_other_modules_of_mmengine_get_the_same_initializer(classifier):
    path, _ = classifier
    with pytest.raises(ValueError, match='holds nothing for Linear'):
        PretrainedInit(str(path), prefix='backbone.')(torch.nn.Linear(2, 2))
