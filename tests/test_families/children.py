"""Child configs: a config that a library ships, with a DefMamba in the place of its backbone.

The changes are those that a user makes: the backbone, the channels of what reads its maps, and `start_level=0` or other
indices where the parent leaves out maps. The rest makes a test quick: narrow heads, few proposals, random weights.
"""

import copy
import sysconfig
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope

DIMS = (16, 32, 64, 128)
STRIDES = (4, 8, 16, 32)
#: (height, width) of the images.
SIZE = (96, 128)


class Ours(int):
    """A number of channels of our maps, which must stay as it is when heads are made narrow."""

    def __deepcopy__(self, memo):
        return self


def config_folder(library):
    """Return the folder of the configs that a library ships."""
    return Path(sysconfig.get_paths()['purelib'], library, '.mim', 'configs')


def defmamba(stages, **changes):
    arch = dict(embed_dims=[Ours(dims) for dims in DIMS], depths=[1] * 4)
    return ConfigDict(type='DefMamba', arch=arch, pretrain_img_size=64, out_indices=list(stages), **changes)


def read(library, name):
    """Return the model of a config without pretrained weights, and without the costs that no promise depends on."""
    cfg = Config.fromfile(config_folder(library) / name)
    _without_weights(cfg.model)
    return cfg.model


