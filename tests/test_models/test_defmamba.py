import pickle

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import load_state_dict
from torch.multiprocessing.reductions import StorageWeakRef

from mmdefmamba.models import DMBlock
from mmdefmamba.ops.sequence_scan import blockwise
from mmdefmamba.scans import SCANS, ScanContext

PICO = {'embed_dims': (8, 16, 32, 64), 'depths': (1, 2, 1, 1)}


def build(arch=PICO, **kwargs):
    torch.manual_seed(0)
    return MODELS.build({'type': 'DefMamba', 'arch': arch, **kwargs})


@pytest.mark.parametrize(
    ('arch', 'formulation', 'params'),
    [
        ('tiny', 'paper', 8_126_470),
        ('small', 'paper', 31_414_972),
        ('base', 'paper', 50_514_808),
        ('tiny', 'released', 7_547_878),
        ('small', 'released', 30_201_340),
        ('base', 'released', 48_595_576),
    ],
)
def test_parameters_are_those_of_the_paper(arch, formulation, params):
    with torch.device('meta'):
        model = build(arch, formulation=formulation, out_indices=(3,))
    head = model.embed_dims[-1] * 1000 + 1000
    assert sum(p.numel() for p in model.parameters()) + head == params


@pytest.mark.parametrize('scope', ['mmpretrain', 'mmdet', 'mmseg'])
def test_one_registration_serves_all_three_libraries(scope):
    import mmdet.models
    import mmpretrain.models
    import mmseg.models

    registry = {'mmpretrain': mmpretrain, 'mmdet': mmdet, 'mmseg': mmseg}[scope].registry.MODELS
    with DefaultScope.overwrite_default_scope(scope):
        assert type(registry.build({'type': 'DefMamba', 'arch': PICO})) is MODELS.get('DefMamba')


