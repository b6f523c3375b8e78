"""One training step and one prediction of detectors of mmdet in two stages on our backbone, with narrow heads.

`families.yml` lists every algorithm folder of the library. test_sweep.py runs all of them (marker ``sweep``).
"""

import pytest

FAMILIES = [
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    'dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py',
    'dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py',
    'faster_rcnn/faster-rcnn_r50_fpn_ciou_1x_coco.py',
    'grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py',
    'groie/mask-rcnn_r50_fpn_groie_1x_coco.py',
    'guided_anchoring/ga-rpn_r50_fpn_1x_coco.py',
    'htc/htc_r50_fpn_1x_coco.py',
    'libra_rcnn/libra-fast-rcnn_r50_fpn_1x_coco.py',
    'ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py',
    'pafpn/faster-rcnn_r50_pafpn_1x_coco.py',
    'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py',
    'qdtrack/qdtrack_faster-rcnn_r50_fpn_4e_base.py',
    'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
    'carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py',
    'double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py',
    'hrnet/htc_hrnetv2p-w18_20e_coco.py',
]


@pytest.mark.parametrize('name', FAMILIES)
def test_family_trains_and_predicts(families, name):
    """Loss, backward, a finite gradient for each parameter of the backbone, and a prediction for each image."""
    assert name in families.expected['mmdet']['work']
    found = families.run('mmdet', name)
    assert len(found) > 0
