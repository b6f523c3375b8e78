"""One training step and one prediction of a model that a child config builds."""

import copy
import json
import re

import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS, DefaultScope

from mmdefmamba.models import DefMamba

TRACKERS_ON_DETECTIONS = ('DeepSORT', 'SORT', 'StrongSORT', 'OCSORT')
VIDEO = ('MaskTrackRCNN', 'Mask2FormerVideo', 'QDTrack')


def step(library, model_cfg, size):
    """Build a model, compute its loss and gradients, and predict.

    Args:
        library: 'mmdet', 'mmseg' or 'mmpretrain'.
        model_cfg: config of the model.
        size: (height, width) of the images.

    Returns:
        The model, with gradients, and what it predicts for the two images (None where the algorithm has no predict).
    """
    torch.manual_seed(0)
    hub = MessageHub.get_current_instance()
    for name, value in dict(epoch=0, iter=0, max_iters=100, max_epochs=12).items():
        hub.update_info(name, value)  # a Runner sets these, and some losses read them
    scopes = {'ImageClassifier': 'mmpretrain', 'MaskRCNN': 'mmdet'}  # a library can ship a model of another one
    with DefaultScope.overwrite_default_scope(scopes.get(model_cfg['type'], library)):
        model = MODELS.build(copy.deepcopy(model_cfg))
        model.init_weights()  # some heads leave parameters in uninitialised memory until then
        model.train()
        return model, STEPS[library](model, model_cfg, size)


def faults_of(model, unread=()):
    """Return what is wrong with the gradients of a model, as texts; the names of at most three parameters each.

    Args:
        model: a model after a backward.
        unread: names of the parameters of the backbone that must have no gradient; all others must have one.
    """
    backbones = [module for module in model.modules() if isinstance(module, DefMamba)]
    if not backbones:
        return ['there is no DefMamba in it']
    trained = [
        (name, parameter)
        for backbone in backbones
        for name, parameter in backbone.named_parameters()
        if parameter.requires_grad
    ]
    unreached = [name for name, parameter in trained if parameter.grad is None and name not in unread]
    reached = [name for name, parameter in trained if parameter.grad is not None and name in unread]
    broken = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    faults = [f'{len(unreached)} parameters of the backbone without gradient: {unreached[:3]}'] if unreached else []
    faults += [f'{len(reached)} parameters with a gradient that nothing should read: {reached[:3]}'] if reached else []
    return faults + ([f'{len(broken)} gradients that are not finite: {broken[:3]}'] if broken else [])


def _backward(losses):
    total = 0
    for name, loss in losses.items():
        if 'loss' in name:
            total = total + sum(part.mean() for part in (loss if isinstance(loss, (list, tuple)) else [loss]))
    if not torch.isfinite(total):
        raise FloatingPointError(f'the loss is {float(total)}')
    total.backward()


def _predict(model, **batch):
    model.eval()
    with torch.no_grad():
        return model(**batch, mode='predict')


def _mmdet(model, cfg, size):
    from mmdet.testing import demo_track_inputs

    kind = str(cfg['type'])
    if kind.endswith('ImageClassifier'):
        return _classify(model, cfg, size)
    if kind == 'BaseReID':
        return _reidentify(model)
    if kind in TRACKERS_ON_DETECTIONS:
        video = demo_track_inputs(batch_size=1, num_frames=2, image_shapes=(3, *size), num_classes=1)
        return _predict(model, **model.data_preprocessor(video, False))
    if kind in VIDEO:
        shape, masks = dict(batch_size=1, image_shapes=(3, *size), num_classes=1), kind != 'QDTrack'
        video = demo_track_inputs(num_frames=2, key_frames_inds=[0], with_mask=masks, **shape)
        _backward(model(**model.data_preprocessor(video, True), mode='loss'))
        return _predict(model, **model.data_preprocessor(demo_track_inputs(num_frames=1, **shape), False))
    packed = _images_with_objects(cfg, size)
    if kind == 'SoftTeacher':
        return _semi_supervised(model, cfg, size)
    _backward(model(**model.data_preprocessor(copy.deepcopy(packed), True), mode='loss'))
    if kind == 'ByteTrack':
        packed = demo_track_inputs(batch_size=1, num_frames=2, image_shapes=(3, *size), num_classes=1)
    if 'GARPNHead' in str(cfg) or 'GARetinaHead' in str(cfg):  # masked convolution takes one image
        packed = {name: values[:1] for name, values in packed.items()}
    return _predict(model, **model.data_preprocessor(packed, False))


