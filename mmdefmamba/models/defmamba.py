"""DefMamba, the backbone (DefMamba, CVPR 2025, figure 2a and appendix A).

Glossary: the symbols of the paper and the names in this package.

    H, W, C, L              height, width, channels (embed_dims) and tokens (H * W) of a stage's map
    DM block                DMBlock, models/dm_block.py
    DSSM                    DSSM, models/dssm.py
    FB, BB, DB              scans 'raster', 'raster_reverse', 'deformable', mmdefmamba/scans/
    A, B, C, D, delta       -exp(A_log), B, C, D, delta, ops/sequence_scan/
    DP, delta p             point_offset, scans/deformable.py
    DT, delta t             index_offset, sorted into a TokenOrder
    R_p, R_t                reference_points, reference_index
    OB                      offset_bias, scans/offset_bias.py
    CA                      channel_attention
"""

import numpy as np
import torch
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import MODELS
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..layers import is_plain
from ..names import unknown_name
from ..scans import ScanContext
from ..scans.base import FORMULATIONS
from .bias_tables import fit_bias_tables
from .dm_block import DMBlock
from .refuse_trace import refuse_jit_trace
from .stem import RESIDUAL_DTYPES, ConvNorm, Stem
from .unused_stages import leave_out_unused_stages

ARCHITECTURES = {
    'tiny': dict(embed_dims=(48, 96, 192, 384), depths=(2, 2, 5, 2)),
    'small': dict(embed_dims=(96, 192, 384, 768), depths=(2, 2, 6, 2)),
    'base': dict(embed_dims=(96, 192, 384, 768), depths=(2, 3, 16, 2)),
}
SCANS = ('raster', 'raster_reverse', 'deformable')


