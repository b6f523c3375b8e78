"""DefMamba for timm: ``import mmdefmamba.timm`` registers ``defmamba_tiny``, ``defmamba_small`` and ``defmamba_base``.

The names with ``_released`` have the formulation of the authors' code. timm 1.0.31 has no entry points for models of
other packages, so that this import is needed before ``timm.create_model``.

The models are mmdefmamba's one backbone with a head of timm. Their parameters have the names of mmpretrain's
``ImageClassifier`` (``backbone.*``, ``head.fc.*``): a checkpoint of a classifier loads into both.
"""

import contextlib
import logging
import re

import torch
from torch import nn

try:
    from timm.layers import ClassifierHead
    from timm.models import (
        build_model_with_cfg,
        generate_default_cfgs,
        load_pretrained,
        register_model,
        register_notrace_module,
    )
    from timm.models._features import FeatureGetterNet, feature_take_indices
except ImportError as error:
    raise ImportError(
        f"mmdefmamba.timm needs timm 1.0.31 or newer: {error}. Install it with pip install 'mmdefmamba[timm]'"
    ) from error

from .checkpoints import state_dict_of
from .compat import load_safely
from .converters import convert_released
from .models import ARCHITECTURES, DefMamba

__all__ = ['DefMambaClassifier', 'DefMambaFeatures', 'checkpoint_filter_fn']  # timm adds the names of the models

# What the configs' schedules exempt from weight decay and timm does not exempt by itself (1-D parameters and biases).
_NO_WEIGHT_DECAY = ('A_log', 'dt_proj_bias', 'offset_bias.table')


