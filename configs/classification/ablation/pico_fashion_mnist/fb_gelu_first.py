# GELU before LayerNorm in the offset network, as in the text of the paper.
_base_ = ['base.py', '../../../_base_/classification/table_scans.py']

model = dict(backbone=dict(scans=_base_.table_scans.fb_gelu_first))
