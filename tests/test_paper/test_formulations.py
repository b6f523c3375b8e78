import runpy
import sys
from pathlib import Path

import pytest
import torch

from mmdefmamba.models import DefMamba
from mmdefmamba.paper.formulations import (
    POINTS,
    SWITCHES,
    as_paper,
    distances,
    lost_at_border,
    moved_tokens,
    paper_twin,
    parity,
    read_entries,
)

ROOT = Path(__file__).parents[2]
ARCH = {'embed_dims': (8, 16), 'depths': (1, 1)}


def make_model(**kwargs):
    torch.manual_seed(0)
    return DefMamba(ARCH, formulation='released', out_indices=(0, 1), pretrain_img_size=64, **kwargs).double().eval()


def test_all_five_points_make_the_paper_formulation():
    model = make_model()
    for parameter in model.parameters():
        parameter.data *= 3  # with the initial weights the scans have almost no effect
    twin = paper_twin(model)
    images = torch.randn(2, 3, 40, 28, dtype=torch.float64, requires_grad=True)
    released = model(images)
    results = []
    for network, points in ((twin, ()), (model, POINTS)):
        with as_paper(model, points):
            outs = network(images)
            # the gradient is compared as well, because the gradient of the order is one of the points
            grad = torch.autograd.grad(sum((out**2).sum() for out in outs), images)[0]
        results.append((*outs, grad))
    for mine, paper, other in zip(results[1], results[0], (*released, None), strict=True):
        torch.testing.assert_close(mine, paper, rtol=1e-10, atol=1e-10)
        assert other is None or (other - paper).abs().max() > 1e-3
    torch.testing.assert_close(model(images), released, rtol=0, atol=0)  # the released formulation is restored


def test_distances_differ_between_the_points():
    model = make_model()
    at_pretraining = distances(model, torch.randn(1, 3, 64, 64, dtype=torch.float64))
    assert list(at_pretraining) == [*POINTS, 'all five', *SWITCHES]
    assert all(min(at_pretraining[name]) > 0 for name in SWITCHES)
    # at the size of pretraining the resized tables are those of the paper; a constant does not change a sort
    assert at_pretraining['bias table'] == at_pretraining['index and gradient'] == [0, 0]
    assert min(at_pretraining['reference points']) > max(at_pretraining['offset range']) > 0
    larger = distances(model, torch.randn(1, 3, 96, 96, dtype=torch.float64))
    assert min(larger['bias table']) > 0


def test_paper_model_and_unknown_point_are_refused():
    with pytest.raises(ValueError, match="must have formulation='released', got 'paper'"), as_paper(DefMamba()):
        pass
    with pytest.raises(ValueError, match=r"got \['order'\]"), as_paper(make_model(), ['order']):
        pass


def test_parts_that_are_switched_off_stay_off():
    bare = dict(type='deformable', points=False, offset_bias=False)
    model = make_model(scans=('raster', bare))
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert distances(model, images)['all five'] == [0, 0]


@pytest.mark.parametrize('size, entries', [(56, [27, 28]), (14, [6, 7]), (7, [2, 3, 4])])
def test_paper_reads_only_the_centre_of_its_tables(size, entries):
    read = read_entries(size)
    assert read.shape == (size, size)
    expected = torch.zeros(size, size, dtype=torch.bool)
    expected[entries[0] : entries[-1] + 1, entries[0] : entries[-1] + 1] = True
    assert torch.equal(read, expected)


@pytest.mark.parametrize('size', [56, 14, 7])
def test_released_reads_nine_entries_of_its_tables(size):
    expected = torch.zeros(7, 7, dtype=torch.bool)
    expected[2:5, 2:5] = True
    assert torch.equal(read_entries(size, formulation='released'), expected)


def test_half_a_pixel_at_the_border():
    none, worst = lost_at_border(5, 'released')
    expected = torch.zeros(5, 5, dtype=torch.float64)
    expected[-1] = expected[:, -1] = 0.5
    expected[-1, -1] = 0.75
    torch.testing.assert_close(none, expected)
    assert ((worst > 0) == (expected > 0)).all()
    assert worst[-1, 0] == pytest.approx(1, abs=1e-3)
    none, worst = lost_at_border(5, 'paper')
    assert none.abs().max() < 1e-12
    assert (worst[1:-1, 1:-1].abs() < 1e-12).all()
    # a full offset, 1/5 of half the map, is 0.4 pixels
    assert worst[0, 2] == pytest.approx(0.4, abs=1e-3)


def test_tool_prints_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    tool = ROOT / 'tools' / 'analysis_tools' / 'compare_formulations.py'
    monkeypatch.setattr(sys, 'argv', [str(tool), '--only', 'parity', 'borders', '--plots', str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(tool), run_name='__main__')
    assert not end.value.code
    lines = capsys.readouterr().out.splitlines()
    assert '| 7 x 7 | released | 13 of 49 (26.5%) | 13.8% | 13 of 49 (26.5%) | 26.5% |' in lines
    rows = [line.split(' | ') for line in lines if line.startswith(('| reference | ', '| blockwise | '))]
    assert {row[1] for row in rows} == {'float64', 'float32'}
    assert all(float(cell.strip(' |')) < 1e-5 for row in rows for cell in row[2:])
    assert (tmp_path / 'formulation_reads.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('name', SWITCHES)
def test_a_switch_leaves_the_recorded_outputs(name):
    """The numbers were recorded in float64 and without the switches, so each switch must be seen in them."""
    checkpoint, record = (
        torch.load(ROOT / f'tests/data/released/{file}.pth', weights_only=True) for file in ('checkpoint', 'expected')
    )
    errors = parity(checkpoint, record, switches=(name,))
    assert errors['feat0'] > 1e-4 and errors['logits'] > 1e-4
    assert max(error for key, error in parity(checkpoint, record).items() if key.startswith('feat')) < 1e-6


def test_float16_keys_move_a_third_of_the_tokens_of_a_large_map_and_none_of_a_small_one():
    model = make_model()
    (large, share, places), (small, *_) = moved_tokens(model, torch.randn(1, 3, 224, 224, dtype=torch.float64))
    assert (large, small) == (3136, 784)
    assert share > 0.3 and 2 <= places < 20
    assert moved_tokens(model, torch.randn(1, 3, 16, 16, dtype=torch.float64))[1][1:] == (0, 0)
    assert moved_tokens(model, torch.randn(1, 3, 224, 224, dtype=torch.float64), ())[0][1:] == (0, 0)
