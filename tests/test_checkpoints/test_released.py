"""Conversion of the names and weights of the authors' checkpoints: nothing is lost, exchanged or invented."""

import pytest
import torch

from mmdefmamba.converters import convert_released, export_released, infer_network
from mmdefmamba.models import DefMamba

ARCH = {'embed_dims': (16, 32, 64, 128), 'depths': (1, 2, 1, 1)}


def downstream(checkpoint):
    """Return the same backbone as a detection or segmentation file, with four output norms and the heads of others."""
    weights = {f'backbone.{k}': v for k, v in checkpoint['model'].items() if not k.startswith('classifier.')}
    for i, dims in enumerate(ARCH['embed_dims']):
        weights |= {f'backbone.outnorm{i}.weight': torch.rand(dims), f'backbone.outnorm{i}.bias': torch.rand(dims)}
    # names that contain a name of the authors after the name of a head
    for name in ('neck.layers.0.blocks.0.norm.weight', 'decode_head.patch_embed.0.weight', 'rpn_head.classifier.norm'):
        weights[name] = torch.rand(3)
    return {'meta': {'epoch': 12}, 'state_dict': weights}


def random_weights(arch, formulation='released', num_classes=5):
    model = DefMamba(arch, formulation=formulation, out_indices=-1)
    weights = {f'backbone.{name}': weight for name, weight in model.state_dict().items()}
    dims = model.embed_dims[-1]
    return weights | {'head.fc.weight': torch.rand(num_classes, dims), 'head.fc.bias': torch.rand(num_classes)}


# ---- renaming


def test_names_are_converted_and_scans_keep_their_order(checkpoint):
    theirs, ours = checkpoint['model'], convert_released(checkpoint)
    assert len(ours) == len(theirs) == 159
    for name, their_name in {
        'backbone.stem.2.conv.bias': 'patch_embed.5.bias',
        'backbone.downsamples.2.norm.weight': 'layers.2.downsample.3.weight',
        'backbone.stages.1.1.norm1.weight': 'layers.1.blocks.1.norm.weight',
        'backbone.stages.1.1.norm2.weight': 'layers.1.blocks.1.norm2.weight',
        'backbone.stages.3.0.dssm.x_proj_weight': 'layers.3.blocks.0.op.x_proj_weight',
        'backbone.stages.0.0.dssm.scans.2.offset_bias.table': 'layers.0.blocks.0.op.DS.rpe_table',
        'backbone.norm3.bias': 'classifier.norm.bias',
        'head.fc.weight': 'classifier.head.weight',
    }.items():
        assert ours[name] is theirs[their_name]
    # three scans are stacked: x_proj_weight[k] and the rows of A_log from k*C on belong to scans.k; the last scan is
    # deformable
    model = DefMamba(ARCH, formulation='released')
    assert [type(scan).__name__ for scan in model.stages[0][0].dssm.scans] == [
        'RasterScan',
        'RasterReverseScan',
        'DeformableScan',
    ]


@pytest.mark.parametrize('wrap', [lambda file: file, lambda file: file['model']], ids=['file', 'state dict'])
def test_round_trip_is_exact(checkpoint, wrap, assert_same):
    ours = convert_released(wrap(checkpoint))
    assert_same(export_released(ours), checkpoint['model'])
    assert_same(convert_released(export_released(ours)), ours)
    reordered = dict(reversed(checkpoint['model'].items()))
    assert_same(export_released(convert_released(reordered)), checkpoint['model'])


def test_downstream_file_keeps_names_of_other_modules(checkpoint, assert_same):
    file = downstream(checkpoint)
    ours = convert_released(file)
    assert ours['backbone.norm1.bias'] is file['state_dict']['backbone.outnorm1.bias']
    assert ours['decode_head.patch_embed.0.weight'] is file['state_dict']['decode_head.patch_embed.0.weight']
    assert {name for name in ours if not name.startswith('backbone.')} == {
        'neck.layers.0.blocks.0.norm.weight',
        'decode_head.patch_embed.0.weight',
        'rpn_head.classifier.norm',
    }
    assert_same(export_released(ours), file['state_dict'])
    backbone = {k.removeprefix('backbone.'): v for k, v in ours.items() if k.startswith('backbone.')}
    DefMamba(ARCH, formulation='released').load_state_dict(backbone, strict=True)