def _images_with_objects(cfg, size):
    from mmdet.testing import demo_mm_inputs, demo_mm_proposals

    text = json.dumps(cfg, default=str)
    words = ('mask_head', 'Mask', 'mask_iou', 'SOLO', 'CondInst', 'BoxInst', 'RTMDetIns', 'YOLACT', 'panoptic')
    masks, stuff = any(word in text for word in words), any(word in text for word in ('semantic', 'anoptic'))
    classes = min([int(number) for number in re.findall(r'"num_classes": (\d+)', text)] or [10])
    one_class = classes == 1
    height, width = size
    shapes = [(3, height, width), (3, height, width if masks or stuff or 'SSD' in text else width - 8)]
    packed = demo_mm_inputs(
        2,
        shapes,
        num_classes=2 if one_class else min(classes, 10),
        with_mask=masks,
        with_semantic=stuff,
        sem_seg_output_strides=8 if 'FusedSemanticHead' in text or 'semantic_roi' in text else 1,
        use_box_type=True,
        num_items=[3, 4],
    )
    samples = packed['data_samples']
    if one_class:
        for sample in samples:
            sample.gt_instances.labels.zero_()
    if cfg['type'] == 'FastRCNN':
        for sample, proposals in zip(samples, demo_mm_proposals(shapes, 20), strict=True):
            sample.proposals = proposals
    return packed


def _semi_supervised(model, cfg, size):
    labelled, teacher, student = (_images_with_objects(cfg['detector'], size) for _ in range(3))
    for views in (teacher, student):
        for sample in views['data_samples']:
            sample.set_metainfo(dict(homography_matrix=torch.eye(3).numpy()))
    views = dict(sup=labelled, unsup_teacher=teacher, unsup_student=student)
    packed = {key: {view: data[key] for view, data in views.items()} for key in ('inputs', 'data_samples')}
    _backward(model(**model.data_preprocessor(packed, True), mode='loss'))
    return _predict(model, **model.data_preprocessor(labelled, False))


def _reidentify(model):
    from mmdet.structures import ReIDDataSample

    images, samples = torch.randn(4, 3, 256, 128), [ReIDDataSample().set_gt_label(i // 2) for i in range(4)]
    _backward(model(images, samples, mode='loss'))
    return _predict(model, inputs=images, data_samples=samples)


def _mmseg(model, cfg, size):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    text = json.dumps(cfg, default=str)
    classes = max(2, min(int(number) for number in re.findall(r'"num_classes": (\d+)', text) or [2]))
    height, width = size
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0), flip=False)
    meta |= dict(flip_direction=None, padding_size=[0] * 4, batch_input_shape=size)
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=meta)
        blocks = torch.randint(0, classes, (1, height // 8, width // 8))
        sample.gt_sem_seg = PixelData(data=blocks.repeat_interleave(8, 1).repeat_interleave(8, 2))
        sample.gt_edge_map = PixelData(data=torch.randint(0, 2, (1, height, width)))
        samples.append(sample)
    images = torch.randn(2, 6 if cfg['type'] == 'SiamEncoderDecoder' else 3, height, width)
    _backward(model(images, samples, mode='loss'))
    return _predict(model, inputs=images, data_samples=samples)


def _mmpretrain(model, cfg, size):
    from mmpretrain.structures import DataSample

    kind = cfg['type']
    if kind.endswith('MaskRCNN'):
        return _mmdet(model, cfg, size)
    if kind in ('ImageClassifier', 'ImageToImageRetriever'):
        return _classify(model, cfg, size, predicts=kind == 'ImageClassifier')
    images, samples = [torch.randn(4, 3, *size) for _ in range(2)], [DataSample().set_gt_label(0) for _ in range(4)]
    for sample in samples:
        sample.set_mask(torch.randint(0, 2, (size[0] // 4, size[1] // 4)))
    if kind == 'SwAV':
        images = [*images, *(torch.randn(4, 3, size[0] // 2, size[1] // 2) for _ in range(6))]
    if kind in ('SimMIM', 'MAE', 'MixMIM', 'SparK', 'MaskFeat', 'MFF', 'MILAN', 'EVA', 'iTPN'):
        images = images[0]
    _backward(model(images, samples, mode='loss'))
    model.eval()
    with torch.no_grad():
        return model(images if isinstance(images, torch.Tensor) else images[0], mode='tensor')


def _classify(model, cfg, size, predicts=True):
    from mmpretrain.structures import DataSample

    head = cfg.get('head') or {}
    classes, kind = head.get('num_classes', 10), head.get('type', '')
    images, samples = torch.randn(4, 3, *size), []
    for i in range(4):
        sample = DataSample()
        if 'MultiLabel' in kind or 'CSRA' in kind:
            sample.set_gt_score(torch.randint(0, 2, (classes,)).float())
        else:
            sample.set_gt_label(i % classes)
        samples.append(sample)
    _backward(model(images, samples, mode='loss'))
    if predicts:
        return _predict(model, inputs=images, data_samples=samples)
    model.eval()  # a retriever predicts by comparing with the images of a data set
    with torch.no_grad():
        return model.extract_feat(images)


STEPS = dict(mmdet=_mmdet, mmseg=_mmseg, mmpretrain=_mmpretrain)