@pytest.mark.parametrize('formulation', ['paper', 'released'])
@pytest.mark.parametrize('size', [(1, 1), (3, 65), (33, 47), (64, 32)], ids=str)
def test_images_may_have_any_size(size, formulation):
    model = build(formulation=formulation, pretrain_img_size=32).double()
    outs = model(torch.randn(2, 3, *size, dtype=torch.float64))
    for out, dims, stride in zip(outs, PICO['embed_dims'], (4, 8, 16, 32), strict=True):
        assert out.shape == (2, dims, -(-size[0] // stride), -(-size[1] // stride))
        assert out.isfinite().all()


@pytest.mark.parametrize('size', [(1, 1), (1, 70), (33, 47)], ids=str)
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
def test_maps_lie_in_memory_as_the_images_do(layout, size):
    """A head may call `.view`, as CenterNet's and DMNet's do. Images in channels_last give maps in channels_last."""
    x = torch.randn(2, 3, *size)
    model = build(pretrain_img_size=32)
    for out, plain in zip(model(x.to(memory_format=layout)), model(x), strict=True):
        assert out.is_contiguous(memory_format=layout)
        assert plain.view(2, -1).shape == (2, plain[0].numel())
        assert torch.equal(out, plain)


@pytest.mark.parametrize('formulation', ['paper', 'released'])
def test_every_parameter_gets_a_gradient(formulation):
    model = build(formulation=formulation, pretrain_img_size=64)
    outs = model(torch.randn(2, 3, 64, 96))
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_images_of_a_batch_do_not_influence_each_other():
    model = build().double().eval()
    x = torch.randn(3, 3, 40, 56, dtype=torch.float64)
    for together, alone in zip(model(x), zip(*(model(image[None]) for image in x), strict=True), strict=True):
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_autocast_trains_close_to_float32(dtype):
    model = build()
    x = torch.randn(2, 3, 64, 64)
    expected = model(x)
    with torch.autocast('cpu', dtype=dtype):
        outs = model(x)
    sum(out.float().square().sum() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    # the first stage only: later orders may differ by one token, which is not an error of precision
    assert (outs[0] - expected[0]).abs().max() < 0.1 * expected[0].abs().max()


def test_nan_is_not_hidden():
    model = build().eval()
    x = torch.zeros(2, 3, 64, 64)
    x[0, 0, 10, 10] = float('nan')
    for out in model(x):
        assert out[0].isnan().all(), 'a state space model carries NaN to every token'
        assert out[1].isfinite().all()


def test_initialisation():
    model = build('tiny', drop_path_rate=0.2)
    dssm = model.stages[2][0].dssm
    expected = torch.arange(1, 17.0).log().expand_as(dssm.A_log)
    assert torch.equal(dssm.A_log, expected) and (dssm.D == 1).all()
    dt = torch.nn.functional.softplus(dssm.dt_proj_bias)
    assert dt.min() > 1e-3 * 0.999 and dt.max() < 1e-1 * 1.001
    assert dssm.dt_rank == 12 and dssm.dt_proj_weight.abs().max() <= 12**-0.5
    assert 0.9 * 192**-0.5 < dssm.x_proj_weight.abs().max() <= 192**-0.5
    assert dssm.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert dssm.in_proj.bias is None and dssm.out_proj.bias is None
    assert dssm.scans[2].offset_bias.table.std().item() == pytest.approx(0.01, rel=0.05)
    assert dssm.scans[2].offset_network.proj.weight.any(), 'offsets are not zero at the start'
    drop_paths = [block.drop_path.drop_prob for stage in model.stages for block in stage]
    assert drop_paths == pytest.approx([0.2 * i / 10 for i in range(11)])


def test_initialisation_survives_init_weights():
    model = build()
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.init_weights()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_without_depthwise_convolution_only_scans_mix_tokens():
    """With scans from the top of a map of one column, a token depends on the tokens before it and on no later one."""
    names = {name for name, _ in build().named_parameters()}
    model = build(dw_conv=False)
    missing = names - {name for name, _ in model.named_parameters()}
    assert missing == {name for name in names if 'dssm.conv.' in name} and len(missing) == 2 * sum(model.depths)
    torch.manual_seed(0)
    for dw_conv in (True, False):
        block = DMBlock(ScanContext(8), ['raster'], dw_conv=dw_conv).double()
        x = torch.randn(1, 6, 1, 8, dtype=torch.float64, requires_grad=True)
        block(x)[0, 2].sum().backward()
        felt = x.grad[0, :, 0].abs().sum(1) > 0
        assert felt.tolist() == [True, True, True, dw_conv, False, False]


@pytest.mark.parametrize('with_cp', [False, True])
def test_every_module_is_called_so_that_hooks_on_it_fire(with_cp):
    model = build(with_cp=with_cp, pretrain_img_size=32, out_indices=(1, 3))
    called = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: called.append(name))
    model(torch.randn(1, 3, 32, 32))
    lists = {name for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList)}
    assert set(called) == {name for name, _ in model.named_modules()} - lists
    assert len(called) == len(set(called)) + sum(model.depths)  # the two branches of a block share their drop path


@pytest.mark.parametrize('with_cp', [False, True])
def test_grad_cam_of_a_stage(with_cp):
    """Hooks on the last stage see its map and the gradient of a score. Both give the right Grad-CAM."""
    model = build(with_cp=with_cp, pretrain_img_size=64, out_indices=(3,)).double().eval()
    seen = {}

    def see_map(module, inputs, output):
        seen['map'] = output.detach()
        output.register_hook(lambda gradient: seen.update(gradient=gradient))

    model.stages[-1].register_forward_hook(see_map)
    x, weight = torch.randn(1, 3, 64, 96, dtype=torch.float64), torch.randn(PICO['embed_dims'][-1]).double()
    (model(x)[0].mean((2, 3)) @ weight).sum().backward()
    cam = torch.relu((seen['gradient'].mean((1, 2), keepdim=True) * seen['map']).sum(3))

    # the score from the last stage's map on: LayerNorm, mean over the map, linear layer
    last = seen['map'].clone().requires_grad_()
    normed = torch.nn.functional.layer_norm(last, last.shape[-1:])
    (gradient,) = torch.autograd.grad((normed.mean((1, 2)) @ weight).sum(), last)
    expected = torch.relu(torch.einsum('c,bhwc->bhw', gradient.mean((0, 1, 2)), last))
    assert cam.shape == (1, 2, 3) and cam.max() > 0
    torch.testing.assert_close(cam, expected)


def test_with_cp_changes_nothing_but_memory():
    x = torch.randn(1, 3, 32, 32)
    grads = []
    for with_cp in (False, True):
        model = build(with_cp=with_cp, pretrain_img_size=32).double()
        model(x.double())[-1].square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], msg=name)