def test_head_next_to_output_norms_is_not_renamed_as_classifier(checkpoint, assert_same):
    file = downstream(checkpoint)
    file['state_dict'] |= {'head.fc.weight': torch.rand(2, 128), 'head.fc.bias': torch.rand(2)}
    assert_same(export_released(convert_released(file)), file['state_dict'])


def test_averaged_weights_are_used_only_on_request(checkpoint, assert_same):
    checkpoint['model_ema'] = {name: weight + 1 for name, weight in checkpoint['model'].items()}
    assert_same(export_released(convert_released(checkpoint)), checkpoint['model'])
    assert_same(export_released(convert_released(checkpoint, ema=True)), checkpoint['model_ema'])
    del checkpoint['model_ema']
    with pytest.raises(ValueError, match="no averaged weights, 'model_ema', in a checkpoint of model"):
        convert_released(checkpoint, ema=True)


def test_distributed_prefix_is_dropped(checkpoint, assert_same):
    wrapped = {f'module.{name}': weight for name, weight in checkpoint['model'].items()}
    assert_same(convert_released({'model': wrapped}), convert_released(checkpoint))


def test_conversion_draws_no_random_numbers(checkpoint):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    convert_released(checkpoint)
    assert torch.equal(torch.rand(3), expected)


# ---- missing and unexpected names


@pytest.mark.parametrize(
    'name',
    [
        'patch_embed.7.bias',
        'layers.0.downsample.1.weight',
        'layers.1.blocks.0.norm.weight',
        'layers.3.blocks.0.norm.weight',
        'layers.2.blocks.0.op.Ds',
        'layers.0.blocks.0.op.DS.rpe_table',
        'layers.1.blocks.1.op.DS.conv_offset.ca.0.bias',
        'classifier.norm.weight',
        'classifier.head.weight',
        'classifier.head.bias',
    ],
)
def test_missing_parameter_is_named_in_the_error(checkpoint, name):
    del checkpoint['model'][name]
    with pytest.raises(ValueError, match=f'1 missing in the checkpoint: {name}$'):
        convert_released(checkpoint)


def test_missing_block_or_stage_is_named_in_the_error(checkpoint):
    without_stage = {k: v for k, v in checkpoint['model'].items() if not k.startswith('layers.1.blocks.')}
    with pytest.raises(ValueError, match=r'stage \[1\]'):
        convert_released(without_stage)
    without_block = {k: v for k, v in checkpoint['model'].items() if not k.startswith('layers.1.blocks.0.')}
    with pytest.raises(
        ValueError, match=r'27 missing in the checkpoint: .*layers\.1\.blocks\.0\.norm\.weight.* and 7 more'
    ):
        convert_released(without_block)


@pytest.mark.parametrize(
    'name', ['layers.0.blocks.0.op.Ds.weight', 'layers.0.blocks.0.op.extra', 'outnorm3.weight', 'optimizer.step']
)
def test_unexpected_parameter_is_named_in_the_error(checkpoint, name):
    checkpoint['model'][name] = torch.ones(3)
    with pytest.raises(ValueError, match=f'1 in the checkpoint but not in the model: {name}$'):
        convert_released(checkpoint)


@pytest.mark.parametrize(
    'name', ['backbone.classifier.norm.weight', 'backbone.extra', 'layers.0.blocks.0.op.Ds', 'patch_embed.0.weight']
)
def test_unexpected_parameter_of_a_downstream_file_is_named_in_the_error(checkpoint, name):
    file = downstream(checkpoint)
    file['state_dict'][name] = torch.ones(3)
    with pytest.raises(ValueError, match=f'1 in the checkpoint but not in the model: {name}$'):
        convert_released(file)


def test_downstream_file_needs_all_output_norms(checkpoint):
    file = downstream(checkpoint)
    del file['state_dict']['backbone.outnorm2.bias']
    with pytest.raises(ValueError, match=r'1 missing in the checkpoint: backbone\.outnorm2\.bias$'):
        convert_released(file)


