"""mmcv's operators on torchvision and PyTorch, where mmcv has no compiled operators.

Defect: mmcv publishes no wheel with compiled operators for current PyTorch, and its lite wheel has no operators at all.
``mmdet.models`` and ``mmseg.models`` import all of ``mmcv.ops``, which fails with ``No module named 'mmcv._ext'``.
Seen in: mmcv-lite 2.1.0 with mmdet 3.3.0, mmsegmentation 1.2.2 and torch 2.14.
Can go: when mmcv ships wheels for current PyTorch, or ``mmcv.ops`` imports without them.

The mend provides a module ``mmcv._ext`` with the operators that the networks of mmdet, mmseg and mmpretrain call, with
the meaning that mmcv gives to their arguments, on CPU and CUDA. Each module of this package has a family of them; their
parameters have mmcv's names, because mmcv passes most by name. Every other operator raises an error when it is called.
An installed ``mmcv._ext`` is never touched.
"""

import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from . import attention, boxes, deform_conv, focal_loss, reassembly, roi_align, roi_pools

_NAME = 'mmcv._ext'
_FAMILIES = (attention, boxes, deform_conv, focal_loss, reassembly, roi_align, roi_pools)
#: The operators that the stand-in has, by name.
OPERATORS = {name: getattr(family, name) for family in _FAMILIES for name in family.__all__}
#: Beginnings of the names of the other operators that mmcv 2.1 has for the CPU as well. It has the rest for GPUs only.
_ALSO_ON_CPU = (
    'active_rotated_filter',
    'bbox_overlaps',
    'bezier_align',
    'box_iou',
    'contour_expand',
    'dynamic_voxelize',
    'hard_voxelize',
    'nms_quadri',
    'nms_rotated',
    'pixel_group',
    'points_in_boxes_cpu',
    'roi_align_rotated',
    'rotated_feature_align',
)


def apply(mmcv):
    """Install the stand-in where ``mmcv`` has no compiled extension; returns whether that was needed."""
    # find_spec('mmcv._ext') would answer for modules that are there already
    if _NAME in sys.modules or PathFinder.find_spec(_NAME, mmcv.__path__) is not None:
        return False
    sys.modules[_NAME] = _StandIn()
    return True


class _StandIn(ModuleType):
    """A module ``mmcv._ext`` with :data:`OPERATORS`."""

    def __init__(self):
        super().__init__(_NAME, __doc__)
        # With a loader, MMEngine's mmcv_full_available() is True. It then looks for deformable convolutions in a
        # network, which can have a learning rate of their own (`dcn_offset_lr_mult`).
        self.__spec__ = ModuleSpec(_NAME, loader=_Loaded(), origin=__name__)
        vars(self).update(OPERATORS)
        # mmcv's environment report calls these; 'n/a' is what it prints where it finds no operators.
        self.get_compiler_version = self.get_compiling_cuda_version = lambda: 'n/a'

    def __getattr__(self, name):
        # mmcv.ops takes every operator at import, so only the call may fail. The name of no operator begins with an
        # underscore, but Python and its tools look for __path__, __file__, __wrapped__ and others in modules.
        if name.startswith('_'):
            raise AttributeError(f'module {_NAME!r} has no attribute {name!r}')

        def unavailable(*args, **kwargs):
            raise NotImplementedError(_refusal(name))

        return unavailable


class _Loaded(Loader):
    """Stands for the loader of a module that is there already; MMEngine asks whether there is one."""


def _refusal(name):
    text = (
        f'mmcv operator {name!r} is not available: mmcv was installed without compiled operators, and mmdefmamba does '
        'not have this one. '
    )
    build = 'MMCV_WITH_OPS=1 pip install --no-build-isolation mmcv==2.1.0` with setuptools < 82'
    if name.startswith(_ALSO_ON_CPU):
        return f'{text}A compiler can build it: `CFLAGS=-g0 FORCE_CUDA=0 {build} (FORCE_CUDA=1 on a GPU machine).'
    return (
        f'{text}mmcv has it for tensors on a GPU only. There, with the CUDA toolkit, a compiler can build it: '
        f'`CFLAGS=-g0 FORCE_CUDA=1 {build}.'
    )
