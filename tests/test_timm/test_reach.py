"""What comes through timm: other libraries that take its names. Run with ``-m reach`` after installing them."""

import pytest
import torch

pytest.importorskip('timm')

import mmdefmamba.timm  # noqa: F401

pytestmark = pytest.mark.reach


@pytest.mark.parametrize('size', [(64, 64), (96, 160)])
@pytest.mark.parametrize('arch', ['Unet', 'FPN', 'UPerNet', 'Segformer', 'PSPNet'])
def test_segmentation_models_pytorch(arch, size):
    smp = pytest.importorskip('segmentation_models_pytorch')
    model = getattr(smp, arch)('tu-defmamba_tiny', encoder_weights=None, classes=3)
    y = model(torch.randn(2, 3, *size))
    assert y.shape == (2, 3, *size)
    y.square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_segmentation_models_pytorch_refuses_dilation():
    smp = pytest.importorskip('segmentation_models_pytorch')
    with pytest.raises(ValueError, match='output_stride must be 32'):
        smp.DeepLabV3('tu-defmamba_tiny', encoder_weights=None)


@pytest.mark.parametrize('size', [(64, 64), (75, 90)])
def test_detector_of_transformers(size):
    transformers = pytest.importorskip('transformers')
    backbone = transformers.TimmBackboneConfig(backbone='defmamba_tiny', out_indices=[3], use_pretrained_backbone=False)
    config = transformers.DetrConfig(
        backbone_config=backbone,
        use_pretrained_backbone=False,
        d_model=32,
        num_queries=5,
        num_labels=4,
        **{f'{part}_{name}': n for part in ('encoder', 'decoder') for name, n in PARTS},
    )
    model = transformers.DetrForObjectDetection(config).train()
    labels = [dict(class_labels=torch.tensor([1]), boxes=torch.tensor([[0.5, 0.5, 0.2, 0.3]]))]
    out = model(pixel_values=torch.randn(1, 3, *size), labels=labels)
    assert out.logits.shape == (1, 5, 5) and out.pred_boxes.shape == (1, 5, 4)
    out.loss.backward()
    own = {name: p for name, p in model.named_parameters() if 'backbone' in name and p.requires_grad}
    assert len(own) > 100 and [name for name, p in own.items() if p.grad is None] == []


PARTS = (('layers', 1), ('ffn_dim', 32), ('attention_heads', 2))
