"""A checkpoint that does not fit its model is refused.

MMEngine warns of what is missing, in one line of a thousand names, and tests or resumes with random weights instead.
"""

import re
from collections.abc import Mapping

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop

from ..checkpoints.fit import some
from ..engine.distributed import plain_model


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compare a checkpoint with the model before it is loaded.

    Testing, validating and resuming need every parameter of the model, in its shape. A training that starts from
    ``load_from`` needs one at least: it may have another head. What the checkpoint holds beside is left to MMEngine's
    warning.

    Raises:
        ValueError: the checkpoint holds no parameters, too few of the model's, or such as are not finite; lists them.
    """

    priority = 'HIGH'  # before EMAHook takes the same parameters

    def after_load_checkpoint(self, runner, checkpoint):
        file = runner._load_from
        state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, Mapping) else checkpoint
        if not isinstance(state, Mapping):
            raise ValueError(f'{file} holds no parameters but a {type(state).__name__}: it is no checkpoint of a model')
        model = plain_model(runner.model)
        state = {re.sub(r'^module\.', '', str(name)): value for name, value in state.items()}
        # MMEngine forgives the counters, too: checkpoints of old PyTorch releases have none
        own = {name: value for name, value in model.state_dict().items() if not name.endswith('num_batches_tracked')}
        missing = [name for name in own if not hasattr(state.get(name), 'shape')]
        other = [
            f'{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}'
            for name, value in own.items()
            if name not in missing and state[name].shape != value.shape
        ]
        training = isinstance(runner._train_loop, BaseLoop)
        what = 'resuming' if runner._resume else 'training' if training else 'testing'
        lacking = len(missing) + len(other)
        if lacking and (what != 'training' or lacking == len(own)):
            raise ValueError(
                f'{file} does not fit this {type(model).__name__}: of its {len(own)} parameters, {len(missing)} are '
                f'missing there ({some(missing) or "none"}) and {len(other)} have another shape '
                f'({some(other) or "none"}); what the file holds is called {some(state)}. {what.capitalize()} needs '
                f'{"some" if what == "training" else "all"} of them: take the config that the checkpoint was made with'
            )
        broken = [
            name for name, _ in model.named_parameters() if name in state and not state[name].isfinite().all().item()
        ]
        if broken:
            raise ValueError(
                f'{file} is of a run that diverged: {len(broken)} of its parameters are not finite, '
                f'such as {some(broken)}; take an earlier one'
            )
