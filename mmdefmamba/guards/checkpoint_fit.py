"""A checkpoint that does not fit its model is refused.

MMEngine logs the names that are missing, up to thousands in one line, and tests or resumes with random weights.
"""

import logging
from collections.abc import Mapping

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ..checkpoints.fit import fit, some, state_dict_of
from ..model_wrappers import plain_model
from .runs import is_built, is_resumed, loaded_file


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compare a checkpoint with the model before it is loaded.

    Testing and validating need every parameter of the model, as the model's own loading hooks take it (they may resize
    or rename). Resuming needs every parameter under its name and in its shape, since the state of the optimizer belongs
    to it. A training that starts from ``load_from`` needs at least one parameter: it may have another head. MMEngine
    warns about entries of the checkpoint that the model does not have.

    Raises:
        ValueError: the checkpoint has no weights, lacks parameters of the model, or has values that are not finite;
            lists them.
    """

    priority = 'HIGH'  # before EMAHook takes the same parameters

    def after_load_checkpoint(self, runner, checkpoint):
        file = loaded_file(runner) or 'the checkpoint'
        model = plain_model(runner.model)
        state = state_dict_of(checkpoint, file, names=('state_dict',))  # what MMEngine takes
        training = is_built(runner, 'train')
        what = 'resuming' if is_resumed(runner) else 'training' if training else 'testing'
        verdict = fit(model, state, hooks=what != 'resuming')
        if not verdict.tried:
            print_log(f'{file} cannot be compared with the model; {verdict}', 'current', logging.WARNING)
        elif not verdict.matched or (what != 'training' and not verdict.complete):
            raise ValueError(
                f'{file} does not fit this {type(model).__name__}: it fills {verdict.matched} of {verdict.total} '
                f'parameters and buffers; {verdict}. {what.capitalize()} needs '
                f'{"at least one" if what == "training" else "all"} of them. Use the config that the checkpoint was '
                'made with'
            )
        own = {name for name, _ in model.named_parameters()}
        averaged = checkpoint.get('ema_state_dict', {}) if isinstance(checkpoint, Mapping) else {}
        broken = [name for name, value in state.items() if name in own and not _is_finite(value)]
        broken += [f'ema_state_dict.{name}' for name, value in averaged.items() if not _is_finite(value)]
        if broken:
            raise ValueError(
                f'{file} holds NaN or infinite values in {len(broken)} parameters, such as {some(broken)}: its '
                'training diverged. Use an earlier checkpoint'
            )


def _is_finite(value):
    """Return whether an entry has no NaN and no infinite value; types of 8 bits have no such test of their own."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.is_meta:
        return True
    return bool(value.float().isfinite().all()) if value.element_size() < 2 else bool(value.isfinite().all())
