"""Offset bias tables of a checkpoint that were made for another image size, or for the other formulation."""

import itertools
import logging
import re

import torch.nn.functional as F

from ..scans.offset_bias import RELEASED_TABLE_SIZE

_TABLE = re.compile(r'stages\.(\d+)\.\d+\.dssm\.scans\.\d+\.offset_bias\.table')


def formulation_of_tables(sizes):
    """Return the formulation that the tables of a network belong to: 'paper', 'released', or None if to neither.

    Args:
        sizes: (height, width) of the tables of each stage, from the first stage on.

    Returns:
        'released' where all tables are 7 x 7; 'paper' where each stage has half the size of the one before, rounded up.
    """
    if all(tuple(size) == RELEASED_TABLE_SIZE for size in sizes):
        return 'released'
    if all(tuple(-(-side // 2) for side in size) == tuple(after) for size, after in itertools.pairwise(sizes)):
        return 'paper'
    return None


def fit_bias_tables(backbone, state_dict, prefix, *args):
    """Resize the paper's tables in a state dict to a backbone's ``pretrain_img_size``, before it is loaded.

    A loading hook of :class:`~mmdefmamba.models.DefMamba`. The tables are read at normalised coordinates whose -1 and 1
    are the centres of the first and last entry (align_corners=True), so they are resized with the same rule.

    Args:
        backbone: the DefMamba.
        state_dict: changed: tables of another size are replaced.
        prefix: of the backbone's names in ``state_dict``.
        *args: the other arguments of a hook of ``Module.register_load_state_dict_pre_hook``.

    Raises:
        ValueError: the tables belong to the other formulation, or to neither.
    """
    own = {name: table for name, table in backbone.named_parameters() if _TABLE.fullmatch(name)}
    found = {name: state_dict[prefix + name] for name in own if prefix + name in state_dict}
    if not found:
        return
    # the number of channels depends on arch: another one is an error like that of any other parameter
    resized = [
        name
        for name, table in found.items()
        if table.shape != own[name].shape and table.ndim == 3 and len(table) == len(own[name])
    ]
    sizes = {}  # of all stages of the checkpoint, of which the backbone may have fewer
    for name, table in state_dict.items():
        match = _TABLE.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match and table.ndim == 3:
            sizes.setdefault(int(match[1]), tuple(table.shape[1:]))
    formulation = formulation_of_tables([sizes[stage] for stage in sorted(sizes)])
    # Equal sizes are not enough for a backbone of one stage: its only table may be 7 x 7 in both formulations.
    if not resized and (len(sizes) < 2 or formulation in (None, backbone.formulation)):
        return
    if formulation != 'paper' or backbone.formulation != 'paper':
        listed = ', '.join(f'{height} x {width}' for height, width in sizes.values())
        belong = f'belong to formulation={formulation!r}' if formulation else 'belong to no formulation'
        hint = f"; build it with formulation='{formulation}'" if formulation else ''
        raise ValueError(
            f'the offset bias tables of the checkpoint, {listed}, {belong}, the model has '
            f'formulation={backbone.formulation!r}{hint}'
        )
    for name in resized:
        table, size = found[name], tuple(own[name].shape[1:])
        table = F.interpolate(table[None].to(own[name].dtype), size=size, mode='bilinear', align_corners=True)
        state_dict[prefix + name] = table[0]
    if not next(iter(own.values())).is_meta:  # a trial says nothing
        before, after = sizes[min(sizes)], tuple(own[resized[0]].shape[1:])
        logging.getLogger('mmdefmamba').info(
            f'{len(resized)} offset bias tables of the checkpoint are resized to the pretrain_img_size of the model; '
            f'those of {resized[0].rsplit(".", 6)[0]} from {before[0]} x {before[1]} to {after[0]} x {after[1]}'
        )
