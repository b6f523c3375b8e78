"""Whether a checkpoint fits a model. The loading hooks of the model are taken into account."""

import copy
import threading
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import BaseLoop
from torch import nn

import mmdefmamba
from mmdefmamba.checkpoints import fit, state_dict_of
from mmdefmamba.guards import CheckpointFitHook
from mmdefmamba.models import DefMamba


def vit(size):
    from mmpretrain.models import VisionTransformer

    arch = dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8)
    return VisionTransformer(arch, img_size=size, patch_size=16)


class Renaming(nn.Module):
    """A module that accepts the entries of an earlier version of itself, as many modules do."""

    def __init__(self):
        super().__init__()
        self.new = nn.Linear(2, 2)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in ('weight', 'bias'):
            if f'{prefix}old.{name}' in state_dict:
                state_dict[f'{prefix}new.{name}'] = state_dict.pop(f'{prefix}old.{name}')
        super()._load_from_state_dict(state_dict, prefix, *args)


class Refusing(nn.Linear):
    def _load_from_state_dict(self, *args):
        raise KeyError('version 1 is too old')


def runner_of(model, resume=False, **parts):
    return SimpleNamespace(
        model=model, _load_from='x.pth', _resume=resume, **dict(_train_loop={}, _val_loop={}, _test_loop={}) | parts
    )


def hook_of(model, training=False, resume=False):
    runner = runner_of(model, resume)
    runner._train_loop = BaseLoop.__new__(Loop) if training or resume else {}
    return lambda state: CheckpointFitHook().after_load_checkpoint(runner, dict(state_dict=state))


class Loop(BaseLoop):
    def run(self):
        pass


def test_entries_that_a_loading_hook_resizes_or_renames_fit():
    old, model = vit(64).state_dict(), vit(128)
    found = fit(model, old)
    assert found.complete and found.matched == found.total == len(old) and not found.unused
    hook_of(model)(old)
    renamed = {f'old.{name}': value for name, value in Renaming().new.state_dict().items()}
    assert fit(Renaming(), renamed).complete and not fit(Renaming(), renamed).unused
    hook_of(Renaming())(renamed)
    hook_of(nn.ModuleList([Renaming()]))({f'0.{name}': value for name, value in renamed.items()})


def test_resuming_requires_equal_names_and_shapes():
    """The state of the optimizer belongs to the names and shapes that the model had when it was saved."""
    with pytest.raises(ValueError, match=r'1 with another shape there: pos_embed \(1, 17, 8\) instead of \(1, 65, 8\)'):
        hook_of(vit(128), resume=True)(vit(64).state_dict())


ARCH = dict(embed_dims=(8, 16), depths=(1, 1))
ONE_GROUP = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1))
#: A group for each parameter.
MANY_GROUPS = dict(ONE_GROUP, paramwise_cfg=dict(norm_decay_mult=0.0))


#: What MMEngine saves beside weights and optimizer.
STATE = dict(meta=dict(epoch=1, iter=1), message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}))


def resume(before, now):
    """Resume a backbone and an optimizer from a checkpoint of others, each given as (out_indices, optim_wrapper)."""
    (old, old_optimizer), (model, optimizer) = (
        (backbone, build_optim_wrapper(backbone, copy.deepcopy(wrapper)))
        for backbone, wrapper in ((DefMamba(ARCH, out_indices=indices), wrapper) for indices, wrapper in (before, now))
    )
    checkpoint = dict(state_dict=old.state_dict(), optimizer=old_optimizer.state_dict(), **STATE)
    runner = runner_of(model, resume=True, optim_wrapper=optimizer, _train_loop=BaseLoop.__new__(Loop))
    CheckpointFitHook().after_load_checkpoint(runner, checkpoint)
    optimizer.load_state_dict(checkpoint['optimizer'])


@pytest.mark.parametrize('wrapper', [ONE_GROUP, MANY_GROUPS], ids=['one group', 'many groups'])
def test_resuming_a_backbone_without_some_stages_is_refused_with_the_remedy(wrapper):
    """PyTorch's own error is 'parameter group that doesn't match the size of optimizer's group', without a name."""
    resume(((0, 1), wrapper), ((0, 1), wrapper))
    whole, part = (len(list(DefMamba(ARCH, out_indices=indices).parameters())) for indices in ((0, 1), (0,)))
    groups = (1, 1) if wrapper is ONE_GROUP else (whole, part)
    message = (
        rf'x\.pth cannot be resumed: its optimizer has {whole} parameters in {groups[0]} groups, '
        rf'.* {part} in {groups[1]}\. {whole - part} entries of the checkpoint are not in this model: stages\.1\.0\.'
        r'.*out_indices.*set load_from to this file and leave out resume'
    )
    with pytest.raises(ValueError, match=message):
        resume(((0, 1), wrapper), ((0,), wrapper))


def test_resuming_with_other_groups_of_the_same_parameters_is_refused():
    with pytest.raises(ValueError, match=r'The parameters are the same, but their groups differ.*paramwise_cfg'):
        resume(((0, 1), ONE_GROUP), ((0, 1), MANY_GROUPS))


def test_fit_check_changes_neither_model_nor_checkpoint():
    model, old = vit(128), vit(64).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shapes = {name: value.shape for name, value in old.items()}
    fit(model, old)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert shapes == {name: value.shape for name, value in old.items()}


