"""The guard ``custom_keys``: a name in ``paramwise_cfg.custom_keys`` that misses a parameter by a slip.

Without it: MMEngine ignores the entry, and the parameter trains with the learning rate and weight decay of all others.
"""

import re

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..config_tree import dicts_in
from ..model_wrappers import plain_model
from ..names import nearest


@HOOKS.register_module()
class CustomKeysHook(Hook):
    """Compare the names in ``custom_keys`` with the model's parameters before training.

    An entry holds for all parameters whose names contain its name. An entry that holds for no parameter is allowed,
    since a schedule for several networks names parameters that some of them lack. It is refused if its name is similar
    to a part of a parameter's name.

    Raises:
        ValueError: names the entry and the similar name.
    """

    def before_train(self, runner):
        names = [name for name, _ in plain_model(runner.model).named_parameters()]
        for path, node in dicts_in(runner.cfg.get('optim_wrapper'), ('optim_wrapper',)):
            if path[-1] != 'custom_keys':
                continue
            for key in node:
                if any(key in name for name in names):
                    continue
                near = nearest(key, _parts(names, key.count('.') + 1), cutoff=0.8)
                # layer4 is no slip of layer3: another network has more stages
                if near and re.sub(r'\d', '', key) != re.sub(r'\d', '', near):
                    raise ValueError(
                        f'{".".join(path)}.{key}: no parameter has {key!r} in its name, did you mean {near!r}?'
                    )


def _parts(names, length):
    """Return all parts of dotted names that are ``length`` words long."""
    words = [name.split('.') for name in names]
    return {'.'.join(each[i : i + length]) for each in words for i in range(len(each) - length + 1)}
