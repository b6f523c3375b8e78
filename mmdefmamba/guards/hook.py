"""All guards of a run, behind one hook."""

import weakref

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..names import unknown_name
from . import loading
from .checkpoint_fit import CheckpointFitHook
from .class_count import ClassCountHook
from .class_names import ClassNamesHook
from .config_keys import ConfigKeysHook
from .custom_keys import CustomKeysHook
from .every_image import EveryImageHook
from .finite_loss import FiniteLossHook
from .image_size import MAX_DATA_PIXELS
from .label_values import LabelValuesHook
from .metric_names import MetricNamesHook
from .resumed_schedule import ResumedScheduleHook

#: The guards that are hooks themselves, by name, in the order in which they look.
HOOK_GUARDS = {
    'config_keys': ConfigKeysHook,
    'custom_keys': CustomKeysHook,
    'checkpoint_fit': CheckpointFitHook,
    'class_names': ClassNamesHook,
    'class_count': ClassCountHook,
    'label_values': LabelValuesHook,
    'metric_names': MetricNamesHook,
    'resumed_schedule': ResumedScheduleHook,
    'every_image': EveryImageHook,
    'finite_loss': FiniteLossHook,
}
#: The names of all guards.
GUARDS = (*HOOK_GUARDS, *loading.LOADING_GUARDS)


@HOOKS.register_module()
class GuardsHook(Hook):
    """Check config, data, checkpoints and weights of a run, and stop it with an error that names what is wrong.

    ``configs/_base_/guards.py`` adds this hook to a config. docs/mends_and_guards.md lists the guards: what each
    checks, and what happens without it.

    Args:
        leave_out: names of guards to leave out, of ``GUARDS``.
        max_pixels: the largest image that the guard ``damaged_images`` lets a data pipeline decode; None for no limit.

    Raises:
        ValueError: ``leave_out`` names a guard that does not exist, or ``max_pixels`` is no positive number.
    """

    priority = 'VERY_HIGH'  # before EMAHook takes the parameters of a checkpoint that does not fit

    def __init__(self, leave_out=(), max_pixels=MAX_DATA_PIXELS):
        if max_pixels is not None and (not isinstance(max_pixels, int) or max_pixels < 1):
            raise ValueError(f'max_pixels must be a positive number of pixels or None, got {max_pixels!r}')
        self.leave_out = check_names([leave_out] if isinstance(leave_out, str) else leave_out or ())
        self.hooks = [hook() for name, hook in HOOK_GUARDS.items() if name not in self.leave_out]
        self._loading = tuple(name for name in loading.LOADING_GUARDS if name not in self.leave_out)
        # already here: an iteration-based loop starts its data workers when it is built
        loading.activate(self._loading, max_pixels)
        # not at the end of a run: the next one of the same runner starts its data workers before its hooks are asked
        weakref.finalize(self, loading.deactivate, self._loading)

    def get_triggered_stages(self):
        """Return the stages at which a guard looks, for MMEngine's log."""
        found = {stage for hook in self.hooks for stage in hook.get_triggered_stages()}
        return [stage for stage in Hook.stages if stage in found]

    def _call(self, stage, *args, **kwargs):
        for hook in self.hooks:
            getattr(hook, stage)(*args, **kwargs)


def _calling(stage):
    def call(self, *args, **kwargs):
        self._call(stage, *args, **kwargs)

    call.__name__ = stage
    return call


for _stage in Hook.stages:
    if _stage not in vars(GuardsHook):
        setattr(GuardsHook, _stage, _calling(_stage))


def guards_hook(cfg):
    """Return the dict of the GuardsHook in a config, or None.

    Args:
        cfg: a Config or dict with ``custom_hooks`` and ``default_hooks``.
    """
    hooks = [*(cfg.get('custom_hooks') or ()), *(cfg.get('default_hooks') or {}).values()]
    kinds = [(hook, hook.get('type')) for hook in hooks if isinstance(hook, dict)]
    return next((hook for hook, kind in kinds if kind is GuardsHook or str(kind).endswith('GuardsHook')), None)


def check_names(names):
    """Return names of guards as a tuple.

    Raises:
        ValueError: there is no guard of such a name.
    """
    for name in names:
        if name not in GUARDS:
            remedy = f'The guards are {", ".join(GUARDS)}'
            raise ValueError(unknown_name(f'there is no guard {name!r}', name, GUARDS, remedy))
    return tuple(names)
