import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmdefmamba.paper import order_gradients

MODEL = dict(
    type='ImageClassifier',
    backbone=dict(
        type='DefMamba',
        arch=dict(embed_dims=(8,), depths=(1,)),
        pretrain_img_size=16,
        scans=('raster', 'deformable'),
        out_indices=(0,),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels=8, init_cfg=dict(type='Normal', layer='Linear', std=1)),
)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    model = MODELS.build(Config(dict(model=MODEL)).model)
    model.init_weights()
    return model


def test_agreement_by_hand():
    measured = torch.tensor([[3.0, -4.0, 0.0], [1.0, 1.0, 0.0]])
    assert order_gradients.agreement(measured, measured) == {'cosine': 1, 'sign': 1}
    scores = order_gradients.agreement(torch.tensor([[4.0, 3.0, 1.0], [0.0, 2.0, 0.0]]), measured)
    # correct: 3 and the last 1; wrong: -4 and the 1 that is predicted as no change; the zeros are not used
    assert scores['sign'] == 0.5
    assert scores['cosine'] == pytest.approx((0 + 2**-0.5) / 2)


def test_swaps_are_measured_one_by_one(classifier):
    (scan,) = order_gradients.ordered_scans(classifier).values()
    order = torch.tensor([[2, 0, 1], [0, 1, 2]])

    def losses():
        order = scan.token_order(None).order
        return (order * torch.tensor([100, 10, 1])).sum(1)

    # 201 -> 021, 210; 012 -> 102, 021
    assert order_gradients.measured_gains(losses, scan, order).tolist() == [[21 - 201, 210 - 201], [102 - 12, 21 - 12]]
    assert 'token_order' not in vars(scan)


def test_swap_gradient_predicts_the_loss_and_the_model_is_restored(classifier):
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    table = order_gradients.compare_order_gradients(classifier, images, labels)
    (name, scan), *rest = order_gradients.ordered_scans(classifier).items()
    assert not rest and set(table) == {(name, gradient) for gradient in ('paper', 'released', 'swap')}
    assert table[name, 'swap']['sign'] > 0.7 and table[name, 'swap']['cosine'] > 0.1
    assert scan.order_gradient == 'paper' and 'token_order' not in vars(scan)


def test_a_model_without_learned_order_is_refused(classifier):
    classifier.backbone.stages[0][0].dssm.scans[1].order = False
    with pytest.raises(ValueError, match='no deformable scan that learns an order'):
        order_gradients.compare_order_gradients(classifier, torch.zeros(1, 3, 16, 16), torch.tensor([0]))
