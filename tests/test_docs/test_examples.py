"""Configs and code on the how-to pages run as written there, with tiny data and small networks of the same kind."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmdefmamba  # noqa: F401
from mmdefmamba.cli import run_options as cli
from mmdefmamba.scans import SCANS, StaticScan

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / 'docs/howto').glob('*.md'))
# Tiny with one block per stage. The configs of the pages name its channels.
SMALL = dict(embed_dims=(48, 96, 192, 384), depths=(1, 1, 1, 1))
BLOCKS = [
    pytest.param(block.partition('```')[0], id=f'{page.stem}-{index}')
    for page in PAGES
    for index, block in enumerate(page.read_text().split('```python\n')[1:])
]

# The data sets are trained by tests below. The page on export is run by test_apis/test_onnx_predictor.py.
ELSEWHERE = ('dataset', 'export')


def is_config(block):
    return block.startswith('_base_')


def test_pages_contain_the_tested_examples():
    names = [param.id for param in BLOCKS]
    assert {'dataset-0', 'dataset-1', 'detector-0', 'detector-1', 'detector-2', 'scan-0', 'report-0'} <= set(names)


@pytest.fixture
def spiral():
    """Register the scan that the page on scans takes from the page on concepts."""

    @SCANS.register_module(name='spiral')
    class Spiral(StaticScan):
        def order(self, height, width):
            return torch.arange(height * width).flip(0)

    yield
    SCANS.module_dict.pop('spiral')


@pytest.fixture
def write(tmp_path):
    """Write the config of a page to a file, with paths that are correct there."""

    def write(block):
        path = tmp_path / 'mine.py'
        block = block.replace("'configs/", f"'{ROOT}/configs/").replace("'data/mine", f"'{tmp_path}/data/mine")
        path.write_text(block.replace(", 'my_scans'", ''))
        return path

    return write


@pytest.mark.parametrize('block', [param for param in BLOCKS if param.id.split('-')[0] not in ELSEWHERE])
def test_examples_run(block, write, spiral, monkeypatch):
    if not is_config(block):
        exec(compile(block, 'example', 'exec'), {})
        return
    cfg = Config.fromfile(write(block))
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.arch = SMALL if cfg.model.backbone.arch == 'tiny' else cfg.model.backbone.arch
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        maps = model.backbone(torch.randn(1, 3, 64, 64))
        assert all(map_.isfinite().all() for map_ in maps)
        if cfg.default_scope == 'mmdet':
            assert len(model.neck(maps)) == 5
        if cfg.default_scope == 'mmseg':
            assert model.decode_head(maps).shape[1] == cfg.model.decode_head.num_classes


def draw_images(folder, count, size=(40, 50)):
    folder.mkdir(parents=True)
    for index in range(count):
        image = np.random.default_rng(index).integers(0, 255, (*size, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f'{index}.jpg'), image)


def trains(path, *options):
    """Train the config, validate it, and return the logged scalars."""
    small = path.with_name('small.py')
    small.write_text(f'_base_ = {str(path)!r}\nmodel = dict(backbone=dict(arch=dict(_delete_=True, **{SMALL})))\n')
    for phase in ('train', 'val'):
        options += (f'{phase}_dataloader.num_workers=0', f'{phase}_dataloader.persistent_workers=False')
    args = [str(small), '--work-dir', str(path.parent / 'work'), '--cfg-options', *options]
    runner = cli.build_runner(cli.train_config(cli.train_parser().parse_args(args)))
    runner.train()
    return runner.message_hub.log_scalars


def test_classification_example_trains(write, tmp_path):
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            draw_images(tmp_path / f'data/mine/{split}/{name}', 2)
    path = write(example('dataset', 0))
    options = ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=2', 'custom_hooks=[]']
    options += ['train_dataloader.dataset.pipeline.1.scale=64', 'val_dataloader.dataset.pipeline.1.scale=64']
    scores = trains(path, *options, 'val_dataloader.dataset.pipeline.2.crop_size=64')
    assert 0 <= scores['val/accuracy/top1'].current() <= 100


def test_segmentation_example_trains(write, tmp_path):
    for split in ('train', 'val'):
        draw_images(tmp_path / f'data/mine/images/{split}', 2)
        labels = tmp_path / f'data/mine/labels/{split}'
        labels.mkdir(parents=True)
        for index in range(2):
            label = np.zeros((40, 50), np.uint8)
            label[10:20], label[30:] = 2, 255
            assert cv2.imwrite(str(labels / f'{index}.png'), label)
    path = write(example('dataset', 1))
    options = ['train_cfg.max_iters=1', 'train_cfg.val_interval=1', 'train_dataloader.batch_size=2']
    options += [
        'model.decode_head.channels=8',
        'model.auxiliary_head.channels=8',
        'model.data_preprocessor.size=(64,64)',
    ]
    options += ['model.decode_head.norm_cfg.type=BN', 'model.auxiliary_head.norm_cfg.type=BN']
    options += [f'{phase}_dataloader.dataset.pipeline.{i}.scale=(64,64)' for phase, i in (('train', 2), ('val', 1))]
    scores = trains(path, *options, 'train_dataloader.dataset.pipeline.3.crop_size=(64,64)')
    # no pixel has class 1; if labels were shifted as for ADE20K, 2 would become 1
    assert np.isfinite(scores['val/mIoU'].current())


def example(page, index):
    (block,) = [param.values[0] for param in BLOCKS if param.id == f'{page}-{index}']
    return block


def test_every_file_named_on_a_page_exists():
    pages = [*PAGES, ROOT / 'docs/index.md', ROOT / 'docs/faq.md']
    text = '\n'.join(page.read_text() for page in pages)
    named = set(re.findall(r'\b(?:configs|tools|benchmarks)/[\w./]+\.(?:py|sh)', text))
    # copies that docs/howto/own_data.md tells the user to make
    named -= {f'configs/own_data/{name}.py' for name in ('shapes', 'shapes_boxes', 'shapes_maps')}
    assert len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
