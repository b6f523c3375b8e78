"""``init_cfg=dict(type='Pretrained', ...)`` that says what it loaded."""

import logging

from mmengine.logging import print_log
from mmengine.model import PretrainedInit as MMEnginePretrainedInit
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner.checkpoint import CheckpointLoader

from .fit import match_parameters, some, state_dict_of


# force: MMEngine gives the name 'Pretrained' alone precedence over every other initialisation. Its own initializer
# warns and goes on, with random weights, if not one parameter of the checkpoint has a place in the module.
@WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True)
class PretrainedInit(MMEnginePretrainedInit):
    """Initialise a module from a checkpoint, report what matched, and refuse a checkpoint of which nothing does.

    Args:
        checkpoint: path or URL of the file; None leaves the module as it is, so that a config can offer
            ``--cfg-options model.backbone.init_cfg.checkpoint=FILE`` and yet train without one.
        prefix: take the entries with this prefix, such as 'backbone.', and strip it; None takes all.
        map_location: as in :func:`torch.load`.

    Raises:
        ValueError: no entry fits the module by name and shape, when called.
    """

    def __call__(self, module):
        name = type(module).__name__
        if self.checkpoint is None:
            print_log(f'{name} starts from random weights: its init_cfg has no checkpoint', logger='current')
            return
        checkpoint = CheckpointLoader.load_checkpoint(self.checkpoint, map_location=self.map_location, logger='current')
        state = state_dict_of(checkpoint, self.checkpoint)
        prefix = f'{self.prefix.rstrip(".")}.' if self.prefix else ''
        found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        match = match_parameters(module, found)
        if not match.matched:
            raise ValueError(
                f'{self.checkpoint} holds nothing for {name}: of its {len(state)} entries, such as '
                f'{some(state)}, {len(found)} start with prefix={self.prefix!r} and {len(match.other_shape)} of these '
                f'are named like one of its own, such as {some(module.state_dict())}, but none has its shape too. '
                "Check prefix, arch and formulation; a file of the authors' code has to be converted first "
                '(tools/model_converters).'
            )
        module.load_state_dict(match.matched, strict=False)
        print_log(
            f'{name}: {len(match.matched)} of {match.total} parameters loaded from {self.checkpoint}, prefix '
            f'{self.prefix!r}; {match}',
            logger='current',
            level=logging.WARNING if match.other_shape else logging.INFO,
        )
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