class DefMambaClassifier(nn.Module):
    """A DefMamba with timm's classification head.

    Args:
        arch, formulation: see :class:`~mmdefmamba.models.DefMamba`.
        num_classes: number of classes; 0 leaves out the classifier, and the output is the pooled features.
        in_chans: channels of the images.
        img_size: size of the images in training, one integer or (height, width): ``pretrain_img_size`` of the backbone.
            Images may have any other size.
        global_pool: 'avg', 'max', 'avgmax', 'catavgmax', or '' for none.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth rate of the last block.
        device, dtype: of the parameters.
        **backbone: other arguments of the backbone, such as ``scans`` and ``scan_backend``.

    Raises:
        ValueError, TypeError: as :class:`~mmdefmamba.models.DefMamba`.

    Source: the interface of timm's image models.
    """

    output_fmt = 'NCHW'

    def __init__(
        self,
        arch='tiny',
        formulation='paper',
        num_classes=1000,
        in_chans=3,
        img_size=224,
        global_pool='avg',
        drop_rate=0.0,
        drop_path_rate=0.0,
        device=None,
        dtype=None,
        **backbone,
    ):
        super().__init__()
        if 'out_indices' in backbone:
            raise ValueError('out_indices selects maps, which need features_only=True')
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        with contextlib.nullcontext() if device is None else torch.device(device):
            self.backbone = DefMamba(
                arch,
                formulation,
                in_channels=in_chans,
                pretrain_img_size=img_size,
                out_indices=-1,
                drop_path_rate=drop_path_rate,
                **backbone,
            )
            self.num_features = self.backbone.embed_dims[-1]
            self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
            _init_classifier(self.head.fc)
        self.head_hidden_size = self.head.num_features
        self.feature_info = [
            dict(num_chs=dims, reduction=4 * 2**stage, module=f'backbone.stages.{stage}')
            for stage, dims in enumerate(self.backbone.embed_dims)
        ]
        self.register_load_state_dict_pre_hook(_fit_checkpoint)
        self.to(dtype=dtype)

    def forward(self, x):
        """Classify images.

        Args:
            x: images, (B, in_chans, height, width), of any size from 1 x 1.

        Returns:
            (B, num_classes) logits; pooled features (B, head_hidden_size) if num_classes is 0; a map (B, C, h, w) if
            global_pool is '' as well.

        Raises:
            ValueError: as :class:`~mmdefmamba.models.DefMamba`.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x):
        """Return the map of the last stage after its norm, (B, num_features, ceil(height / 32), ceil(width / 32))."""
        return self.backbone(x)[-1]

    def forward_head(self, x, pre_logits=False):
        """Pool a map of :meth:`forward_features` and classify it; ``pre_logits`` leaves out the classifier."""
        return self.head(x, pre_logits=pre_logits)

    def forward_intermediates(
        self, x, indices=None, norm=False, stop_early=False, output_fmt='NCHW', intermediates_only=False
    ):
        """Return the maps of stages.

        Args:
            x: images, as for :meth:`forward`.
            indices: the stages: None for all, n for the last n, or a sequence of stages, negative from the last.
            norm: apply the output norm to the map of the last stage, as in timm's Swin. The other stages of a
                classifier have no output norm.
            stop_early: do not compute the stages after the last of ``indices``.
            output_fmt: 'NCHW' or 'NHWC', for the maps of stages.
            intermediates_only: do not return the final map.

        Returns:
            The maps in the order of the stages; or (final map, maps), where the final map is (B, C, h, w), and is that
            of :meth:`forward_features` unless ``stop_early`` left out the last stage.

        Raises:
            ValueError: ``output_fmt`` is another one, or the images are wrong.
            AssertionError: an index is out of range; from timm.
        """
        if output_fmt not in ('NCHW', 'NHWC'):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NHWC', got {output_fmt!r}: DefMamba has maps, no tokens")
        backbone = self.backbone
        backbone.check_images(x)
        built = len(backbone.stages)
        taken, last = feature_take_indices(built, indices)
        stop = last if stop_early else built - 1
        x = backbone.stem(x.permute(0, 2, 3, 1))
        maps = []
        for i in range(stop + 1):
            x = backbone.stages[i](x, backbone.with_cp)
            is_final = i == built - 1
            normed = self._norm(x) if is_final and (norm or not intermediates_only) else x
            if i in taken:
                found = normed if norm else x
                maps.append(found.permute(0, 3, 1, 2).contiguous() if output_fmt == 'NCHW' else found)
            if i < stop:
                x = backbone.downsamples[i](x)
        return maps if intermediates_only else (normed.permute(0, 3, 1, 2).contiguous(), maps)

    def prune_intermediate_layers(self, indices=1, prune_norm=False, prune_head=True):
        """Remove what the maps of some stages do not need.

        Args:
            indices: the stages, as for :meth:`forward_intermediates`.
            prune_norm: remove the output norm. It also goes if the last stage goes.
            prune_head: remove the classifier and the pooling. They also go if the last stage goes.

        Returns:
            The stages of ``indices``, each from 0.
        """
        backbone = self.backbone
        taken, last = feature_take_indices(len(backbone.stages), indices)
        is_shorter = last < len(backbone.stages) - 1
        if prune_norm or is_shorter:
            delattr(backbone, f'norm{backbone.out_indices[-1]}')
            backbone.add_module(f'norm{last}', nn.Identity())
        backbone.stages = backbone.stages[: last + 1]
        backbone.downsamples = backbone.downsamples[:last]
        backbone.out_indices = (last,)
        self.num_features = backbone.embed_dims[last]
        if prune_head or is_shorter:
            self.reset_classifier(0, '')
        return taken

    def get_classifier(self):
        """Return the linear layer of the classifier; an ``nn.Identity`` if there is none."""
        return self.head.fc

    def reset_classifier(self, num_classes, global_pool=None):
        """Replace the classifier by a new one.

        Args:
            num_classes: number of classes; 0 removes the classifier.
            global_pool: the new pooling; None keeps it.
        """
        parameter = next(self.parameters())
        self.num_classes = num_classes
        self.head.reset(
            num_classes,
            pool_type=global_pool,
            in_features=self.num_features,
            device=parameter.device,
            dtype=parameter.dtype,
        )
        _init_classifier(self.head.fc)
        self.head_hidden_size = self.head.num_features

    def group_matcher(self, coarse=False):
        """Return the function by which timm groups parameters, for layer-wise decay of learning rates.

        It returns the depth that ``get_layer_depth`` of the backbone gives, as in the layer-wise decay of MMEngine's
        configs: the stem is 0, each block adds one, and the head comes last. With ``coarse`` each stage adds one.
        """
        backbone, depths = self.backbone, self.backbone.depths

        def depth_of(name):
            depth, count = backbone.get_layer_depth(name, 'backbone.')
            if not coarse:
                return depth
            if depth in (0, count - 1):
                return 0 if depth == 0 else len(depths) + 1
            return next(stage + 1 for stage in range(len(depths)) if depth <= sum(depths[: stage + 1]))

        return depth_of

    def no_weight_decay(self):
        """Return the names of parameters that take no weight decay; timm adds the 1-D ones and the biases."""
        return {name for name, _ in self.named_parameters() if name.endswith(_NO_WEIGHT_DECAY)}

    def set_grad_checkpointing(self, enable=True):
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.backbone.with_cp = enable

    def load_pretrained(self, checkpoint_path):
        """Load a checkpoint file through :func:`mmdefmamba.compat.load_safely`; timm calls this for ``custom_load``.

        It takes what timm's own loader refuses, because it holds more than weights: a checkpoint of a training with
        MMEngine. The classifier is left out where the number of classes differs, and the first convolution is adapted
        to ``in_chans``, as timm does with its own weights.

        Raises:
            ValueError: the file has no weights, or its names or shapes are wrong.
        """
        state = state_dict_of(load_safely(checkpoint_path, 'cpu'), checkpoint_path)
        cfg = {**self.pretrained_cfg, 'state_dict': dict(state), 'custom_load': False}
        load_pretrained(self, cfg, self.num_classes, self.in_chans, checkpoint_filter_fn)

    def _norm(self, x):
        return getattr(self.backbone, f'norm{self.backbone.out_indices[-1]}')(x)


class DefMambaFeatures(FeatureGetterNet):
    """What ``features_only=True`` returns: a list of the stages' maps. It loads checkpoints of classifiers, too."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_load_state_dict_pre_hook(_fit_features)


