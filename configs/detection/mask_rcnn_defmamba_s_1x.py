_base_ = [
    '../_base_/detection/mask_rcnn_defmamba.py',
    'mmdet::_base_/datasets/coco_instance.py',
    '../_base_/detection/schedule_1x.py',
    '../_base_/detection/tta.py',
    '../_base_/detection/runtime.py',
]
