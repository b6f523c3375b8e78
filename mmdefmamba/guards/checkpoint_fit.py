"""A checkpoint that does not fit its model is refused.

MMEngine logs the names that are missing, up to thousands in one line, and tests or resumes with random weights.
"""

import logging
from collections.abc import Mapping

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS

from ..checkpoints.contents import check_training_state
from ..checkpoints.fit import fit, not_finite, some, state_dict_of
from ..files import shown
from ..model_wrappers import plain_model
from .runs import is_built, is_resumed, loaded_file


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Compare a checkpoint with the model before it is loaded.

    Testing and validating need every parameter of the model, as the model's own loading hooks take it (they may resize
    or rename). Resuming needs every parameter under its name and in its shape, since the state of the optimizer belongs
    to it, and no other parameter may be in that state. A training that starts from ``load_from`` needs at least one
    parameter: it may have another head. MMEngine warns about entries of the checkpoint that the model does not have.

    Raises:
        ValueError: the checkpoint has no weights, lacks parameters of the model, has values that are not finite or a
            ``meta`` that no training writes, or, when a training is resumed, an optimizer for other parameters; lists
            them.
    """

    priority = 'HIGH'  # before EMAHook takes the same parameters

    def after_load_checkpoint(self, runner, checkpoint):
        file = shown(loaded_file(runner) or 'the checkpoint')
        model = plain_model(runner.model)
        state = state_dict_of(checkpoint, file, names=('state_dict',))  # what MMEngine takes
        training = is_built(runner, 'train')
        what = 'resuming' if is_resumed(runner) else 'training' if training else 'testing'
        verdict = fit(model, state, hooks=what != 'resuming')
        if not verdict.tried:
            print_log(f'{shown(file)} cannot be compared with the model; {verdict}', 'current', logging.WARNING)
        elif not verdict.matched or (what != 'training' and not verdict.complete):
            raise ValueError(
                f'{shown(file)} does not fit this {type(model).__name__}: it fills {verdict.matched} of '
                f'{verdict.total} '
                f'parameters and buffers; {verdict}. {what.capitalize()} needs '
                f'{"at least one" if what == "training" else "all"} of them. Use the config that the checkpoint was '
                'made with'
            )
        if what == 'resuming' and isinstance(checkpoint, Mapping):
            _compare_optimizers(runner.optim_wrapper, checkpoint.get('optimizer'), file, verdict)
            check_training_state(checkpoint, file)
        broken = not_finite(model, state)
        averaged = checkpoint.get('ema_state_dict') if isinstance(checkpoint, Mapping) else None
        if averaged:
            plain = {str(name).removeprefix('module.'): value for name, value in averaged.items()}
            broken |= {f'ema_state_dict.module.{name}': count for name, count in not_finite(model, plain).items()}
        if broken:
            raise ValueError(
                f'{shown(file)} holds NaN or infinite values in {len(broken)} parameters, such as {some(broken)}: its '
                'training diverged. Use an earlier checkpoint'
            )


def _compare_optimizers(wrapper, saved, file, verdict):
    """Stop if a saved optimizer has other groups of parameters than this one; PyTorch's error for it names nothing."""
    if isinstance(wrapper, OptimWrapperDict) and isinstance(saved, Mapping):
        for name, part in wrapper.items():
            _compare_optimizers(part, saved.get(name), file, verdict)
    if not isinstance(wrapper, OptimWrapper) or not isinstance(saved, Mapping) or 'param_groups' not in saved:
        return
    before, now = (
        [len(group['params']) for group in groups] for groups in (saved['param_groups'], wrapper.optimizer.param_groups)
    )
    if before == now:
        return
    if verdict.unused:
        cause = f'{len(verdict.unused)} entries of the checkpoint are not in this model: {some(verdict.unused)}'
        setting = 'config of the model, such as model.backbone.out_indices,'
    else:
        cause, setting = 'The parameters are the same, but their groups differ', 'optim_wrapper.paramwise_cfg'
    raise ValueError(
        f'{shown(file)} cannot be resumed: its optimizer has {sum(before)} parameters in {len(before)} groups, and '
        'that of '
        f'this config has {sum(now)} in {len(now)}. {cause}. Either use the {setting} that the checkpoint was made '
        'with, or take its weights alone: set load_from to this file and leave out resume, and the optimizer and the '
        'schedule start anew'
    )
