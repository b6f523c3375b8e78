"""Entries of a checkpoint that a backbone does not have, because no map of it needs them."""

import logging
import re

_STAGE = re.compile(r'stages\.(\d+)\.(\d+)\.')
_DOWNSAMPLE = re.compile(r'downsamples\.(\d+)\.')
_NORM = re.compile(r'norm(\d+)\.')


def leave_out_unused_stages(backbone, state_dict, prefix, *args):
    """Remove what a backbone with shorter ``out_indices`` does not have from a state dict, before it is loaded.

    A loading hook of :class:`~mmdefmamba.models.DefMamba`. It removes stages, downsampling layers and output norms that
    belong to the arch of the backbone, and the token of masked pretraining. Anything else that the backbone does not
    have stays, and whoever loads the state dict reports it.

    Args:
        backbone: the DefMamba.
        state_dict: changed: the entries are removed. PyTorch and MMEngine give a copy.
        prefix: of the backbone's names in ``state_dict``.
        *args: the other arguments of a hook of ``Module.register_load_state_dict_pre_hook``.
    """
    unused = [
        name for name in state_dict if name.startswith(prefix) and _is_unused(backbone, name.removeprefix(prefix))
    ]
    for name in unused:
        del state_dict[name]
    if unused and not next(backbone.parameters()).is_meta:  # a trial says nothing
        logging.getLogger('mmdefmamba').info(
            f'{len(unused)} entries of the checkpoint are left out, {unused[0]} to {unused[-1]}: this backbone with '
            f'out_indices={backbone.out_indices} does not need them'
        )


def _is_unused(backbone, name):
    if name == 'mask_token':
        return not hasattr(backbone, name)
    built, depths = len(backbone.stages), backbone.depths
    if match := _STAGE.match(name):
        stage, block = int(match[1]), int(match[2])
        return built <= stage < len(depths) and block < depths[stage]
    if match := _DOWNSAMPLE.match(name):
        return built - 1 <= int(match[1]) < len(depths) - 1
    match = _NORM.match(name)
    return match is not None and int(match[1]) < len(depths) and int(match[1]) not in backbone.out_indices
