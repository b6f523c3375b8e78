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


def test_parameters_without_gradient_are_named_with_the_remedy(one_process):
    """A head that reads one of two maps: DistributedDataParallel alone says the numbers of the parameters."""
    torch.manual_seed(0)
    arch = dict(embed_dims=(8, 16), depths=(1, 1))
    model = DistributedDataParallel(torch.nn.ModuleDict(dict(backbone=DefMamba(arch, pretrain_img_size=32))))
    model.module.forward = lambda images: model.module['backbone'](images)[1]
    images = torch.randn(2, 3, 32, 32)
    message = (
        r'2 parameters, backbone\.norm0\.weight, backbone\.norm0\.bias, got no gradient.*out_indices.*start_level=0'
    )
    with pytest.raises(ValueError, match=message), explain_errors(Config(dict())):
        for _ in range(2):
            model(images).sum().backward()
