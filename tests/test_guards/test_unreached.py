"""Parameters without gradient in distributed training."""

import pytest
import torch
from mmengine.config import Config
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from mmdefmamba.guards.config_errors import explain_errors
from mmdefmamba.models import DefMamba


@pytest.fixture
def one_process():
    """Start a group of one process, which is enough for DistributedDataParallel to look for gradients."""
    distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def train(**options):
    """Take two steps of a network whose head reads one of two maps."""
    torch.manual_seed(0)
    arch = dict(embed_dims=(8, 16), depths=(1, 1))
    plain = torch.nn.ModuleDict(dict(backbone=DefMamba(arch, pretrain_img_size=32)))
    plain.forward = lambda images: plain['backbone'](images)[1]
    model = DistributedDataParallel(plain, **options)
    for _ in range(2):
        model(torch.randn(2, 3, 32, 32)).sum().backward()
    return plain['backbone']


def test_parameters_without_gradient_are_named_with_the_remedy(one_process):
    """DistributedDataParallel alone says the numbers of the parameters."""
    message = (
        r'2 parameters, backbone\.norm0\.weight, backbone\.norm0\.bias, got no gradient.*out_indices.*start_level=0'
        r'.*NAS-FCOS and BiSeNetV1.*find_unused_parameters=True'
    )
    with pytest.raises(ValueError, match=message), explain_errors(Config(dict())):
        train()


def test_the_remedy_for_maps_that_are_never_read(one_process):
    """With the option that the message names, both steps pass, and the norm of that map alone has no gradient."""
    backbone = train(find_unused_parameters=True)
    without = {name for name, parameter in backbone.named_parameters() if parameter.grad is None}
    assert without <= {'norm0.weight', 'norm0.bias'}
    assert backbone.norm1.weight.grad.abs().sum() > 0