def test_verdict_contains_error_of_loading_hook():
    found = fit(Refusing(2, 2), {'weight': torch.zeros(3, 3)})
    assert not found.complete
    assert str(found) == (
        '1 missing in the checkpoint: bias; 1 with another shape there: weight (3, 3) instead of (2, 2); '
        "KeyError: 'version 1 is too old'"
    )


@pytest.mark.parametrize(
    ('state', 'expected'),
    [
        ({'weight': torch.zeros(2, 2), 'bias': torch.zeros(2)}, 'it fits exactly'),
        (
            {'weight': torch.zeros(2, 2), 'other': 3},
            '1 missing in the checkpoint: bias; 1 in the checkpoint but not in',
        ),
        ({'weight': torch.zeros(4), 'bias': 'text'}, '1 with another shape there: weight (4,) instead of (2, 2)'),
        ({}, '2 missing in the checkpoint: weight, bias'),
    ],
)
def test_verdict_counts_and_names_mismatches(state, expected):
    assert expected in str(fit(nn.Linear(2, 2), state))


def test_batch_norm_counters_may_be_missing():
    model = nn.BatchNorm2d(2)
    state = {name: value for name, value in model.state_dict().items() if name != 'num_batches_tracked'}
    assert fit(model, state).complete
    assert not fit(model, dict(list(state.items())[1:])).complete


def test_weights_of_every_kind_of_file_are_found():
    weight = torch.zeros(1)
    for checkpoint in ({'state_dict': {'a': weight}}, {'model': {'a': weight}}, {'a': weight}, {'module.a': weight}):
        assert list(state_dict_of(checkpoint, 'x.pth')) == ['a']
    for content in ([1], 3, {'state_dict': 'text'}):
        with pytest.raises(ValueError, match=r'x\.pth must hold weights by name, but holds a (list|int|str)'):
            state_dict_of(content, 'x.pth')


def test_module_prefix_is_removed_only_at_the_start():
    assert list(state_dict_of({'my_module.a': torch.zeros(1)}, 'x.pth')) == ['my_module.a']


CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=8, num_layers=1, num_heads=2, feedforward_channels=8),
        img_size={size},
        patch_size=16,
    ),
    head=dict(type='VisionTransformerClsHead', num_classes=2, in_channels=8),
)
"""


def test_get_model_loads_as_the_library_does(tmp_path, told):
    """A position embedding of another size is interpolated, as in mmpretrain. No parameter stays random."""
    paths = {size: tmp_path / f'{size}.py' for size in (64, 128)}
    for size, path in paths.items():
        path.write_text(CONFIG.format(size=size))
    small = mmdefmamba.get_model(paths[64])
    torch.save(dict(state_dict=small.state_dict()), tmp_path / 'x.pth')
    loaded = [mmdefmamba.get_model(paths[128], tmp_path / 'x.pth').state_dict() for _ in range(2)]
    for name, value in small.state_dict().items():
        for state in loaded:
            if name != 'backbone.pos_embed':
                assert torch.equal(state[name], value), name
    assert loaded[0]['backbone.pos_embed'].shape == (1, 65, 8)
    assert torch.equal(loaded[0]['backbone.pos_embed'], loaded[1]['backbone.pos_embed'])
    assert any(f'{tmp_path}/x.pth fills' in text and text.endswith('it fits exactly') for _, text in told)


def hooked(checkpoint, model):
    runner = runner_of(model)
    return CheckpointFitHook().after_load_checkpoint(runner, checkpoint)


def test_only_what_mmengine_loads_counts():
    """MMEngine takes 'state_dict' or the whole file, never 'model': it would test random weights."""
    state = nn.Linear(2, 2).state_dict()
    hooked(dict(state_dict=state), nn.Linear(2, 2))
    hooked(state, nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r'it fills 0 of 2 .* in the checkpoint but not in the model: model'):
        hooked(dict(model=state), nn.Linear(2, 2))


def test_a_model_that_cannot_be_copied_is_left_to_mmengine(told):
    model = Renaming()
    model.lock = threading.Lock()
    hooked(dict(state_dict={f'old.{name}': value for name, value in Renaming().new.state_dict().items()}), model)
    assert any('its loading hooks could not be tried: TypeError' in text for level, text in told if level == 'WARNING')


def test_averaged_weights_that_are_nan_are_refused():
    state = nn.Linear(2, 2).state_dict()
    broken = {f'module.{name}': value * torch.nan for name, value in state.items()}
    with pytest.raises(ValueError, match=r'infinite values in 2 parameters, such as ema_state_dict\.module\.weight'):
        hooked(dict(state_dict=state, ema_state_dict=broken), nn.Linear(2, 2))


def test_weights_of_eight_bits_are_compared():
    state = {name: value.to(torch.float8_e4m3fn) for name, value in nn.Linear(2, 2).state_dict().items()}
    hooked(dict(state_dict=state), nn.Linear(2, 2))


@pytest.mark.parametrize('name', ['mask_rcnn_defmamba_t_1x', 'upernet_defmamba_t_160k'])
def test_classes_of_the_librarys_datasets_are_known(name):
    meta = mmdefmamba.get_model(name).dataset_meta
    assert len(meta['classes']) == len(meta['palette']) == (80 if 'rcnn' in name else 150)
