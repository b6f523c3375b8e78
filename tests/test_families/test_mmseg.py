"""One training step and one prediction of segmentors of mmseg on our backbone, with narrow heads.

`families.yml` lists every algorithm folder of the library. test_sweep.py runs all of them (marker ``sweep``).
"""

import pytest

FAMILIES = [
    'ann/ann_r50-d8_4xb4-80k_ade20k-512x512.py',
    'deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_isaid-896x896.py',
    'dmnet/dmnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'encnet/encnet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py',
    'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py',
    'ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py',
    'psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512.py',
    'pspnet/pspnet_r50-d8_4xb4-20k_coco-stuff10k-512x512.py',
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
    'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py',
    'upernet/upernet_r50_4xb4-80k_ade20k-512x512.py',
]


@pytest.mark.parametrize('name', FAMILIES)
def test_family_trains_and_predicts(families, name):
    """Loss, backward, a finite gradient for each parameter of the backbone, and a prediction for each image."""
    assert name in families.expected['mmseg']['work']
    found = families.run('mmseg', name)
    assert len(found) > 0
