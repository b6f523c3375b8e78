"""Inference functions that build their pipelines in the scope of another library.

Defect: ``inference_detector`` of mmdet, ``inference_model`` of mmseg and the inferencers of mmpretrain look up the
transforms of a model's config in MMEngine's default scope. There is one for the whole process: that of the model that
was loaded last. With models of two libraries in one process they find transforms of the other library, or none.
Seen in: mmdet 3.3.0, mmsegmentation 1.2.2, mmpretrain 1.2.0: a detector after a segmentor was loaded ends with
``LoadAnnotations.__init__() got an unexpected keyword argument 'with_bbox'``.
Can go: when these functions look up transforms in the scope of the model's config.
"""

import functools

from .marks import replace

_FUNCTIONS = {
    'mmdet.apis.inference': ('inference_detector', 'inference_mot'),
    'mmseg.apis.inference': ('inference_model', 'show_result_pyplot'),
}


def apply(module):
    """Let the functions of a module run in the scope of the model's config; returns whether that changed one."""
    if module.__name__ == 'mmpretrain.apis.base':
        return replace(module.BaseInferencer, '__init__', _inferencer_in_scope, 'inference_scope')
    names = [name for name in _FUNCTIONS[module.__name__] if hasattr(module, name)]
    changed = [replace(module, name, _function_in_scope, 'inference_scope') for name in names]
    return any(changed)


def _function_in_scope(function):
    @functools.wraps(function)
    def run(model, *args, **kwargs):
        with _scope(getattr(model, 'cfg', None)):
            return function(model, *args, **kwargs)

    return run


def _inferencer_in_scope(init):
    @functools.wraps(init)
    def build(self, model, *args, **kwargs):
        # mmpretrain builds a model that is given by its name in its own scope, and here its pipeline, too
        with _scope(getattr(model, '_config', None), 'mmpretrain'):
            init(self, model, *args, **kwargs)

    return build


def _scope(cfg, default=None):
    """Return a context with the scope of a config; without a config, and for one without a scope, with ``default``."""
    from mmengine.registry import DefaultScope

    # a scope of None changes nothing
    return DefaultScope.overwrite_default_scope((cfg.get('default_scope') if cfg is not None else None) or default)
