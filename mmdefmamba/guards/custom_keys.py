"""A name in ``custom_keys`` that is a parameter's but for a slip.

MMEngine passes it over, and the parameter trains with the learning rate and weight decay of all others.
"""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..engine.distributed import plain_model
from ..names import near_name
from .config_keys import dicts_in


@HOOKS.register_module()
class CustomKeysHook(Hook):
    """Compare the names in ``custom_keys`` with the model's parameters before training.

    A name stands for all parameters whose names it is a part of. One that stands for none is free, since a schedule
    for several networks names parameters that some of them lack; but not if it nearly is a part of a parameter's name.

    Raises:
        ValueError: it is; names the key and the near one.
    """

    def before_train(self, runner):
        names = [name for name, _ in plain_model(runner.model).named_parameters()]
        for path, node in dicts_in(runner.cfg.get('optim_wrapper'), ('optim_wrapper',)):
            if path[-1] != 'custom_keys':
                continue
            for key in node:
                if any(key in name for name in names):
                    continue
                hint = near_name(key, _parts(names, key.count('.') + 1), cutoff=0.8)
                if hint:
                    raise ValueError(f'{".".join(path)}.{key} is part of no parameter{hint}')


def _parts(names, length):
    """All parts of dotted names that are ``length`` words long."""
    words = [name.split('.') for name in names]
    return {'.'.join(each[i : i + length]) for each in words for i in range(len(each) - length + 1)}
