import pytest
import torch
from torch import nn

from mmdefmamba.analysis import effective_receptive_field
from mmdefmamba.analysis.receptive_field import field_area
from mmdefmamba.models import DefMamba

ARCH = {'embed_dims': (8, 16), 'depths': (1, 1)}


def test_field_of_a_convolution_is_its_kernel():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, (3, 5), padding=(1, 2), dtype=torch.float64)
    field = effective_receptive_field(conv, torch.randn(5, 3, 8, 11, dtype=torch.float64), batch_size=2)
    expected = torch.zeros(8, 11, dtype=torch.float64)
    # the centre of 8 x 11 is (4, 5)
    expected[3:6, 3:8] = conv.weight.detach().sum(0).abs().sum(0)
    torch.testing.assert_close(field, expected)


def test_field_is_the_mean_over_images():
    class Square(nn.Module):
        def forward(self, x):
            return x**2

    images = torch.tensor([1.0, -3.0]).view(2, 1, 1, 1).expand(2, 1, 3, 3).clone()
    field = effective_receptive_field(Square(), images)
    expected = torch.zeros(3, 3)
    expected[1, 1] = (2 + 6) / 2
    torch.testing.assert_close(field, expected)


def test_field_of_a_stage_matches_autograd_by_hand():
    torch.manual_seed(0)
    model = DefMamba(ARCH, drop_path_rate=0.5, out_indices=(1,)).double().train()
    model.stages[1].eval()
    images = torch.randn(3, 3, 20, 28, dtype=torch.float64)
    modes = [module.training for module in model.modules()]
    field = effective_receptive_field(nn.ModuleDict({'backbone': model}), images, stage=0)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())

    model.eval()
    x = images.clone().requires_grad_()
    model.stages[0][0](model.stem(x.permute(0, 2, 3, 1)))[:, 2, 3].sum().backward()
    torch.testing.assert_close(field, x.grad.abs().sum((0, 1)) / 3)
    assert (field > 0).all()  # both raster scans together reach every pixel


def test_unknown_stage_and_missing_images_are_refused():
    model = DefMamba(ARCH, out_indices=-1)
    with pytest.raises(ValueError, match='stage must be from -2 to 1, counted from 0, got 2'):
        effective_receptive_field(model, torch.zeros(1, 3, 8, 8), stage=2)
    with pytest.raises(ValueError, match=r'with at least one image, got \(0, 3, 8, 8\)'):
        effective_receptive_field(model, torch.zeros(0, 3, 8, 8))


def test_area_counts_the_strongest_pixels():
    field = torch.tensor([[4.0, 0.0, 1.0], [3.0, 2.0, 0.0]])
    assert field_area(field, 0.35) == pytest.approx(1 / 6)
    assert field_area(field, 0.5) == pytest.approx(2 / 6)
    assert field_area(field, 0.9) == pytest.approx(3 / 6)
    assert field_area(field, 1.0) == pytest.approx(4 / 6)
    assert field_area(torch.zeros(2, 2), 0.5) == 0
