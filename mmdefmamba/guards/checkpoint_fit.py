"""A checkpoint that does not fit its model is refused.

MMEngine logs the names that are missing, up to thousands in one line, and tests or resumes with random weights.
"""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop

from ..checkpoints.fit import fit, some, state_dict_of
from ..model_wrappers import plain_model


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
        file = runner._load_from
        model = plain_model(runner.model)
        state = state_dict_of(checkpoint, file)
        training = isinstance(runner._train_loop, BaseLoop)
        what = 'resuming' if runner._resume else 'training' if training else 'testing'
        verdict = fit(model, state, hooks=what != 'resuming')
        if not verdict.matched or (what != 'training' and not verdict.complete):
            raise ValueError(
                f'{file} does not fit this {type(model).__name__}: it fills {verdict.matched} of {verdict.total} '
                f'parameters and buffers; {verdict}. {what.capitalize()} needs '
                f'{"at least one" if what == "training" else "all"} of them. Use the config that the checkpoint was '
                'made with'
            )
        broken = [
            name for name, _ in model.named_parameters() if name in state and not state[name].isfinite().all().item()
        ]
        if broken:
            raise ValueError(
                f'{file} holds NaN or infinite values in {len(broken)} parameters, such as {some(broken)}: its '
                'training diverged. Use an earlier checkpoint'
            )
