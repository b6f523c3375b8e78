"""The configs for a user's own data: classes and heads come from the data, and they train on images of any kind."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from mmdefmamba.datasets.own_data import checkpoint_or_none, coco_classes, coco_has_masks, folder_classes, map_classes
from mmdefmamba.guards.config_errors import read_config
from mmdefmamba.guards.hook import guards_hook

CONFIGS = Path(__file__).parents[2] / 'configs'
SMALL = dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1))
NAMES = ('bird', 'cat', 'dog')
TASKS = ('classification', 'detection', 'segmentation')
FORMATS = ('jpg', 'PNG', 'webp', 'bmp')


def write_image(path, height, width, grey=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if grey else (height, width, 3)
    image = np.random.default_rng(height).integers(0, 256, shape, np.uint8)
    done, content = cv2.imencode(path.suffix.lower(), image)
    assert done
    path.write_bytes(content.tobytes())


def write_folders(root, names=NAMES):
    """One folder per class, with images of other sizes and formats, one of them in grey."""
    for split in ('train', 'val'):
        for name in names:
            for index, kind in enumerate(FORMATS):
                write_image(root / split / name / f'{index}.{kind}', 30 + 9 * index, 70 - 11 * index, grey=index == 1)


def coco(images, names=NAMES, masks=True, reverse=False):
    """The content of a COCO file with one object per image, of the classes in turn."""
    ids = {name: 10 * number + 3 for number, name in enumerate(names)}
    box = dict(bbox=[2, 3, 20, 10], area=200, iscrowd=0)
    outline = dict(segmentation=[[2, 3, 22, 3, 22, 13, 2, 13]]) if masks else {}
    categories = [dict(id=number, name=name) for name, number in ids.items()]
    return dict(
        images=[dict(id=i, file_name=name, height=h, width=w) for i, (name, h, w) in enumerate(images)],
        annotations=[
            dict(id=i + 1, image_id=i, category_id=ids[names[i % len(names)]], **box, **outline)
            for i in range(len(images))
        ],
        categories=categories[::-1] if reverse else categories,
    )


def write_coco(root, names=NAMES, masks=True):
    for split in ('train', 'val'):
        images = [(f'{split}/{i}.{kind}', 40 + 9 * i, 80 - 11 * i) for i, kind in enumerate(FORMATS)]
        for name, height, width in images:
            write_image(root / 'images' / name, height, width)
        # the order of the categories in the file is another one in the validation data
        (root / f'{split}.json').write_text(json.dumps(coco(images, names, masks, reverse=split == 'val')))


def write_maps(root, listed=True):
    count = len(NAMES)
    for split in ('train', 'val'):
        for index, kind in enumerate(FORMATS):
            height, width = 40 + 9 * index, 80 - 11 * index
            write_image(root / 'images' / split / f'{index}.{kind}', height, width)
            label = np.full((height, width), 255, np.uint8)
            label[:20] = index % count
            label[20:30] = count - 1
            (root / 'labels' / split).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / f'labels/{split}/{index}.png'), label)
    if listed:
        (root / 'classes.txt').write_text('\n'.join(NAMES[:count]) + '\n')


WRITE = dict(classification=write_folders, detection=write_coco, segmentation=write_maps)


def write_config(task, root, folder, **variables):
    """Change the variables at the top of a config as a user does, and return the path of the changed file."""
    text = (CONFIGS / f'own_data/{task}.py').read_text().replace("'../_base_", f"'{CONFIGS}/_base_")
    for name, value in dict(data_root=str(root), **variables).items():
        text, count = re.subn(rf'^{name} = .*$', f'{name} = {value!r}', text, count=1, flags=re.MULTILINE)
        assert count == 1, name
    path = folder / f'own_{task}.py'
    path.write_text(text)
    return path


def heads(cfg):
    """The numbers of classes of all heads."""
    if cfg.default_scope == 'mmpretrain':
        return {cfg.model.head.num_classes}
    if cfg.default_scope == 'mmdet':
        parts = (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head)
        return {part.num_classes for part in parts if part}
    return {cfg.model.decode_head.num_classes, cfg.model.auxiliary_head.num_classes}


@pytest.mark.parametrize('task', TASKS)
def test_config_trains_tests_and_draws(task, tools, run_test_tool, tmp_path):
    WRITE[task](tmp_path / 'data')
    small = dict(arch=SMALL, image_size=64, batch_size=2, max_epochs=1)
    config = write_config(task, tmp_path / 'data', tmp_path, **small)
    work_dir, loaders = tmp_path / 'work', ('train_dataloader', 'val_dataloader', 'test_dataloader')
    options = [f'{name}.num_workers=0' for name in loaders] + [f'{name}.persistent_workers=False' for name in loaders]
    # fewer proposals and objects, for speed
    few = ['train_cfg.rpn_proposal.max_per_img=20', 'test_cfg.rpn.max_per_img=20', 'test_cfg.rcnn.max_per_img=3']
    few += ['train_cfg.rpn_proposal.nms_pre=50', 'test_cfg.rpn.nms_pre=50', 'train_cfg.rcnn.sampler.num=16']
    options += [f'model.{option}' for option in few] if task == 'detection' else []
    tools['train']([str(config), '--work-dir', str(work_dir), '--cfg-options', *options])
    (best,) = work_dir.glob('best_*.pth')
    # the config in the work dir holds the classes, so it needs the data no more
    saved = Config.fromfile(work_dir / config.name)
    assert tuple(saved.test_dataloader.dataset.metainfo.classes) == NAMES and heads(saved) == {3}
    run_test_tool(config, best, '--work-dir', work_dir, '--report', tmp_path, '--cfg-options', *options)
    text = (tmp_path / 'test.html').read_text()
    assert 'Left out of this page' not in text and all(f'<td>{name}</td>' in text for name in NAMES)
    images = sorted(str(path) for path in (tmp_path / 'data').rglob('val/**/*') if path.suffix[1:] in FORMATS)
    shown = ['--config', str(work_dir / config.name), '--checkpoint', str(best), '--out-dir', str(tmp_path / 'out')]
    tools['infer']([*images, *shown])
    found = json.loads((tmp_path / 'out/predictions.json').read_text())
    assert found['skipped'] == [] and len(found['images']) == len(images) >= 4
    assert tuple(found['classes']) == NAMES


@pytest.mark.parametrize('task', TASKS)
def test_a_checkpoint_of_a_classifier_and_frozen_stages(task, tmp_path):
    WRITE[task](tmp_path / 'data')
    (tmp_path / 'x.pth').touch()
    config = write_config(task, tmp_path / 'data', tmp_path, pretrained=str(tmp_path / 'x.pth'), frozen_stages=2)
    cfg = Config.fromfile(config)
    assert guards_hook(cfg) == dict(type='mmdefmamba.guards.GuardsHook')
    backbone = cfg.model.backbone
    assert backbone.arch == 'tiny' and backbone.frozen_stages == 2
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth'), prefix='backbone.')
    config = write_config(task, tmp_path / 'data', tmp_path, pretrained='no/such.pth')
    with pytest.raises(FileNotFoundError, match=r'checkpoint no/such\.pth does not exist'):
        read_config(config)


@pytest.mark.parametrize('task', TASKS)
def test_missing_data_are_named_when_the_config_is_read(task):
    with pytest.raises(FileNotFoundError, match=r'\w+\.py cannot be read.*data/own\S* does not exist, seen from'):
        read_config(CONFIGS / f'own_data/{task}.py')


def test_classes_of_folders(tmp_path):
    write_folders(tmp_path, ('dog', 'cat'))
    assert folder_classes(tmp_path) == ('cat', 'dog')
    (tmp_path / 'train/.ipynb_checkpoints').mkdir()
    assert folder_classes(tmp_path) == ('cat', 'dog')
    (tmp_path / 'val/cat').rename(tmp_path / 'val/cats')
    with pytest.raises(ValueError, match=r"val has the class 'cats', which \S*train does not have, did you mean 'cat'"):
        folder_classes(tmp_path)
    (tmp_path / 'val/cats').rename(tmp_path / 'val/cat')
    (tmp_path / 'train/wolf').mkdir()
    with pytest.raises(ValueError, match=r'train/wolf has no image: no file ends in \.bmp'):
        folder_classes(tmp_path)
    with pytest.raises(ValueError, match=r'train/wolf has no folder: it needs one folder of images per class'):
        folder_classes(tmp_path, splits=('train/wolf', 'val'))


def test_classes_of_coco_files_are_in_the_order_of_their_ids(tmp_path):
    write_coco(tmp_path)
    train, val = tmp_path / 'train.json', tmp_path / 'val.json'
    assert coco_classes(train, val) == NAMES == coco_classes(val, train)
    assert coco_has_masks(train)
    content = json.loads(train.read_text())
    content['annotations'][0]['segmentation'] = []
    train.write_text(json.dumps(content))
    assert not coco_has_masks(train)
    for key in ('annotations', 'categories', 'images'):
        train.write_text(json.dumps({**content, key: []}))
        with pytest.raises(ValueError, match=rf"train\.json has no {key}: a file in COCO's format has lists of"):
            coco_classes(train, val)
    train.write_text('{')
    with pytest.raises(ValueError, match=r'train\.json is not JSON'):
        coco_classes(train, val)
    train.write_text(json.dumps(coco([('a.png', 9, 9)], ('bird', 'cat'))))
    with pytest.raises(ValueError, match=r"val\.json has the class 'dog', which \S*train\.json does not have"):
        coco_classes(train, val)


def test_a_coco_file_without_masks_gives_a_detector_without_masks(tools, tmp_path):
    write_coco(tmp_path / 'data', masks=False)
    small = dict(arch=SMALL, image_size=64, max_epochs=1)
    config = write_config('detection', tmp_path / 'data', tmp_path, **small)
    cfg = Config.fromfile(config)
    assert cfg.model.type == 'FasterRCNN' and cfg.val_evaluator.metric == ['bbox'] and heads(cfg) == {3}
    options = [
        f'{name}_dataloader.{key}' for name in ('train', 'val') for key in ('num_workers=0', 'persistent_workers=False')
    ]
    tools['train']([str(config), '--work-dir', str(tmp_path / 'work'), '--cfg-options', *options])
    assert len(list((tmp_path / 'work').glob('best_coco_bbox_mAP*.pth'))) == 1


def test_classes_of_label_maps(tmp_path):
    write_maps(tmp_path, listed=False)
    assert map_classes(tmp_path) == ('0', '1', '2')
    (tmp_path / 'classes.txt').write_text('ground\n tree \n\nroof\n')
    assert map_classes(tmp_path) == ('ground', 'tree', 'roof')
    (tmp_path / 'classes.txt').write_text('a\na\n')
    with pytest.raises(ValueError, match=r"must have one line per class, each name once, got \['a', 'a'\]"):
        map_classes(tmp_path)
    (tmp_path / 'classes.txt').unlink()
    cv2.imwrite(str(tmp_path / 'labels/val/0.png'), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r'labels/val/0\.png has the mode RGB: a label map has one channel of 8 bits'):
        map_classes(tmp_path)
    for path in (tmp_path / 'labels').rglob('*.png'):
        cv2.imwrite(str(path), np.full((4, 4), 255, np.uint8))
    with pytest.raises(ValueError, match='has a class: all pixels are 255, which is ignored'):
        map_classes(tmp_path)


def test_maps_with_one_class_are_refused_when_the_config_is_read(tools, tmp_path):
    write_maps(tmp_path, listed=False)
    for path in (tmp_path / 'labels').rglob('*.png'):
        labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), np.where(labels > 0, 255, 0).astype(np.uint8))
    config = write_config('segmentation', tmp_path, tmp_path)
    for tool in ('train', 'check_data'):
        with pytest.raises(ValueError, match=r'no class but 0, .* 255 is ignored: .* write 1 instead'):
            tools[tool]([str(config)])
    (tmp_path / 'classes.txt').write_text('shape\n')
    with pytest.raises(ValueError, match=r"names one class, 'shape', .* write 0 for it and 1 for 'shape'"):
        map_classes(tmp_path)


def test_too_few_names_are_named_with_their_file(tools, capsys, tmp_path):
    write_maps(tmp_path)
    (tmp_path / 'classes.txt').write_text('bird\ncat\n')
    config = write_config('segmentation', tmp_path, tmp_path, arch=SMALL, image_size=64, batch_size=2)
    assert tools['check_data']([str(config), '--report', str(tmp_path)]) == 1
    remedy = f'Give the classes 3 names in {tmp_path}/classes.txt, or correct the labels'
    assert capsys.readouterr().out.count(remedy) == 2
    options = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
    with pytest.raises(ValueError, match=f'has the label 2, but AnySuffixSegDataset has 2 classes.* {remedy}'):
        tools['train']([str(config), '--work-dir', str(tmp_path / 'work'), '--cfg-options', *options])


def test_images_and_label_maps_belong_together(tmp_path):
    from mmdefmamba.datasets.any_suffix import AnySuffixSegDataset

    write_maps(tmp_path)
    prefix = dict(img_path='images/train', seg_map_path='labels/train')
    data = dict(data_root=str(tmp_path), data_prefix=prefix, metainfo=dict(classes=NAMES))
    found = AnySuffixSegDataset(**data)
    assert [Path(found.get_data_info(i)['img_path']).name for i in range(4)] == ['0.jpg', '1.PNG', '2.webp', '3.bmp']
    assert [Path(found.get_data_info(i)['seg_map_path']).name for i in range(4)] == [f'{i}.png' for i in range(4)]
    (tmp_path / 'images/train/0.png').write_bytes(b'')
    with pytest.raises(ValueError, match=r'0\.jpg and \S+0\.png have the same label map'):
        AnySuffixSegDataset(**data)
    (tmp_path / 'images/train/0.png').rename(tmp_path / 'images/train/9.png')
    with pytest.raises(ValueError, match=r'image \S+9\.png has no label map: \S+labels/train/9\.png does not exist'):
        AnySuffixSegDataset(**data)


def test_a_checkpoint_may_be_missing_only_if_none_is_asked_for(tmp_path):
    assert checkpoint_or_none(None) is None and checkpoint_or_none('') is None
    assert checkpoint_or_none('https://host/x.pth') == 'https://host/x.pth'
    with pytest.raises(FileNotFoundError, match=r'checkpoint x\.pth does not exist'):
        checkpoint_or_none('x.pth')
