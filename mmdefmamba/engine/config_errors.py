"""Mistakes in a config, named together with what was meant.

A top-level key that nobody reads is no error to MMEngine: ``optim_wraper = dict(...)`` trains with the optimizer of the
base config, for days. An argument that a class does not take is one, but not with the near name.
"""

import difflib
import inspect
import re
import traceback

from mmengine.runner import Runner

# Read by the tools, by MMEngine beside its Runner's arguments, and by all three libraries.
_READ_BESIDE_THE_RUNNER = {
    'auto_scale_lr',
    'compile',
    'custom_imports',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}
# From here on two names are one with a slip of the finger: optim_wraper, train_dataloaders.
_NEAR = 0.9


def check_keys(cfg):
    """Refuse a top-level key that is a known one but for a slip.

    Other unknown keys pass: a config's own variables are keys too.

    Args:
        cfg: an MMEngine Config.

    Raises:
        ValueError: names the key and the one that was meant.
    """
    known = set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | _READ_BESIDE_THE_RUNNER
    for key in cfg:
        near = difflib.get_close_matches(key, known, n=1, cutoff=_NEAR)
        if key not in known and near:
            raise ValueError(f'config key {key!r} is read by nobody, did you mean {near[0]!r}?')


def explain_argument(error):
    """What to raise in place of MMEngine's error for an argument that a registered class does not take.

    Args:
        error: a TypeError from a registry's ``build``.

    Returns:
        A TypeError that adds the near argument, or all there are; ``error`` itself where it says something else.
    """
    match = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    # MMEngine's releases word the error differently; the class is a local of its innermost build
    built = [frame.f_locals.get('obj_cls') for frame, _ in traceback.walk_tb(error.__traceback__)]
    built = [cls for cls in built if cls is not None]
    if match is None or not built:
        return error
    argument, cls = match[1], built[-1]
    takes = [
        parameter.name
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    near = difflib.get_close_matches(argument, takes, n=1)
    hint = f'Did you mean {near[0]!r}?' if near else f'It takes: {", ".join(takes)}.'
    return TypeError(f'{cls.__name__} takes no argument {argument!r}. {hint}')