@MODELS.register_module()
class DefMamba(BaseModule):
    """A hierarchical vision backbone of deformable Mamba blocks.

    Args:
        arch: 'tiny', 'small', 'base', or a dict of ``embed_dims`` and ``depths`` with one number per stage each. The
            first of ``embed_dims`` must be even.
        formulation: 'paper' follows the text of the paper, 'released' follows the released code of the authors and is
            needed for their checkpoints. They differ in five points of the deformable scan, see docs/fidelity.md.
        scans: the scans of each block. Each is a registered name or a dict with ``type`` and arguments.
        dw_conv: whether each DSSM has a depthwise convolution before its scans. Without it only the scans mix the
            tokens of a block, which makes the effect of scan orders visible. The other parameters keep their names.
        in_channels: channels of the images.
        pretrain_img_size: size of the images in pretraining, one integer or (height, width). It sets the size of the
            offset bias tables in the formulation 'paper'. Images may have any other size.
        out_indices: the stages whose maps are returned: an integer, several, or None for all stages. The first stage
            is 0; a negative index counts from the last stage of ``arch``, -1. Stages after the last of them do not
            exist in the network; a checkpoint that has them loads, and one line of the log says what was left out.
        drop_path_rate: stochastic depth rate of the last block of ``arch``. It rises linearly from 0 at the first
            block, whether or not all stages exist.
        frozen_stages: -1 freezes nothing, 0 freezes the stem, and i freezes the stem and the first i stages, as in
            mmdet's ResNet. Frozen parts stay in eval mode.
        with_cp: whether the backward pass recomputes each block instead of keeping its activations.
        scan_backend: backend of the selective scan, see :func:`mmdefmamba.ops.selective_scan`.
        residual_dtype: dtype of the maps between blocks under autocast: 'float32', 'autocast' (its dtype, which halves
            what the residual additions read and write), or None: what PyTorch's LayerNorm returns there, float32 on
            CUDA and autocast's dtype on a CPU. Without autocast it changes nothing.
        init_cfg: as for any MMEngine module.

    Raises:
        ValueError: the arch, the formulation or a scan is unknown, sizes do not fit each other, or an index is out of
            range.
    """

    #: The named architectures; an attribute, as mmpretrain's backbones have it.
    arch_settings = ARCHITECTURES

    def __init__(
        self,
        arch='tiny',
        formulation='paper',
        scans=SCANS,
        dw_conv=True,
        in_channels=3,
        pretrain_img_size=224,
        out_indices=None,
        drop_path_rate=0.0,
        frozen_stages=-1,
        with_cp=False,
        scan_backend='auto',
        residual_dtype=None,
        init_cfg=None,
    ):
        super().__init__(init_cfg=init_cfg)
        self.embed_dims, self.depths = _architecture(arch)
        if formulation not in FORMULATIONS:
            raise ValueError(f'formulation must be one of {FORMULATIONS}, got {formulation!r}')
        if isinstance(scans, (str, dict)) or not scans:
            raise ValueError(f'scans must be a sequence of at least one scan, got {scans!r}')
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate must be in [0, 1), got {drop_path_rate}')
        if residual_dtype not in RESIDUAL_DTYPES:
            raise ValueError(f'residual_dtype must be one of {RESIDUAL_DTYPES}, got {residual_dtype!r}')
        num_stages = len(self.depths)
        if not -1 <= frozen_stages <= num_stages:
            raise ValueError(f'frozen_stages must be from -1 to {num_stages}, got {frozen_stages}')
        self.out_indices = _normalised_indices(out_indices, num_stages)
        self.formulation = formulation
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp

        self.stem = Stem(in_channels, self.embed_dims[0], residual_dtype)
        self.stages = nn.ModuleList()
        # No map needs the stages after this one. Their parameters would get no gradient, which DDP refuses.
        last = self.out_indices[-1]
        self.downsamples = nn.ModuleList(
            ConvNorm(dims, next_dims, residual_dtype)
            for dims, next_dims in zip(self.embed_dims[:last], self.embed_dims[1:], strict=False)
        )
        drop_paths = iter(np.linspace(0, drop_path_rate, sum(self.depths)).tolist())
        # each convolution with stride 2 halves a side, rounded up
        map_size = tuple(-(-side // 4) for side in _pair(pretrain_img_size))
        for stage, (dims, depth) in enumerate(zip(self.embed_dims[: last + 1], self.depths, strict=False)):
            context = ScanContext(dims, stage, map_size, formulation)
            blocks = (DMBlock(context, scans, next(drop_paths), dw_conv, scan_backend) for _ in range(depth))
            self.stages.append(Stage(*blocks))
            map_size = tuple(-(-side // 2) for side in map_size)
        for stage in self.out_indices:
            self.add_module(f'norm{stage}', nn.LayerNorm(self.embed_dims[stage]))

        self.apply(_init_linear)
        self._freeze_stages()
        self.register_load_state_dict_pre_hook(fit_bias_tables)
        self.register_load_state_dict_pre_hook(leave_out_unused_stages)

    def init_weights(self):
        """Initialise as every MMEngine module does; pretrained weights by :func:`~.pretrained.load_pretrained`."""
        if self.is_init or not self.init_cfg:
            return super().init_weights()
        from ..checkpoints.pretrained import load_pretrained  # here: it needs MMEngine's runner

        given = self.init_cfg
        cfgs = [given] if isinstance(given, dict) else list(given)
        pretrained = [cfg for cfg in cfgs if cfg['type'] in ('Pretrained', PretrainedInit)]
        self.init_cfg = [cfg for cfg in cfgs if cfg not in pretrained]
        try:
            super().init_weights()
        finally:
            self.init_cfg = given
        for cfg in pretrained:
            load_pretrained(self, **{name: value for name, value in cfg.items() if name != 'type'})
        return None

    def forward(self, x):
        """Extract features.

        Args:
            x: images, (B, in_channels, height, width), of any size from 1 x 1.

        Returns:
            A tuple of maps for the stages in ``out_indices``, (B, C_i, ceil(height / s_i), ceil(width / s_i)) with
            strides s_i = 4, 8, 16, 32, and so on. The maps are contiguous. If ``x`` is in ``torch.channels_last``, so
            are they, as with a network of convolutions. NaN in an image gives NaN in its maps.

        Raises:
            ValueError: ``x`` is not a tensor, does not have four dimensions, does not have ``in_channels`` channels, or
                is empty; or torch.jit.trace runs.
        """
        self.check_images(x)
        refuse_jit_trace()
        return self.stage_maps(self.stem(x.permute(0, 2, 3, 1)), x)

    def stage_maps(self, x, images):
        """Compute the returned maps from the stem's map, (B, H, W, C), in the memory format of the images."""
        # heads of mmdet and mmseg call `.view`, which a permuted map would refuse
        channels_last = not images.is_contiguous() and images.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x, self.with_cp)
            if i in self.out_indices:
                outs.append(getattr(self, f'norm{i}')(x).permute(0, 3, 1, 2).contiguous(memory_format=layout))
            if i < len(self.downsamples):
                x = self.downsamples[i](x)
        return tuple(outs)

    def check_images(self, x):
        in_channels = self.stem[0].conv.in_channels
        if not isinstance(x, torch.Tensor):
            raise ValueError(
                f'images must be one tensor (batch, {in_channels}, height, width), got a {type(x).__name__}: the '
                'images were not stacked. A detector or segmentor needs a data_preprocessor of its library. Learning '
                "without labels in mmpretrain needs collate_fn=dict(type='default_collate') in the train_dataloader"
            )
        if x.ndim != 4 or x.shape[1] != in_channels or 0 in x.shape:
            raise ValueError(f'images must be (batch, {in_channels}, height, width), not empty, got {tuple(x.shape)}')

    def train(self, mode=True):
        """Set training mode. Frozen parts stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        return self

    def get_layer_depth(self, param_name, prefix=''):
        """Return the depth of a parameter, for the layer-wise decay of learning rates.

        Args:
            param_name: full name of the parameter.
            prefix: prefix of the names of the backbone, such as 'backbone.'.

        Returns:
            (depth, number of depths). The stem and a mask token have depth 0, and each block adds one. A downsampling
            layer has the depth of the block after it. The output norms, and all parameters outside the backbone, have
            the largest depth. All stages of ``arch`` count, whichever of them exist: the rates of a stage do not depend
            on out_indices.
        """
        num_layers = sum(self.depths) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        part, _, rest = param_name[len(prefix) :].partition('.')
        if part in ('stem', 'mask_token'):
            return 0, num_layers
        if part == 'stages':
            stage, block = (int(i) for i in rest.split('.')[:2])
            return sum(self.depths[:stage]) + block + 1, num_layers
        if part == 'downsamples':
            return sum(self.depths[: int(rest.split('.')[0]) + 1]) + 1, num_layers
        return num_layers - 1, num_layers

    def __prepare_scriptable__(self):
        # torch.jit.script calls this, also for a part of another model; its own error would be about a line of a scan
        raise TypeError(
            'DefMamba cannot be compiled by torch.jit.script: its scans are autograd functions, which TorchScript does '
            'not know. Use torch.compile, or export the model with tools/export.py'
        )

    def _freeze_stages(self):
        frozen = [self.stem] if self.frozen_stages >= 0 else []
        for i in range(min(self.frozen_stages, len(self.stages))):
            frozen.append(self.stages[i])
            frozen += [getattr(self, f'norm{i}')] if i in self.out_indices else []
            # the downsampling before a frozen stage is frozen, the one after the last frozen stage is trained
            frozen += [self.downsamples[i - 1]] if i else []
        for module in frozen:
            module.eval()
            module.requires_grad_(False)


class Stage(nn.Sequential):
    """The blocks of one stage. The backbone calls it as a module, so hooks on it see its input and its output."""

    def forward(self, x, with_cp=False):
        """Return the map after all blocks: (B, H, W, C) -> (B, H, W, C).

        Args:
            x: the map before the first block.
            with_cp: whether the backward pass recomputes each block instead of keeping its activations.
        """
        if with_cp and torch.is_grad_enabled():
            for block in self:
                x = checkpoint(block, x, use_reentrant=False)
            return x
        normed = None
        for i, block in enumerate(self):
            # a block with hooks, or what took its place, is called: it sees and returns the map alone
            if i + 1 < len(self) and is_plain(block, DMBlock) and is_plain(self[i + 1], DMBlock):
                x, normed = block.forward_and_norm(x, normed, self[i + 1])
            else:
                x, normed = block(x) if normed is None else block.forward(x, normed), None
        return x


def _architecture(arch):
    if isinstance(arch, str):
        if arch not in ARCHITECTURES:
            remedy = f'Give one of {", ".join(ARCHITECTURES)}, or a dict of embed_dims and depths'
            raise ValueError(unknown_name(f'unknown arch {arch!r}', arch, ARCHITECTURES, remedy))
        arch = ARCHITECTURES[arch]
    if not isinstance(arch, dict) or set(arch) != {'embed_dims', 'depths'}:
        raise ValueError(f'arch must be a name or a dict with exactly the keys embed_dims and depths, got {arch!r}')
    embed_dims, depths = tuple(arch['embed_dims']), tuple(arch['depths'])
    if len(embed_dims) != len(depths) or not depths:
        raise ValueError(f'embed_dims and depths must have one number per stage each, got {embed_dims} and {depths}')
    if any(not isinstance(n, int) or n < 1 for n in embed_dims + depths):
        raise ValueError(f'embed_dims and depths must be positive integers, got {embed_dims} and {depths}')
    if embed_dims[0] % 2:
        raise ValueError(f'the first of embed_dims must be even: the stem starts with half of it, got {embed_dims[0]}')
    return embed_dims, depths


def _normalised_indices(out_indices, num_stages):
    if out_indices is None:
        return tuple(range(num_stages))
    out_indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
    if not out_indices or any(not -num_stages <= i < num_stages for i in out_indices):
        raise ValueError(f'out_indices must be stages from {-num_stages} to {num_stages - 1}, got {out_indices}')
    return tuple(sorted(i % num_stages for i in set(out_indices)))


def _pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)


def _init_linear(module):
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
