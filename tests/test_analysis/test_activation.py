import pytest
import torch

from mmdefmamba.analysis import activation, activation_map, trace_blocks
from mmdefmamba.models import DefMamba
from mmdefmamba.ops import TokenOrder, permute_tokens, restore_tokens, selective_scan

SCANS = ('raster', 'raster_reverse', dict(type='local', window=2), 'deformable')


@pytest.fixture(scope='module')
def trace():
    torch.manual_seed(0)
    model = DefMamba({'embed_dims': (8, 16), 'depths': (1, 1)}, scans=SCANS, out_indices=-1).double().eval()
    # larger weights, as after training: with the initial ones a token hardly influences others
    for block in (model.stages[0][0], model.stages[1][0]):
        torch.nn.init.normal_(block.dssm.x_proj_weight)
    images = torch.randn(2, 3, 18, 24, dtype=torch.float64)
    _, (trace, _) = trace_blocks(model, images)
    assert trace.map_size == (5, 6)
    return trace


@pytest.fixture(scope='module')
def jacobians(trace):
    """d y[t, c] / d u[s, c] of each scan by autograd through the reference scan, all but u held: (B, K, L, L, C)."""
    return torch.stack([torch.stack([jacobian(trace, image, k) for k in range(len(SCANS))]) for image in range(2)])


def jacobian(trace, image, k):
    order = TokenOrder.from_order(trace.orders[k][image])
    places = [x[image : image + 1] for x in (trace.maps[k], trace.delta[:, k], trace.B[:, k], trace.C[:, k])]
    value = places[0].clone().requires_grad_()
    u, delta, B, C = (permute_tokens(x, order).transpose(1, 2) for x in (value, *places[1:]))
    y = selective_scan(
        u, delta, trace.A[k], B[:, None], C[:, None], None, None, delta_softplus=False, backend='reference'
    )
    y = restore_tokens(y.transpose(1, 2), order)[0]
    # channels do not mix, so the gradient of their sum has the derivative of each
    return torch.stack([torch.autograd.grad(y_C.sum(), value, retain_graph=True)[0][0] for y_C in y])


@pytest.mark.parametrize('scan', [*range(len(SCANS)), None])
@pytest.mark.parametrize('chunk', [4096, 7])
def test_map_is_the_jacobian_of_the_scan(trace, jacobians, scan, chunk, monkeypatch):
    monkeypatch.setattr(activation, 'CHUNK', chunk)
    for image in range(2):
        expected = (jacobians[image].mean(0) if scan is None else jacobians[image, scan]).abs().mean(-1)
        assert (expected > 1e-12).float().mean() > 0.4  # not only the token itself
        for place in range(30):
            found = activation_map(trace, divmod(place, 6), image, scan)
            assert found.shape == (5, 6)
            torch.testing.assert_close(found.flatten(), expected[place], rtol=1e-9, atol=1e-14)


def test_only_earlier_tokens_influence_a_token(trace):
    raster = activation_map(trace, (2, 3), 0, 'raster').flatten()
    assert (raster[: 2 * 6 + 4] > 0).all()
    assert (raster[2 * 6 + 4 :] == 0).all()
    reverse = activation_map(trace, (2, 3), 0, 'raster_reverse').flatten()
    assert (reverse[: 2 * 6 + 3] == 0).all()
    learned = activation_map(trace, (2, 3), 1, 'deformable')
    ranks = trace.ranks(1, 'deformable')
    assert torch.equal(learned > 0, ranks <= ranks[2, 3])


def test_tokens_can_be_counted_from_the_end(trace):
    assert torch.equal(activation_map(trace, (-1, -2)), activation_map(trace, (4, 4)))


def test_long_sequences_stay_finite():
    torch.manual_seed(0)
    model = DefMamba({'embed_dims': (8,), 'depths': (1,)}, out_indices=0).eval()
    _, (trace,) = trace_blocks(model, torch.randn(1, 3, 230, 300))
    assert trace.map_size == (58, 75)
    found = activation_map(trace, (57, 74), scan='raster')
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert found[57, 74] == found.max() > 0


@pytest.mark.parametrize('token', [(5, 0), (0, 6), (-6, 0), (0,), (1, 2, 3)])
def test_token_outside_the_map_is_refused(trace, token):
    with pytest.raises(ValueError, match=r'token must be \(row, column\) on a map of 5 x 6 tokens'):
        activation_map(trace, token)


def test_activation_map_needs_the_state_space():
    model = DefMamba({'embed_dims': (8,), 'depths': (1,)}, out_indices=0)
    _, (trace,) = trace_blocks(model, torch.zeros(1, 3, 8, 8), state_space=False)
    with pytest.raises(ValueError, match=r'stages\.0\.0 was traced with state_space=False'):
        activation_map(trace, (0, 0))
    _, (trace,) = trace_blocks(model, torch.zeros(1, 3, 1, 1))
    assert activation_map(trace, (0, 0)).shape == (1, 1)
