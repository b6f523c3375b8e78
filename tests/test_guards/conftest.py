"""A tiny dataset and config of each task. A test breaks one thing in it, and runs the tools on it as a user does."""

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import utils as config_utils
from mmengine.registry import DATASETS, METRICS, init_default_scope
from pycocotools import mask as coco_mask
from yapf.yapflib import yapf_api

from mmdefmamba.guards import loading
from mmdefmamba.guards.config_errors import read_config

ROOT = Path(__file__).parents[2]
CLASSES = ('cat', 'dog')
HEIGHT, WIDTH = 40, 32
TINY = dict(_delete_=True, embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1))
COMMON = """
_base_ = {base!r}
root = {root!r}
classes = ('cat', 'dog')
"""
CLASSIFICATION = """
resize = dict(type='Resize', scale=(32, 32))
pipeline = [dict(type='LoadImageFromFile'), resize, dict(type='PackInputs')]
dataset = dict(_delete_=True, type='CustomDataset', data_root=root, pipeline=pipeline)
model = dict(backbone=dict(arch={arch}), head=dict(num_classes=2, in_channels=16))
data_preprocessor = dict(num_classes=2)
train_dataloader = dict(batch_size=2, dataset=dict(dataset, data_prefix='train'))
val_dataloader = dict(batch_size=2, dataset=dict(dataset, data_prefix='val'))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False)]
"""
DETECTION = """
meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(48, 48), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=meta_keys),
]
dataset = dict(data_root=root, metainfo=dict(classes=classes), pipeline=pipeline)
small = dict(in_channels=16)
model = dict(
    backbone=dict(arch={arch}),
    neck=dict(in_channels=[8, 8, 16, 16], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=2),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16, num_classes=2),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=20), rcnn=dict(sampler=dict(num=8))),
    test_cfg=dict(rpn=dict(max_per_img=5), rcnn=dict(max_per_img=5)),
)
train_dataloader = dict(
    batch_size=2, dataset=dict(dataset, ann_file='training.json', data_prefix=dict(img='images/training'))
)
val_dataloader = dict(
    batch_size=2, dataset=dict(dataset, ann_file='validation.json', data_prefix=dict(img='images/validation'))
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=root + '/validation.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = dict(_delete_=True, type='ConstantLR', factor=1.0, by_epoch=False)
"""
SEGMENTATION = """
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
dataset = dict(data_root=root, metainfo=dict(classes=classes, palette=[[0, 0, 0], [255, 255, 255]]), pipeline=pipeline)
model = dict(
    data_preprocessor=dict(size=(40, 32)),
    backbone=dict(arch={arch}),
    decode_head=dict(in_channels=[8, 8, 16, 16], channels=8, num_classes=2),
    auxiliary_head=dict(in_channels=16, channels=8, num_classes=2),
)
train_dataloader = dict(
    batch_size=2, dataset=dict(dataset, data_prefix=dict(img_path='images/training', seg_map_path='maps/training'))
)
val_dataloader = dict(
    dataset=dict(dataset, data_prefix=dict(img_path='images/validation', seg_map_path='maps/validation'))
)
test_dataloader = val_dataloader
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2))
param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False)]
"""
CONFIGS = {
    'classification': ('classification/defmamba_pico_digits.py', CLASSIFICATION),
    'detection': ('detection/mask_rcnn_defmamba_pico_digits.py', DETECTION),
    'segmentation': ('segmentation/upernet_defmamba_pico_digits.py', SEGMENTATION),
}
SPLITS = {'training': 4, 'validation': 2}


