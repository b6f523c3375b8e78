"""One training step and one prediction of algorithms of mmpretrain on our backbone, with narrow heads.

`families.yml` lists every algorithm folder of the library. test_sweep.py runs all of them (marker ``sweep``).
"""

import pytest

FAMILIES = [
    'simmim/simmim_swin-base-w6_8xb256-amp-coslr-100e_in1k-192px.py',
    'mocov3/mocov3_resnet50_8xb512-amp-coslr-100e_in1k.py',
    'byol/byol_resnet50_16xb256-coslr-200e_in1k.py',
    'simclr/simclr_resnet50_8xb32-coslr-200e_in1k.py',
    'barlowtwins/barlowtwins_resnet50_8xb256-coslr-300e_in1k.py',
    'densecl/densecl_resnet50_8xb32-coslr-200e_in1k.py',
    'arcface/resnet50-arcface_8xb32_inshop.py',
    'csra/resnet101-csra_1xb16_voc07-448px.py',
    'swin_transformer/swin-tiny_16xb64_in1k.py',
]


@pytest.mark.parametrize('name', FAMILIES)
def test_family_trains_and_predicts(families, name):
    """Loss, backward, a finite gradient for each parameter of the backbone, and a prediction for each image."""
    assert name in families.expected['mmpretrain']['work']
    found = families.run('mmpretrain', name)
    assert len(found) > 0
