# Table 4 (2): the deformable branch alone.
_base_ = '../../defmamba_t_in1k.py'

model = dict(backbone=dict(scans=('deformable',)))