def test_with_cp_keeps_no_state_of_a_scan_after_the_forward(monkeypatch):
    """The storage of each state that a block starts from is gone before the backward, and made again in it."""
    run, states = blockwise._Recurrence.run, []

    def recorded(self, delta, delta_u, B, state):
        states.append(StorageWeakRef(state.untyped_storage()))
        return run(self, delta, delta_u, B, state)

    monkeypatch.setattr(blockwise._Recurrence, 'run', recorded)
    x = torch.randn(1, 3, 32, 32)
    alive = {}
    for with_cp in (False, True):
        states.clear()
        outs = build(with_cp=with_cp, pretrain_img_size=32, scan_backend='blockwise')(x)
        alive[with_cp] = [not state.expired() for state in states]
        outs[-1].sum().backward()
    assert alive[False] and all(alive[False])
    assert len(alive[True]) == len(alive[False]) and not any(alive[True])


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 3, 4])
def test_frozen_stages(frozen_stages):
    model = build(frozen_stages=frozen_stages).train()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    parts = {name.split('.')[0] + ('' if name[:4] in ('stem', 'norm') else '.' + name.split('.')[1]) for name in frozen}
    expected = set() if frozen_stages < 0 else {'stem'}
    for i in range(frozen_stages):
        expected |= {f'stages.{i}', f'norm{i}'} | ({f'downsamples.{i - 1}'} if i else set())
    assert parts == expected
    assert model.stem.training == (frozen_stages < 0)
    assert [stage.training for stage in model.stages] == [i >= frozen_stages for i in range(4)]


def test_out_indices():
    model = build(out_indices=(-1, 1))
    assert model.out_indices == (1, 3)
    assert [out.shape[1] for out in model(torch.zeros(1, 3, 32, 32))] == [16, 64]
    assert {name for name, _ in model.named_children() if name.startswith('norm')} == {'norm1', 'norm3'}


@pytest.mark.parametrize('last', range(4))
def test_stages_after_the_last_of_out_indices_do_not_exist(last):
    """Each parameter gets a gradient, as DDP needs it; the rest of the network is that of the whole arch."""
    model, whole = build(out_indices=last, drop_path_rate=0.4), build(drop_path_rate=0.4)
    parts = {'.'.join(name.split('.')[:2]) for name in model.state_dict()} - {'stem.0', 'stem.1', 'stem.2'}
    expected = {f'stages.{i}' for i in range(last + 1)} | {f'downsamples.{i}' for i in range(last)}
    assert parts == expected | {f'norm{last}.weight', f'norm{last}.bias'}
    rates = [block.drop_path.drop_prob for stage in whole.stages for block in stage]
    own = [block.drop_path.drop_prob for stage in model.stages for block in stage]
    assert own == rates[: len(own)] and rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    for name, _ in model.named_parameters():
        assert model.get_layer_depth(name) == whole.get_layer_depth(name)
    images = torch.randn(2, 3, 32, 32)
    model.eval().load_state_dict(whole.state_dict())
    assert torch.equal(model(images)[0], whole.eval()(images)[last])
    model(images)[0].square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize('frozen_stages', [1, 2, 4])
