_base_ = 'defmamba_pico_digits.py'

model = dict(backbone=dict(formulation='released'))
