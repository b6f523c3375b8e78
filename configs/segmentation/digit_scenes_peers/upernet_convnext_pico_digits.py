# UperNet on digit scenes with ConvNeXt, beside DefMamba of about as many parameters.
_base_ = '../upernet_defmamba_pico_digits.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=[1, 1, 2, 1], channels=[20, 40, 80, 160]),
        gap_before_final_norm=False,
        linear_pw_conv=True,
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='Xavier', layer='Linear', distribution='uniform'),  # as for DefMamba here
    ),
    decode_head=dict(in_channels=[20, 40, 80, 160]),
    auxiliary_head=dict(in_channels=80),
)