def test_frozen_stages_may_be_more_than_there_are(frozen_stages):
    model = build(out_indices=(0, 1), frozen_stages=frozen_stages).train()
    trained = {name.split('.')[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == ({'stages', 'downsamples', 'norm1'} if frozen_stages == 1 else set())


@pytest.mark.parametrize('stages', [1, 3, 5])
def test_all_stages_are_returned_by_default(stages):
    arch = {'embed_dims': (4, 6, 8, 10, 12)[:stages], 'depths': (1,) * stages}
    for kwargs in ({}, {'out_indices': None}):
        model = build(arch, pretrain_img_size=32, **kwargs)
        assert model.out_indices == tuple(range(stages))
        assert [out.shape[1] for out in model(torch.zeros(1, 3, 32, 32))] == list(arch['embed_dims'])


@pytest.mark.parametrize(('given', 'returned'), [(0, (0,)), (-1, (3,)), ([2, 0], (0, 2)), ((-4, 3), (0, 3))], ids=str)
def test_out_indices_may_be_a_number_a_list_or_negative(given, returned):
    assert build(out_indices=given).out_indices == returned


def test_layer_depth():
    model = build()
    depth = {name: model.get_layer_depth(f'backbone.{name}', 'backbone.') for name, _ in model.named_parameters()}
    assert {total for _, total in depth.values()} == {7}
    assert depth['stem.0.conv.weight'][0] == 0
    assert [depth[f'stages.{s}.{b}.norm1.weight'][0] for s, b in ((0, 0), (1, 0), (1, 1), (2, 0), (3, 0))] == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert [depth[f'downsamples.{i}.norm.bias'][0] for i in range(3)] == [2, 4, 5]
    assert depth['norm0.weight'][0] == depth['norm3.bias'][0] == 6
    assert model.get_layer_depth('head.fc.weight', 'backbone.') == (6, 7)


def test_every_scan_gets_a_gradient_for_any_number_of_scans():
    for scans in (['raster'], ['deformable'], ['raster', 'deformable', 'raster_reverse', 'deformable', 'raster']):
        torch.manual_seed(0)
        block = DMBlock(ScanContext(8), scans).double()
        x = torch.randn(1, 4, 5, 8, dtype=torch.float64, requires_grad=True)
        block(x).square().sum().backward()
        assert x.grad.any()
        assert block.dssm.A_log.shape == (len(scans) * 8, 16)
        assert all(rows.any() for rows in block.dssm.A_log.grad.chunk(len(scans)))


@pytest.mark.parametrize('mode', [torch.inference_mode, torch.no_grad], ids=lambda mode: mode.__name__)
@pytest.mark.parametrize(
    ('formulation', 'order_gradient'), [('paper', 'paper'), ('released', 'released'), ('paper', 'swap')], ids=str
)
def test_a_model_first_used_in_evaluation_trains_as_a_fresh_one(formulation, order_gradient, mode):
    every = [name for name in SCANS.module_dict if name != 'deformable']
    scans = (*every, dict(type='deformable', order_gradient=order_gradient))
    arch = {'embed_dims': (4,), 'depths': (1,)}
    x = torch.randn(1, 3, 20, 12)
    grads = []
    for evaluated in (False, True):
        model = build(arch, formulation=formulation, scans=scans, pretrain_img_size=16)
        if evaluated:
            with mode():
                model.eval()(x)
        sum(out.square().sum() for out in model.train()(x)).backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(fresh, evaluated) for fresh, evaluated in zip(*grads, strict=True))


def test_model_can_be_pickled_after_a_forward():
    model = build()
    x = torch.randn(1, 3, 32, 32)
    expected = model.eval()(x)
    for a, b in zip(pickle.loads(pickle.dumps(model))(x), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'arch': 'tny'}, "unknown arch 'tny', did you mean 'tiny'"),
        ({'arch': {'embed_dims': (8,)}}, 'exactly the keys embed_dims and depths'),
        ({'arch': {'embed_dims': (8, 16), 'depths': (1,)}}, r'got \(8, 16\) and \(1,\)'),
        ({'arch': {'embed_dims': (8, 16), 'depths': (1, 0)}}, 'positive integers'),
        ({'arch': {'embed_dims': (9, 16), 'depths': (1, 1)}}, 'must be even.* got 9'),
        ({'formulation': 'printed'}, "formulation must be one of .* got 'printed'"),
        ({'scans': 'raster'}, "scans must be a sequence of at least one scan, got 'raster'"),
        ({'scans': ()}, r'got \(\)'),
        ({'scans': ('raster', 'spiral')}, "unknown scan 'spiral'"),
        ({'out_indices': (4,)}, r'from -4 to 3, got \(4,\)'),
        ({'frozen_stages': 5}, 'from -1 to 4, got 5'),
        ({'drop_path_rate': 1.0}, r'in \[0, 1\), got 1.0'),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else '',
)
def test_wrong_arguments_are_refused_with_their_value(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build(**kwargs)


def test_unknown_backend_is_refused_at_the_first_image():
    with pytest.raises(ValueError, match="got 'cuda'"):
        build(scan_backend='cuda')(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize('shape', [(3, 32, 32), (1, 1, 32, 32), (1, 3, 0, 32), (0, 3, 32, 32)], ids=str)
def test_wrong_images_are_refused_with_their_shape(shape):
    with pytest.raises(ValueError, match=rf'images must be .* got \({shape[0]}, {shape[1]}, {shape[2]}'):
        build()(torch.zeros(shape))


def test_images_that_were_not_stacked_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"got a list: the images were not stacked.*dict\(type='default_collate'\)"):
        build()([torch.zeros(3, 32, 32)] * 2)


def test_weights_of_the_other_formulation_are_refused():
    """MMEngine's loader alone would only warn and keep the random tables."""
    weights = build(formulation='released').state_dict()
    with pytest.raises(ValueError, match="7 x 7, belong to formulation='released', the model has formulation='paper'"):
        load_state_dict(build(), weights)
    load_state_dict(build(formulation='released'), weights, strict=True)