@pytest.mark.parametrize(
    'name, shape, expected',
    [
        ('layers.1.blocks.0.norm.weight', (33,), (32,)),
        ('layers.2.blocks.0.op.x_proj_weight', (2, 36, 64), (3, 36, 64)),
        ('layers.3.blocks.0.op.DS.rpe_table', (128, 7, 8), (128, 7, 7)),
        ('layers.0.blocks.0.op.DS.conv_offset.conv1.weight', (16, 1, 7, 7), (16, 1, 9, 9)),
        ('classifier.head.weight', (10, 64), (10, 128)),
        ('patch_embed.0.bias', (), (8,)),
    ],
)
def test_wrong_shape_error_gives_name_and_both_shapes(checkpoint, name, shape, expected):
    checkpoint['model'][name] = torch.ones(shape)
    with pytest.raises(ValueError) as error:
        convert_released(checkpoint)
    assert str(error.value).endswith(f'1 with another shape there: {name} {shape} instead of {expected}')


@pytest.mark.parametrize(
    'file, message',
    [
        ([1], 'must be a dict, got list'),
        ({}, 'nothing'),
        ({'epoch': 3}, 'others in epoch'),
        ({'model': 'weights'}, "'model' must hold a state dict, got str"),
        ({'model': {'layers.0.blocks.0.norm.weight': 1}}, 'others in layers.0.blocks.0.norm.weight'),
        ({'model': {'layer1.0.conv1.weight': torch.ones(1)}}, 'not a checkpoint of a DefMamba: it has 1 parameters'),
    ],
)
def test_file_without_released_weights_is_refused(file, message):
    with pytest.raises(ValueError, match=message):
        convert_released(file)


def test_converting_twice_is_refused(checkpoint):
    with pytest.raises(ValueError, match='names of mmdefmamba already'):
        convert_released({'state_dict': convert_released(checkpoint)})


def test_export_refuses_weights_that_the_released_code_cannot_hold():
    with pytest.raises(ValueError, match="computes formulation='released', but these weights belong to 'paper'"):
        export_released(random_weights(ARCH, 'paper'))
    weights = random_weights(ARCH)
    weights['backbone.stages.0.0.dssm.scans.3.extra'] = torch.ones(1)
    with pytest.raises(
        ValueError, match=r'1 in the checkpoint but not in the model: backbone\.stages\.0\.0\.dssm\.scans\.3\.extra'
    ):
        export_released(weights)
    del weights['backbone.stages.0.0.dssm.scans.3.extra']
    with pytest.raises(ValueError, match='twice'):
        export_released(weights | {'classifier.norm.bias': torch.ones(128)})


# ---- a network is inferred from shapes


@pytest.mark.parametrize('formulation', ['paper', 'released'])
@pytest.mark.parametrize('arch', ['tiny', 'small', ARCH, {'embed_dims': (8, 16), 'depths': (1, 3)}], ids=str)
def test_network_is_inferred_from_shapes(arch, formulation):
    assert infer_network(random_weights(arch, formulation)) == (arch, formulation, 5)


def test_network_without_head_or_at_another_size_is_inferred():
    model = DefMamba(ARCH, pretrain_img_size=(100, 32))
    weights = {f'backbone.{name}': weight for name, weight in model.state_dict().items()}
    assert infer_network(weights) == (ARCH, 'paper', None)


def test_tables_that_fit_no_formulation_are_refused(checkpoint):
    weights = random_weights(ARCH, 'paper')
    weights['backbone.stages.1.0.dssm.scans.2.offset_bias.table'] = torch.ones(32, 7, 7)
    with pytest.raises(ValueError, match='tables of one size'):
        infer_network(weights)
    weights['backbone.stages.1.1.dssm.scans.2.offset_bias.table'] = torch.ones(32, 7, 7)
    with pytest.raises(ValueError, match='belong to no formulation'):
        infer_network(weights)
    with pytest.raises(ValueError, match='no DefMamba'):
        infer_network(checkpoint['model'])
