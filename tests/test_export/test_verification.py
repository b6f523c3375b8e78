"""The comparison of a file with its network: what it lets pass, and what it finds, in deep networks too.

The files here are networks in PyTorch. One that computes in float64 is a right file: it rounds otherwise.
"""

import copy

import pytest
import torch

from mmdefmamba.export.graph import ExportedPart
from mmdefmamba.export.runners import EagerNetwork
from mmdefmamba.export.verification import Comparison, Verification, verify
from mmdefmamba.models import DefMamba
from mmdefmamba.ops import TokenOrder

SIZES = [(1, 128, 160), (2, 33, 47)]


class NetworkAsFile:
    """A file that computes what a network computes, in float64."""

    def __init__(self, network):
        self.eager = EagerNetwork(copy.deepcopy(network).double())

    def run(self, images):
        results, orders, blocks = self.eager.run(images.double())
        results = {f'map{i}': x.float() for i, x in enumerate(results)}
        return results, orders, {name: x.float() for name, x in blocks.items()}


@pytest.fixture(scope='module')
def deep():
    """A network of 10 blocks in which small differences grow."""
    from .conftest import make_lively

    torch.manual_seed(0)
    arch = dict(embed_dims=(16, 24), depths=(5, 5))
    model = DefMamba(arch, scans=('raster', 'deformable'), pretrain_img_size=128)
    return ExportedPart(make_lively(model), part='backbone').eval()


def changed(network, change):
    """Return a copy of a network after ``change(its sixth block)``."""
    network = copy.deepcopy(network)
    change(network.network.stages[1][0])
    return network


def test_rounding_that_grows_in_a_deep_network_is_no_fault(deep):
    found = verify(NetworkAsFile(deep), deep, SIZES)
    assert found.problems == [], found.table()
    first = found.comparisons[0]
    assert first.exceeds == ['map0', 'map1'] or first.exceeds == ['map1']  # beyond the limits of the whole,
    assert max(first.own.values()) > first.limit / 10  # as the network itself
    for comparison in found.comparisons:
        assert len(comparison.parts) == 10 + 2 and max(comparison.parts.values()) < 5e-6  # but each part is equal
        assert len(comparison.falls) == 10 and max(comparison.falls.values()) < 5e-6  # and flips are near ties
    assert 'the network itself, when the image changes by 1e-06: map' in found.table()


def _forget_state(block):
    block.dssm.A_log.data.fill_(20)  # exp(delta A) is 0


def _keep_all_of_the_state(block):
    block.dssm.A_log.data.sub_(0.001)


def _lose_bias_of_time_step(block):
    block.dssm.dt_proj_bias.data[0] = 0


def _lose_bias_of_convolution(block):
    block.dssm.conv.bias.data[3] = 0


def _change_what_follows_the_block(block):
    weight = max((p for name, p in block.named_parameters() if not name.startswith('dssm')), key=torch.numel)
    weight.data.mul_(1.001)


def _change_orders(change):
    def planted(block):
        (scan,) = (scan for scan in block.dssm.scans if scan_has_offsets(scan))
        scan.register_forward_hook(
            lambda module, args, result: (result[0], TokenOrder.from_order(change(result[1].order)))
        )

    return planted


def scan_has_offsets(scan):
    return hasattr(scan, 'offset_network')


def _exchange_two(order):
    """Exchange the first token with the tenth, where no two keys tie."""
    order = order.clone()
    order[:, [0, 9]] = order[:, [9, 0]]
    return order


FAULTS = {
    _forget_state: 'stages.1.0.dssm alone differs',
    _keep_all_of_the_state: 'stages.1.0.dssm alone differs',
    _lose_bias_of_time_step: 'stages.1.0.dssm alone differs',
    _lose_bias_of_convolution: 'stages.1.0.dssm alone differs',
    _change_what_follows_the_block: 'stages.1.1.dssm alone differs',
    _change_orders(lambda order: order.flip(1)): 'stages.1.0.dssm.scans.1 is not sorted',
    _change_orders(_exchange_two): 'stages.1.0.dssm.scans.1 is not sorted',
}


@pytest.mark.parametrize(('fault', 'message'), FAULTS.items(), ids=lambda x: getattr(x, '__name__', ''))
def test_a_fault_in_the_middle_of_a_deep_network_is_found_where_it_is(fault, message, deep):
    found = verify(NetworkAsFile(changed(deep, fault)), deep, SIZES[:1])
    assert len(found.problems) == 1 and message in found.problems[0], found.problems


def test_a_result_that_is_wrong_after_the_last_block_is_found(deep):
    class Wrong(NetworkAsFile):
        def run(self, images):
            results, *rest = super().run(images)
            return {**results, 'map1': results['map1'] * (1 + 1e-5)}, *rest

    found = verify(Wrong(deep), deep, SIZES[:1])
    assert 'map1 alone differs by 1.0e-05 of its size, the limit is 5e-06' in found.problems[0]


def test_a_missing_state_is_found_with_initial_weights():
    """The results hardly change then: the check looks at the blocks."""
    torch.manual_seed(0)
    model = DefMamba(dict(embed_dims=(8,), depths=(1,)), pretrain_img_size=16)
    network = ExportedPart(model.eval(), part='backbone')
    assert verify(NetworkAsFile(network), network, SIZES).problems == []
    wrong = copy.deepcopy(network)
    _forget_state(wrong.network.stages[0][0])
    (comparison,) = verify(NetworkAsFile(wrong), network, SIZES[:1]).comparisons
    assert max(comparison.differences.values()) < 2e-3
    assert 'stages.0.0.dssm alone differs by' in comparison.problem


def comparison(difference, flips=(), own=(), part=0.0, fall=0.0):
    own = {'logits': own} if own else {}
    return Comparison((1, 8, 8), {'logits': difference}, dict(flips), 64, {'block': part}, {'scan': fall}, own)


def test_limits_are_those_of_flips_and_of_what_the_network_does_to_itself():
    assert comparison(4.9e-6).problem is None
    assert comparison(5.1e-6).problem == 'logits differs by 5.1e-06, the limit is 5e-06'
    assert comparison(1.9e-3, {'scan': 2}).problem is None
    assert 'with 2 flipped tokens' in comparison(2.1e-3, {'scan': 2}).problem
    assert comparison(float('nan')).problem is not None
    assert comparison(9.9e-5, own=1e-5).problem is None
    assert 'the network itself changes by 1.0e-05' in comparison(1.1e-4, own=1e-5).problem
    assert comparison(float('nan'), own=1.0).problem is not None


def test_limits_of_parts_hold_whatever_the_network_does_to_itself():
    assert comparison(0.0, part=0.9e-5, fall=0.9e-5).problem is None
    for wrong in (1.1e-5, float('nan')):
        assert 'block alone differs' in comparison(0.0, {'scan': 2}, own=1.0, part=wrong).problem
    for wrong in (1.1e-5, float('nan')):
        assert 'the order scan is not sorted' in comparison(0.0, {'scan': 2}, own=1.0, fall=wrong).problem


def test_an_order_without_keys_must_once_be_without_flips():
    flipped, equal = comparison(1e-6, {'scan': 2}), comparison(1e-6)
    assert 'sorts otherwise' in Verification([flipped], ('scan',)).problems[0]
    assert Verification([flipped, equal], ('scan',)).problems == Verification([flipped]).problems == []
    assert Verification([]).problems == ['nothing was compared']
