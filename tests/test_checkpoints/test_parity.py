import pytest
import torch

from mmdefmamba.converters import convert_released
from mmdefmamba.ops.sequence_scan import BACKENDS, unavailable_reason
from mmdefmamba.paper.formulations import POINTS, parity
from mmdefmamba.scans import deformable

VALUES, GRADIENTS = 1e-6, 1e-5


def assert_close(errors, values, gradients):
    assert len(errors) == 1 + 4 + 1 + 159  # logits, four maps, the gradients of the image and of each parameter
    for name, error in errors.items():
        limit = gradients if name.startswith('grad.') else values
        assert error < limit, f'{name} is off by {error:.1e}, at most {limit:.0e} is allowed'


@pytest.mark.parametrize('backend', ['reference', 'blockwise'])
@pytest.mark.parametrize(
    'dtype, values, gradients', [(torch.float64, VALUES, GRADIENTS), (torch.float32, 1e-3, 1e-3)], ids=['f64', 'f32']
)
def test_network_matches_recorded_outputs(checkpoint, record, backend, dtype, values, gradients):
    assert_close(parity(checkpoint, record, backend, dtype=dtype), values, gradients)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('backend', sorted(BACKENDS))
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=['f64', 'f32'])
@pytest.mark.usefixtures('whole_float32')
def test_network_matches_recorded_outputs_on_gpu(checkpoint, record, backend, dtype):
    reason = unavailable_reason(backend, torch.empty(1, dtype=dtype, device='cuda'))
    if reason:
        pytest.skip(f'{backend}: {reason}')
    limits = (VALUES, GRADIENTS) if dtype == torch.float64 else (1e-3, 1e-3)
    assert_close(parity(checkpoint, record, backend, 'cuda', dtype), *limits)


@pytest.mark.parametrize('point', POINTS)
def test_record_detects_each_difference_between_formulations(checkpoint, record, point):
    errors = parity(checkpoint, record, points=[point])
    gradients = {name: error for name, error in errors.items() if name.startswith('grad.')}
    values = {name: error for name, error in errors.items() if name not in gradients}
    assert max(gradients.values()) > 10 * GRADIENTS
    if point == 'index and gradient':
        # the reference indices differ by a constant, which does not change a sort: only the gradient differs
        assert max(values.values()) < VALUES
    else:
        assert min(values.values()) > 10 * VALUES


def test_record_detects_a_changed_scan_order(checkpoint, record, monkeypatch):
    # if the reference indices are closer together, an offset moves a token further: the order changes, and so does
    # each value
    index = deformable.reference_index
    monkeypatch.setattr(deformable, 'reference_index', lambda *args: index(*args) / 2)
    errors = parity(checkpoint, record)
    assert min(error for name, error in errors.items() if not name.startswith('grad.')) > 10 * VALUES


def test_incomplete_record_is_refused(checkpoint, record):
    with pytest.raises(ValueError, match=r'grad\.classifier\.head\.bias'):
        parity(checkpoint, {name: value for name, value in record.items() if name != 'grad.classifier.head.bias'})


def test_mmpretrain_classifier_gives_the_recorded_logits(checkpoint, record):
    from mmpretrain.models import ImageClassifier

    model = ImageClassifier(
        backbone=dict(
            type='DefMamba',
            arch=dict(embed_dims=(16, 32, 64, 128), depths=(1, 2, 1, 1)),
            formulation='released',
            out_indices=(3,),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=128),
    )
    model.load_state_dict(convert_released(checkpoint), strict=True)
    with torch.no_grad():
        logits = model.double().eval()(record['input'].double())
    torch.testing.assert_close(logits, record['logits'], rtol=0, atol=VALUES * record['logits'].abs().max().item())
