"""Time training steps of detectors and segmentors, in turns in one run: DefMamba and Swin-T with the same head."""

import argparse
import copy
import functools
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from timing import add_arguments, attempt, autocast, describe, peak_memory, report

import mmdefmamba  # noqa: F401  before mmdet
from mmdefmamba.analysis.timing import alternate

CONFIGS = Path(__file__).parents[1] / 'configs'
SWIN_T = dict(
    embed_dims=96,
    depths=[2, 2, 6, 2],
    num_heads=[3, 6, 12, 24],
    window_size=7,
    mlp_ratio=4,
    drop_path_rate=0.2,
    out_indices=(0, 1, 2, 3),
)
# name -> (scope, config file). DefMamba-S and Swin-T have the same four widths, which the heads take.
DETECTORS = {
    'mask_rcnn': ('mmdet', 'detection/mask_rcnn_defmamba_s_1x.py'),
    'upernet': ('mmseg', 'segmentation/upernet_defmamba_s_160k.py'),
}


def build(detector, backbone, scan_backend, cfg_options=None):
    """Return Mask R-CNN or UperNet with random weights; the backbone is 'small' (DefMamba-S) or 'swin_t'."""
    if backbone not in ('small', 'swin_t'):
        raise ValueError(f"the heads fit the widths of 'small' and 'swin_t', got {backbone!r}")
    scope, path = DETECTORS[detector]
    config = Config.fromfile(CONFIGS / path)
    config.merge_from_dict(cfg_options or {})
    model = config.model
    if backbone == 'swin_t':
        model.backbone = dict(type='SwinTransformer', **SWIN_T)
    else:
        model.backbone.pop('init_cfg')
        model.backbone.scan_backend = scan_backend
    if 'size' in model.data_preprocessor:
        model.data_preprocessor.pop('size')
        model.data_preprocessor.size_divisor = 32
    model.backbone._scope_ = scope
    init_default_scope(scope)
    torch.manual_seed(0)
    if scope == 'mmdet':
        from mmdet.registry import MODELS
    else:
        from mmseg.registry import MODELS
    return MODELS.build(model).train()


def make_batch(detector, batch, height, width):
    """Return random images with random annotations: eight boxes with masks, or one class per pixel."""
    random = np.random.default_rng(0)
    inputs = [torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8)) for _ in range(batch)]
    meta = dict(img_shape=(height, width), ori_shape=(height, width), pad_shape=(height, width), scale_factor=(1, 1))
    samples = []
    for _ in range(batch):
        if detector == 'upernet':
            from mmseg.structures import SegDataSample

            sample = SegDataSample(metainfo=meta)
            sample.gt_sem_seg = PixelData(data=torch.from_numpy(random.integers(0, 150, (1, height, width))))
        else:
            from mmdet.structures import DetDataSample
            from mmdet.structures.bbox import HorizontalBoxes
            from mmdet.structures.mask import BitmapMasks

            sample = DetDataSample(metainfo=meta)
            corner = random.uniform(0, 0.6, (8, 2)) * (width, height)
            boxes = np.concatenate([corner, corner + random.uniform(0.1, 0.4, (8, 2)) * (width, height)], axis=1)
            masks = np.zeros((8, height, width), dtype=np.uint8)
            for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
                mask[y1:y2, x1:x2] = 1
            sample.gt_instances = InstanceData(
                bboxes=HorizontalBoxes(torch.from_numpy(boxes).float()),
                labels=torch.from_numpy(random.integers(0, 80, 8)),
                masks=BitmapMasks(masks, height, width),
            )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def make_step(model, data, device, dtype):
    """Return a function that runs one training step up to the gradients."""
    model = model.to(device)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def step():
        prepared = model.data_preprocessor(copy.deepcopy(data), training=True)
        with autocast(device, dtype):
            losses = model(**prepared, mode='loss')
        loss, _ = model.parse_losses(losses)
        torch.autograd.grad(loss, parameters, allow_unused=True)

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument('--detectors', nargs='+', default=list(DETECTORS), choices=DETECTORS)
    parser.add_argument('--backbones', nargs='+', default=['swin_t', 'small'], help='swin_t, small, small:triton, ...')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--detection-size', type=int, nargs=2, default=[800, 1333], metavar=('H', 'W'))
    parser.add_argument('--segmentation-size', type=int, nargs=2, default=[512, 512], metavar=('H', 'W'))
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='change the configs, as key=value')
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    title = f'{describe(args.device, dtype)}, batch {args.batch}, training step without the optimizer'
    print(title)

    rows = []
    for detector in args.detectors:
        size = args.segmentation_size if detector == 'upernet' else args.detection_size
        data = make_batch(detector, args.batch, *size)
        steps = {}
        for backbone in args.backbones:
            name, _, backend = backbone.partition(':')
            model = build(detector, name, backend or 'auto', args.cfg_options)
            make = functools.partial(make_step, model, data, args.device, dtype)
            step, error = attempt(make, args.device)
            if step:
                steps[backbone] = step
            else:
                rows.append([detector, '{}x{}'.format(*size), backbone, None, None, None, error])
        seconds = alternate(steps, args.rounds, args.device)
        for backbone, value in seconds.items():
            against = value / seconds['swin_t'] if 'swin_t' in seconds else None
            memory = peak_memory(steps[backbone], args.device)
            rows.append([detector, '{}x{}'.format(*size), backbone, value * 1e3, against, memory, ''])
    header = ['detector', 'size', 'backbone', 'ms', 'time against Swin-T', 'peak GiB', 'error']
    report(f'detectors_{args.dtype}', header, rows, args.out, value='ms', label=header[:3], title=title)


if __name__ == '__main__':
    main()