def picture(index):
    """Return an image with a bright (cat) or dark (dog) box on noise, and the box: left, top, right, bottom."""
    image = np.random.default_rng(index).integers(60, 180, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    box = 4 + index, 6, 24 + index, 30
    image[box[1] : box[3], box[0] : box[2]] = 255 if index % 2 == 0 else 0
    return image, box


class Tiny:
    """A dataset, its config, and methods that run the tools on them.

    Attributes:
        root: folder of the data.
        config: path of the config.
        work_dir: work dir of all runs.
    """

    def __init__(self, task, folder, tools):
        self.task, self.root, self.work_dir = task, folder / 'data', folder / 'work'
        self.config = folder / 'config.py'
        self._tools = tools
        write = self._write_classes if task == 'classification' else self._write_scenes
        for split, count in SPLITS.items():
            write(split, count)
        base, text = CONFIGS[task]
        items = dict(base=str(ROOT / 'configs' / base), root=str(self.root), arch=TINY)
        self.config.write_text((COMMON + text).format(**items))

    def _write_classes(self, split, count):
        for index in range(count):
            folder = self.root / {'training': 'train', 'validation': 'val'}[split] / CLASSES[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f'{index}.png'), picture(index)[0])

    def _write_scenes(self, split, count):
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
        coco = dict(images=[], annotations=[], categories=categories)
        for folder in ('images', 'maps'):
            (self.root / folder / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, (left, top, right, bottom) = picture(index)
            labels = np.zeros((HEIGHT, WIDTH), np.uint8)
            labels[top:bottom, left:right] = 1
            cv2.imwrite(str(self.root / 'images' / split / f'{index}.png'), image)
            cv2.imwrite(str(self.root / 'maps' / split / f'{index}.png'), labels)
            rle = coco_mask.encode(np.asfortranarray(labels))
            box = [left, top, right - left, bottom - top]
            coco['images'].append(dict(id=index, file_name=f'{index}.png', height=HEIGHT, width=WIDTH))
            coco['annotations'].append(
                dict(
                    id=index + 1,
                    image_id=index,
                    category_id=1 + index % 2,
                    bbox=box,
                    area=box[2] * box[3],
                    segmentation=dict(size=rle['size'], counts=rle['counts'].decode()),
                    iscrowd=0,
                )
            )
        (self.root / f'{split}.json').write_text(json.dumps(coco))

    def images(self, split='training'):
        """Return the paths of the images, sorted."""
        if self.task == 'classification':
            return sorted((self.root / {'training': 'train', 'validation': 'val'}[split]).rglob('*.*'))
        return sorted((self.root / 'images' / split).iterdir())

    def map_of(self, image):
        """Return the path of an image's label map."""
        return self.root / 'maps' / image.parent.name / f'{image.stem}.png'

    def change_annotations(self, change, split='training'):
        """Change the annotation file: ``change(coco)`` changes its content, a dict."""
        path = self.root / f'{split}.json'
        coco = json.loads(path.read_text())
        change(coco)
        path.write_text(json.dumps(coco))

    def dataset(self, split='train', **changes):
        """Return the dataset of ``split``, built as a runner builds it; ``changes`` are made in its dict."""
        cfg = read_config(str(self.config))
        init_default_scope(cfg.default_scope)
        return DATASETS.build(dict(cfg[f'{split}_dataloader'].dataset, **changes))

    def perfect_scores(self, dataset, **options):
        """Return the scores of CocoMetric for predictions that are the objects of a validation dataset."""
        metric = METRICS.build(dict(type='CocoMetric', ann_file=str(self.root / 'validation.json'), **options))
        metric.dataset_meta = dataset.metainfo
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            objects = info['instances']
            found = dict(
                bboxes=torch.tensor([each['bbox'] for each in objects], dtype=torch.float).reshape(-1, 4),
                labels=torch.tensor([each['bbox_label'] for each in objects], dtype=torch.long),
                scores=torch.ones(len(objects)),
            )
            if 'segm' in metric.metrics:
                found['masks'] = [each['mask'] for each in objects]
            metric.process({}, [dict(pred_instances=found, img_id=info['img_id'], ori_shape=(HEIGHT, WIDTH))])
        return metric.evaluate(len(dataset))

    def train(self, *options, validate=False, args=()):
        """Run tools/train.py; return what it logged of the training, one dict per iteration."""
        args = [str(self.config), '--work-dir', str(self.work_dir), *args, *([] if validate else ['--no-validate'])]
        self._tools['train']([*args, '--cfg-options', 'default_hooks.logger.interval=1', *options])
        return [line for line in self._logged() if 'loss' in line]

    def test(self, *options):
        """Run tools/test.py on the trained checkpoint; return the metrics."""
        checkpoint = (self.work_dir / 'last_checkpoint').read_text()
        metrics = self.work_dir / 'metrics.json'
        args = [str(self.config), checkpoint, '--work-dir', str(self.work_dir)]
        args += ['--out', str(metrics), '--out-item', 'metrics']
        self._tools['test']([*args, *(['--cfg-options', *options] if options else [])])
        return json.loads(metrics.read_text())

    def _logged(self):
        latest = max(self.work_dir.glob('*/vis_data/scalars.json'))
        return [json.loads(line) for line in latest.read_text().splitlines()]


@pytest.fixture(scope='session', autouse=True)
def quick_configs():
    """Speed up the reading and printing of configs, which take most of the time of a run of two iterations.

    Configs are printed without formatting, and the lists in which MMEngine looks up ``mmdet::`` are read once.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, 'FormatCode', lambda text, **style: (text, True))
        patch.setattr(config_utils, 'load', functools.cache(config_utils.load))
        yield


@pytest.fixture
def tiny(tools, tmp_path):
    """Return ``make(task)``, which makes a :class:`Tiny` in its own folder."""
    return lambda task: Tiny(task, tmp_path / task, tools)


@pytest.fixture(scope='session')
def tiny_class():
    """Return the class :class:`Tiny`, for a dataset that several tests share."""
    return Tiny


@pytest.fixture
def loading_guards():
    """Activate the guards on data loading, as a run does whose config asks for them."""
    loading.activate(loading.LOADING_GUARDS)
    yield
    loading.deactivate(loading.LOADING_GUARDS)


@pytest.fixture(scope='session')
def bounded(request):
    """Return settings of Hypothesis: the same examples in each run, and as many as ``--examples`` says."""
    hypothesis = pytest.importorskip('hypothesis')
    return hypothesis.settings(
        max_examples=request.config.getoption('--examples'),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
