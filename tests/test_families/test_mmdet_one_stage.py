"""One training step and one prediction of one-stage detectors of mmdet on our backbone, with narrow heads.

`families.yml` lists every algorithm folder of the library. test_sweep.py runs all of them (marker ``sweep``).
"""

import pytest

FAMILIES = [
    'atss/atss_r50_fpn_1x_coco.py',
    'autoassign/autoassign_r50-caffe_fpn_1x_coco.py',
    'centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco.py',
    'condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py',
    'ddod/ddod_r50_fpn_1x_coco.py',
    'detr/detr_r50_8xb2-150e_coco.py',
    'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'foveabox/fovea_r50_fpn_4xb4-1x_coco.py',
    'fsaf/fsaf_r50_fpn_1x_coco.py',
    'gfl/gfl_r50_fpn_1x_coco.py',
    'paa/paa_r50_fpn_1x_coco.py',
    'reppoints/reppoints-moment_r50_fpn_1x_coco.py',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'solo/solo_r50_fpn_1x_coco.py',
    'solov2/solov2_r50_fpn_1x_coco.py',
    'tood/tood_r50_fpn_1x_coco.py',
    'vfnet/vfnet_r50_fpn_1x_coco.py',
    'yolo/yolov3_d53_8xb8-320-273e_coco.py',
    'yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'maskformer/maskformer_r50_ms-16xb1-75e_coco.py',
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'dyhead/atss_r50_fpn_dyhead_1x_coco.py',
]


@pytest.mark.parametrize('name', FAMILIES)
def test_family_trains_and_predicts(families, name):
    """Loss, backward, a finite gradient for each parameter of the backbone, and a prediction for each image."""
    assert name in families.expected['mmdet']['work']
    found = families.run('mmdet', name)
    assert len(found) > 0