def checkpoint_filter_fn(state_dict, model):
    """Return a state dict with the names of this package, given one of mmpretrain's classifier or of the authors.

    Args:
        state_dict: of a classifier, under the names of mmpretrain or of the authors' code.
        model: unused; timm passes it.

    Raises:
        ValueError: :func:`~mmdefmamba.converters.convert_released` refuses the authors' weights.
    """
    is_released = any(re.match(r'layers\.\d+\.blocks\.', name) for name in state_dict)
    return convert_released(state_dict) if is_released else state_dict


def _fit_checkpoint(model, state_dict, prefix, *args):
    """Before loading: rename the authors' entries, and leave out the head and the norm where the model has none."""
    own = {name[len(prefix) :]: state_dict[name] for name in list(state_dict) if name.startswith(prefix)}
    fitted = checkpoint_filter_fn(own, model)
    absent = [name for name in fitted if _has_no_place(model, name)]
    if fitted is own and not absent:
        return
    for name in own:
        del state_dict[prefix + name]
    state_dict.update({prefix + name: value for name, value in fitted.items() if name not in absent})
    if absent:
        logging.getLogger('mmdefmamba').info(
            f'{len(absent)} entries of the checkpoint are left out, {absent[0]} to {absent[-1]}: this model has no '
            'classifier or output norm for them'
        )


def _has_no_place(model, name):
    if name in ('head.fc.weight', 'head.fc.bias'):
        return model.num_classes == 0
    last = f'norm{model.backbone.out_indices[-1]}'
    return name.startswith(f'backbone.{last}.') and isinstance(getattr(model.backbone, last), nn.Identity)


def _fit_features(features, state_dict, prefix, *args):
    """Before loading: put a classifier's entries under the name of the wrapped model, ``model.``."""
    inner = f'{prefix}model.'
    if not any(name.startswith(inner) for name in state_dict):
        for name in [name for name in state_dict if name.startswith(prefix)]:
            state_dict[inner + name[len(prefix) :]] = state_dict.pop(name)


def _init_classifier(layer):
    """Initialise a classifier as the configs do."""
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)


def _cfg(interpolation):
    return dict(
        num_classes=1000,
        input_size=(3, 224, 224),
        pool_size=(7, 7),
        crop_pct=0.875,
        interpolation=interpolation,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        first_conv='backbone.stem.0.conv',
        classifier='head.fc',
        paper_name='DefMamba: Deformable Visual State Space Model',
        paper_ids='arXiv:2504.05794',
    )


# No weights are published. The interpolations are those of the configs' test pipelines.
default_cfgs = generate_default_cfgs(
    {f'defmamba_{arch}': _cfg('bicubic') for arch in ARCHITECTURES}
    | {f'defmamba_{arch}_released': _cfg('bilinear') for arch in ARCHITECTURES}
)


def _create(arch, formulation, pretrained, kwargs):
    if 'feature_cls' in kwargs and kwargs['feature_cls'] not in ('getter', FeatureGetterNet, DefMambaFeatures):
        raise ValueError(
            f"feature_cls must be 'getter' for DefMamba, got {kwargs['feature_cls']!r}: inside the network the maps "
            'are (batch, height, width, channels), which the other classes would pass on as they are'
        )
    if kwargs.pop('output_stride', 32) != 32:
        raise ValueError('output_stride must be 32 for DefMamba: it has no dilated convolutions to keep a map larger')
    if kwargs.get('features_only'):
        kwargs['feature_cls'] = DefMambaFeatures
        kwargs.setdefault('out_indices', tuple(range(len(ARCHITECTURES[arch]['depths']))))
    return build_model_with_cfg(
        DefMambaClassifier,
        f'defmamba_{arch}' + ('_released' if formulation == 'released' else ''),
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        arch=arch,
        formulation=formulation,
        **kwargs,
    )


register_notrace_module(DefMamba)  # torch.fx takes the backbone as one step: its scans choose kernels by what they get


@register_model
def defmamba_tiny(pretrained=False, **kwargs):
    """DefMamba-T in the formulation of the paper."""
    return _create('tiny', 'paper', pretrained, kwargs)


@register_model
def defmamba_small(pretrained=False, **kwargs):
    """DefMamba-S in the formulation of the paper."""
    return _create('small', 'paper', pretrained, kwargs)


@register_model
def defmamba_base(pretrained=False, **kwargs):
    """DefMamba-B in the formulation of the paper."""
    return _create('base', 'paper', pretrained, kwargs)


@register_model
def defmamba_tiny_released(pretrained=False, **kwargs):
    """DefMamba-T in the formulation of the authors' code."""
    return _create('tiny', 'released', pretrained, kwargs)


@register_model
def defmamba_small_released(pretrained=False, **kwargs):
    """DefMamba-S in the formulation of the authors' code."""
    return _create('small', 'released', pretrained, kwargs)


@register_model
def defmamba_base_released(pretrained=False, **kwargs):
    """DefMamba-B in the formulation of the authors' code."""
    return _create('base', 'released', pretrained, kwargs)
