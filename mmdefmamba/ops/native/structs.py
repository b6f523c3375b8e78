"""The structs of ``csrc`` for ctypes: the same names, in the same order."""

import ctypes

int64, pointer = ctypes.c_int64, ctypes.c_void_p


class Rows(ctypes.Structure):
    """Rows of channels that a kernel reads or writes: the address, and the strides of images and tokens in floats."""

    _fields_ = [('data', pointer), ('image', int64), ('token', int64)]


class Scan(ctypes.Structure):
    _fields_ = [
        *((name, Rows) for name in ('u', 'delta', 'rank')),
        ('rank_weight', pointer),
        *((name, Rows) for name in ('B', 'C')),
        *((name, pointer) for name in ('A', 'D', 'bias', 'order')),
        *((name, int64) for name in ('order_image', 'backwards')),
        ('states', pointer),
        *((name, Rows) for name in ('y', 'dy', 'du', 'ddelta')),
        ('add_to_du', int64),
        *((name, pointer) for name in ('dA', 'dB', 'dC', 'dD', 'dbias')),
    ]


class Call(ctypes.Structure):
    _fields_ = [
        *((name, int64) for name in ('images', 'scans', 'length', 'channels', 'states', 'padded_states', 'rank')),
        *((name, int64) for name in ('vectors_per_group', 'softplus', 'merge')),
        ('scan', pointer),
        *((name, Rows) for name in ('z', 'mean', 'gated', 'dgated', 'dz', 'dsum')),
    ]


class Sample(ctypes.Structure):
    _fields_ = [
        *((name, int64) for name in ('images', 'height', 'width', 'channels', 'points')),
        *((name, int64) for name in ('table_height', 'table_width', 'table_top', 'table_left', 'table_columns')),
        ('vectors_per_group', int64),
        ('u', Rows),
        *((name, pointer) for name in ('at', 'table', 'table_at')),
        *((name, Rows) for name in ('out', 'dout', 'du')),
        *((name, pointer) for name in ('dtable', 'dat', 'dtable_at')),
    ]


class Job(ctypes.Structure):
    _fields_ = [('kernel', pointer), ('call', pointer), ('tasks', int64), ('next', int64)]
