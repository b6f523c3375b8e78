# Guards: checks of config, data, checkpoints and weights that stop a run with an error which names what is wrong.
# docs/mends_and_guards.md lists them. Any config of mmpretrain, mmdet or mmseg can take them as a second base:
#     _base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'mmdefmamba::_base_/guards.py']
# To leave one out: custom_hooks = [dict(type='mmdefmamba.guards.GuardsHook', leave_out=['class_count'])]
# To add a hook of your own: custom_hooks = [*_base_.custom_hooks, dict(type='MyHook')]
custom_hooks = [dict(type='mmdefmamba.guards.GuardsHook')]
