"""Layer-wise decay of the learning rate, for mmpretrain, mmdet and mmseg."""

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Multiply the learning rate of each parameter by ``layer_decay_rate`` once per layer between it and the head.

    A parameter of depth d of D gets ``layer_decay_rate ** (D - 1 - d)`` times the rate that MMEngine's constructor
    gives it. The backbone tells the depths by its ``get_layer_depth(param_name, prefix)``, as that of DefMamba and of
    mmpretrain's networks do. Parameters outside of such a backbone keep their rate.

    Args:
        optim_wrapper_cfg: as for MMEngine's DefaultOptimWrapperConstructor.
        paramwise_cfg: all that MMEngine's constructor reads, such as ``custom_keys`` and ``norm_decay_mult``; and
            ``layer_decay_rate``, above 0 and at most 1.

    Raises:
        ValueError: there is no ``layer_decay_rate``, or it is out of range; the optimizer has no ``lr``; or, when it is
            called, no part of the model has ``get_layer_depth``.

    Source: Clark et al., ELECTRA (2020), and BEiT, where each depth is one block.
    """

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.rate = self.paramwise_cfg.get('layer_decay_rate')
        if isinstance(self.rate, bool) or not isinstance(self.rate, (int, float)) or not 0 < self.rate <= 1:
            raise ValueError(
                f'paramwise_cfg.layer_decay_rate must be a number above 0 and at most 1, got {self.rate!r}'
            )
        if self.base_lr is None:
            raise ValueError('layer_decay_rate scales the learning rate: set optim_wrapper.optimizer.lr')

    def add_params(self, params, module, prefix='', **kwargs):
        """Add one group per parameter, as MMEngine's constructor, and scale its learning rate.

        Args:
            params: list of groups, to which the new ones are added.
            module: the model, or a part of it.
            prefix: name of the part; '' for the model.
            **kwargs: what MMEngine's constructor passes to the parts.
        """
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:
            return
        names = {parameter: name for name, parameter in module.named_parameters()}
        backbones = [(f'{name}.', part) for name, part in module.named_modules() if name and _tells_depth(part)]
        if not backbones:
            raise ValueError(
                f'no part of {type(module).__name__} has get_layer_depth, which layer_decay_rate needs: use a backbone '
                'that has it, such as DefMamba, or remove optim_wrapper.constructor'
            )
        for group in params:
            name = names[group['params'][0]]
            found = next(((prefix, part) for prefix, part in backbones if name.startswith(prefix)), None)
            if found is not None:
                depth, depths = found[1].get_layer_depth(name, found[0])
                group['lr'] = group.get('lr', self.base_lr) * self.rate ** (depths - 1 - depth)


def _tells_depth(module):
    return callable(getattr(module, 'get_layer_depth', None))