def _without_weights(node):
    if isinstance(node, dict):
        for key, value in list(node.items()):
            pretrained = isinstance(value, dict) and str(value.get('type')).startswith('Pretrained')
            if (key == 'init_cfg' and pretrained) or (key in ('pretrained', 'teacher_ckpt') and isinstance(value, str)):
                node[key] = None
            elif key == 'type' and value == 'SyncBN':
                node[key] = 'BN'
            else:
                _without_weights(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _without_weights(value)


def maps_of(backbone):
    """Return (channels, stride) of each map of a library's backbone; the stride of a sequence of tokens is None."""
    kind, depth = str(backbone['type']).split('.')[-1], backbone.get('depth')
    if kind == 'TIMMBackbone':  # in the only such config: a ResNet-50 by another name
        kind, depth, backbone = 'ResNet', 50, {}
    if 'Res' in kind and isinstance(depth, int) and kind not in ('ResNet_CIFAR', 'ResNetV1c_CIFAR'):
        # known without building it
        channels = [256, 512, 1024, 2048] if depth >= 50 else [64, 128, 256, 512]
        chosen = backbone.get('out_indices', (0, 1, 2, 3))
        strides = [4]
        for stride in backbone.get('strides', (1, 2, 2, 2))[1:]:
            strides.append(strides[-1] * stride)
        return [(channels[i], strides[i]) for i in ([chosen] if isinstance(chosen, int) else chosen)]
    if kind in ('VisionTransformer', 'BEiT', 'MAE'):
        chosen = backbone.get('out_indices', -1)
        return [(backbone.get('embed_dims', 768), None)] * (1 if isinstance(chosen, int) else len(chosen))
    model = MODELS.build(copy.deepcopy(backbone))
    model.eval()
    with torch.no_grad():
        outs = model(torch.zeros(1, 3, 256, 256))
    outs = outs if isinstance(outs, (tuple, list)) else (outs,)
    outs = [out[0] if isinstance(out, (tuple, list)) else out for out in outs]
    return [(out.shape[1], 256 // out.shape[2]) if out.ndim == 4 else (out.shape[-1], None) for out in outs]


def stages_for(maps):
    """Return our stages in the place of the given maps: those of the same strides, or the last ones in order."""
    strides = [stride for _, stride in maps]
    if len(set(strides)) == len(strides) and set(strides) <= set(STRIDES):
        return [STRIDES.index(stride) for stride in strides]
    return list(range(4))[-len(maps) :]


def replace_channels(node, table, keys=('in_channels',)):
    """Replace numbers of channels under some keys, and return how many places were found."""
    count = 0
    if isinstance(node, dict):
        for key, value in node.items():
            if key in keys and isinstance(value, int) and value in table:
                node[key], count = table[value], count + 1
            elif key in keys and isinstance(value, (list, tuple)) and value and set(value) <= set(table):
                node[key], count = [table[i] for i in value], count + 1
            else:
                count += replace_channels(value, table, keys)
    elif isinstance(node, (list, tuple)):
        count = sum(replace_channels(value, table, keys) for value in node)
    return count


NARROW = {128: 32, 256: 64, 512: 128, 1024: 256, 2048: 512}
WIDTHS = {
    'in_channels',
    'out_channels',
    'feat_channels',
    'channels',
    'embed_dims',
    'feedforward_channels',
    'num_feats',
    'fc_out_channels',
    'conv_out_channels',
    'dims',
    'hidden_channels',
    'stack_channels',
    'inter_channels',
    'output_channels',
    'content_dim',
}
#: Numbers of samples, proposals and layers: costs, not kinds.
FEW = dict(num=32, nms_pre=60, max_per_img=10, max_num=30, num_queries=20, num_proposals=10, num_points=64)


def narrow(node):
    """Make heads narrow. Numbers of channels of our maps stay."""
    if isinstance(node, dict):
        for key, value in list(node.items()):
            if key in WIDTHS and isinstance(value, (list, tuple)) and all(isinstance(i, int) for i in value):
                node[key] = type(value)(i if isinstance(i, Ours) else NARROW.get(i, i) for i in value)
            elif key in WIDTHS and type(value) is int:
                node[key] = NARROW.get(value, value)
            else:
                narrow(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            narrow(value)


def cheapen(node):
    """Use few samples, proposals and layers, and a score threshold of 0, so that every predict has something to do."""
    if isinstance(node, dict):
        for key, value in list(node.items()):
            layers = value.get('num_layers') if isinstance(value, dict) else None
            if key in ('encoder', 'decoder', 'transformer_decoder') and isinstance(layers, int):
                value['num_layers'] = min(layers, 2)
                if 'num_cp' in value:
                    value['num_cp'] = 0
            if key in FEW and type(value) is int:
                node[key] = min(value, FEW[key])
            elif key == 'score_thr' and isinstance(value, float):
                node[key] = 0.0
            else:
                cheapen(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            cheapen(value)


#: Detectors with numbers of channels that no config can change.
WIDE = (
    'conditional_detr/',
    'ddq/',
    'deformable_detr/',
    'dino-4scale',
    'lad/',
    'qdtrack/',
    'queryinst/',
    'sabl-faster',
    'scnet/',
    'sparse_rcnn/',
)


# -- mmdet


def mmdet_child(name):
    """Return the model of a config of mmdet with our backbone."""
    model = read('mmdet', name)
    for holder in (model, model.get('detector'), model.get('reid')):
        if isinstance(holder, dict) and 'backbone' in holder:
            special = next((change for part, change in DETECTORS.items() if part in name), None)
            (special or _plug_detector)(holder)
    if 'batch_augments' in (model.get('data_preprocessor') or ()):
        model.data_preprocessor.batch_augments = None  # Mask2Former pads images to 1024 x 1024
    if not any(part in name for part in WIDE):
        narrow(model)
    cheapen(model)
    return model


def _plug_detector(model):
    neck = model.get('neck')
    first = neck[0] if isinstance(neck, (list, tuple)) else neck
    maps = maps_of(model.backbone)
    stages = stages_for(maps)
    table = {channels: Ours(DIMS[stage]) for (channels, _), stage in zip(maps[-len(stages) :], stages, strict=True)}
    start = (first or {}).get('start_level', 0)
    if first and first['type'] == 'NASFCOS_FPN':  # it reads maps 1 to 3 by their index
        start = 0
    if start and len(stages) == len(first['in_channels']):
        # the maps before it would get no gradient
        stages, first['start_level'], first['in_channels'] = stages[start:], 0, first['in_channels'][start:]
    if (first or {}).get('type') == 'CTResNetNeck':
        stages = stages[-1:]
    model.backbone = defmamba(stages)
    if first and replace_channels(first, table):
        return
    heads = [value for key, value in model.items() if key == 'neck' or 'head' in key]
    replace_channels(heads, table)


def _plug_corner(model):
    model.backbone = defmamba([0])
    model.bbox_head.update(in_channels=Ours(DIMS[0]), num_feat_levels=1)


def _plug_ssd(model):
    model.backbone = defmamba([1, 2])
    maps = [Ours(DIMS[1]), Ours(DIMS[2])]
    model.neck.update(in_channels=maps, out_channels=[*maps, 512, 256, 256, 256])
    model.bbox_head.in_channels = [*maps, 512, 256, 256, 256]


def _plug_classifier(model):
    model.backbone = defmamba([3])
    model.neck = ConfigDict(type=f'{str(model.type).rpartition(".")[0]}.GlobalAveragePooling'.lstrip('.'))
    model.head.in_channels = Ours(DIMS[3])


def _plug_queryinst(model):
    _plug_detector(model)
    for head in model.roi_head.bbox_head:  # on a CPU, mmdet pastes no mask into a box outside of the image
        head.bbox_coder.clip_border = True


#: Changes that differ from the usual ones, by a part of the config's name.
DETECTORS = {
    'queryinst/': _plug_queryinst,
    'cornernet/': _plug_corner,
    'centripetalnet/': _plug_corner,
    'ssd300': _plug_ssd,
    'classification/': _plug_classifier,
    'reid/': _plug_classifier,
}


# -- mmseg


def mmseg_child(name):
    """Return the model of a config of mmseg with our backbone."""
    model = read('mmseg', name)
    special = next((change for part, change in SEGMENTORS.items() if part in name), _plug_segmentor)
    special(model)
    if 'crop_size' in str(model.get('test_cfg')):
        model.test_cfg = dict(mode='whole')
    narrow(model)
    cheapen(model)
    return model


def heads_of(model):
    heads = [model.get('decode_head'), model.get('auxiliary_head')]
    heads = [head for given in heads if given for head in (given if isinstance(given, (list, tuple)) else [given])]
    return [head.get('kernel_generate_head', head) for head in heads]


def _plug_segmentor(model):
    maps = maps_of(model.backbone)[-4:]
    stages = stages_for(maps)
    neck = model.get('neck')
    if neck and 'Feature2Pyramid' in neck['type']:  # it makes a pyramid of a ViT's maps, and ours are one
        model.pop('neck')
        neck = None
    table = {channels: Ours(DIMS[stage]) for (channels, _), stage in zip(maps, stages, strict=True)}
    if neck:
        model.backbone = defmamba(stages)
        if len(table) < len(stages) and isinstance(neck.get('in_channels'), (list, tuple)):
            neck.in_channels = [Ours(DIMS[stage]) for stage in stages]
        else:
            replace_channels(neck, table)
        return
    used = set()
    for head in heads_of(model):
        index = head.get('in_index', -1)
        indices = index if isinstance(index, (list, tuple)) else [index]
        if isinstance(head.get('in_channels'), (list, tuple)) and not isinstance(index, (list, tuple)):
            indices = range(len(stages))  # a head with a pixel decoder takes all maps
        if len(indices) > len(stages):
            indices = range(len(stages))
        indices = [i % len(stages) if -len(stages) <= i < len(stages) else len(stages) - 1 for i in indices]
        head['chosen'] = indices
        used |= set(indices) | ({0} if 'c1_in_channels' in head or 'c1_channels' in head else set())
    used = sorted(used)
    for head in heads_of(model):
        chosen = head.pop('chosen')
        ours = [Ours(DIMS[stages[i]]) for i in chosen]
        places = [used.index(i) for i in chosen]
        if isinstance(head.get('in_channels'), (list, tuple)):
            head['in_channels'] = ours
            if 'in_index' in head:
                head['in_index'] = places
        else:
            head['in_channels'], head['in_index'] = ours[0], places[0]
        if 'c1_in_channels' in head:
            head['c1_in_channels'] = Ours(DIMS[stages[0]])
        if head.get('num_convs') == 0 and not isinstance(head['in_channels'], list):
            head['channels'] = head['in_channels']
        if head.get('type') == 'FCNHead' and head.get('num_convs') == 0 and isinstance(head['in_channels'], list):
            head['channels'] = Ours(sum(ours))
    model.backbone = defmamba([stages[i] for i in used])


def _plug_bisenet(model):
    model.backbone.backbone_cfg = defmamba(range(4))
    context = [Ours(DIMS[stage]) for stage in (1, 2, 3)]
    # it takes the fused map, the spatial and the context path beside each other, to be as wide as the middle one
    model.backbone.update(context_channels=context, spatial_channels=[Ours(context[1] - context[0])] * 4)
    for head in heads_of(model)[1:]:
        head['in_channels'] = context[0]


def _plug_stdc(model):
    model.backbone.backbone_cfg = defmamba((1, 2, 3))
    model.backbone.last_in_channels = (Ours(DIMS[3]), Ours(DIMS[2]))
    context = NARROW[model.backbone.out_channels]
    model.backbone.ffm_cfg.in_channels = Ours(DIMS[1] + context)
    for head in heads_of(model):
        index = head.get('in_index', -1)
        if head['type'] == 'STDCHead' or index == 0:
            head['in_channels'] = Ours(DIMS[1])


def _plug_encnet(model):
    model.decode_head.update(in_channels=model.decode_head.in_channels[-1:], in_index=[-1])  # it reads no other map
    _plug_segmentor(model)


def _plug_jpu(model):
    last = model.neck.mid_channels * len(model.neck.get('dilations', (1, 2, 4, 8)))
    maps = [Ours(DIMS[stage]) for stage in (1, 2, 3)]
    model.backbone = defmamba((1, 2, 3))
    model.neck.update(in_channels=tuple(maps), start_level=0, mid_channels=Ours(model.neck.mid_channels))
    model.decode_head.update(in_channels=[*maps[:2], Ours(last)])
    for head in heads_of(model)[1:]:
        head.update(in_channels=maps[1])


def _plug_change(model):
    model.backbone.in_channels = 3
    _plug_segmentor(model)


def _plug_lraspp(model):
    model.backbone = defmamba((0, 1, 2))  # its head pools a map at stride 16
    model.decode_head.in_channels = [Ours(dims) for dims in DIMS[:3]]


def _plug_mla(model):
    model.decode_head.channels = Ours(model.decode_head.channels)
    _plug_segmentor(model)


#: Changes that differ from the usual ones, by a part of the config's name.
SEGMENTORS = {
    'bisenetv1/': _plug_bisenet,
    'stdc/': _plug_stdc,
    'encnet/': _plug_encnet,
    'fastfcn/': _plug_jpu,
    '-mla_': _plug_mla,
    'levir': _plug_change,
    'lraspp': _plug_lraspp,
}


# -- mmpretrain


def mmpretrain_child(name):
    """Return the model of a config of mmpretrain with our backbone."""
    model = read('mmpretrain', name)
    kind = str(model.get('type'))
    if kind == 'ImageToImageRetriever':
        encoder = model.image_encoder
        encoder[0] = defmamba([3])
        replace_channels([encoder[1:], model.get('head')], {2048: Ours(DIMS[3])})
    elif kind == 'ImageClassifier':
        _plug_image_classifier(model)
    elif kind == 'SparK':
        model.backbone = defmamba(range(4))
        model.enc_dec_norm_dim = DIMS[3]
        model.neck.feature_dim = DIMS[3]
    elif kind == 'SimMIM':
        model.backbone = defmamba([3])
        model.backbone.type = 'MaskedDefMamba'
        model.neck.in_channels = Ours(DIMS[3])
    elif kind.endswith('MaskRCNN'):  # a benchmark of pretrained backbones in mmdet
        _plug_detector(model)
        narrow(model)
    elif 'backbone' in model:
        model.backbone = defmamba([3])
        for key in ('neck', 'density_neck'):
            if model.get(key):
                first = model[key][0] if isinstance(model[key], (list, tuple)) else model[key]
                replace_channels(first, {768: Ours(DIMS[3]), 1024: Ours(DIMS[3]), 2048: Ours(DIMS[3])})
    cheapen(model)
    return model


def _plug_image_classifier(model):
    model.backbone = defmamba([3])
    head = model.get('head') or ConfigDict(type='LinearClsHead', num_classes=10, in_channels=0)
    model.neck = None if head['type'] == 'CSRAClsHead' else ConfigDict(type='GlobalAveragePooling')
    if head['type'] in ('ClsHead', 'MultiLabelClsHead'):  # they have no layer: those of the network classify
        head['type'] = head['type'].replace('ClsHead', 'LinearClsHead')
        head.setdefault('num_classes', 10)
    if head['type'] == 'EfficientFormerClsHead':  # with a second classifier, it only predicts
        head['distillation'] = False
    if head['type'] == 'ConformerHead':  # it takes the maps of two branches
        head['type'] = 'LinearClsHead'
    head['in_channels'] = Ours(DIMS[3])
    model.head = head
    model.train_cfg = None


#: (height, width) of the images by a part of the config's name, where another size than `SIZE` is needed.
SIZES = {
    'ssd300': (300, 300),
    'lraspp': (800, 800),  # its head pools over 49 x 49 tokens
    'lad/': (256, 320),  # its mixture model needs more than a few candidates
    'spark/': (224, 224),  # the size is part of the model
}


def size_for(name):
    """Return the (height, width) of the images for a config."""
    return next((size for part, size in SIZES.items() if part in name), SIZE)


CHILDREN = dict(mmdet=mmdet_child, mmseg=mmseg_child, mmpretrain=mmpretrain_child)


def child(library, name):
    """Return the model of a library's config, by its name below the library's configs, with our backbone."""
    with DefaultScope.overwrite_default_scope('mmdet' if 'mask-rcnn' in name else library):
        return CHILDREN[library](name)
