"""Annotations that are empty, cut short, unknown, or do not fit their images."""

import json
import math
import re
import shutil

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope

from mmdefmamba.guards.config_errors import read_config

TASKS = ('classification', 'detection', 'segmentation')


def loaded(data, options=()):
    """Return the training set of a config, built as a runner builds it."""
    cfg = read_config(str(data.config))
    cfg.merge_from_dict(dict(options))
    init_default_scope(cfg.default_scope)
    return DATASETS.build(cfg.train_dataloader.dataset)


def every(coco, **items):
    for annotation in coco['annotations']:
        annotation.update(items)


# ---- no data


@pytest.mark.parametrize('split', ['training', 'validation'])
@pytest.mark.parametrize('task', TASKS)
def test_empty_dataset_error_names_its_files(tiny, task, split):
    data = tiny(task)
    for image in data.images(split):
        image.unlink()
    if task == 'detection':
        data.change_annotations(lambda coco: (coco['images'].clear(), coco['annotations'].clear()), split)
    message = {
        'classification': r'CustomDataset could not be read, .*holds no image: no file ends in .*; it holds no file',
        'detection': rf"CocoDataset has no images: ann_file '\S+{split}.json'",
        'segmentation': rf"BaseSegDataset .*images/{split} holds no image: no file ends in img_suffix '.png'",
    }[task]
    with pytest.raises(ValueError, match=message):
        data.train(validate=split == 'validation')


@pytest.mark.parametrize('task', TASKS)
def test_missing_folder_error_gives_path(tiny, task):
    data = tiny(task)
    shutil.rmtree(data.root)
    with pytest.raises(FileNotFoundError, match=rf'could not be read, ann_file .*No such file .*{data.root}'):
        data.train()


# ---- detection: a COCO file


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda text: text[: len(text) // 2], 'JSONDecodeError'),
        (lambda text: '', 'JSONDecodeError'),
        (lambda text: '[]', "AssertionError: annotation file format <class 'list'> not supported"),
        (lambda text: text.replace('"categories"', '"category"'), "KeyError: 'categories'"),
        (lambda text: text.replace('"bbox"', '"box"'), "KeyError: 'bbox'"),
        (lambda text: text.replace('"height"', '"hight"'), "KeyError: 'height'"),
        (lambda text: text.replace('"id": 2, "image_id"', '"id": 1, "image_id"'), 'are not unique'),
    ],
)
def test_unreadable_coco_file_error_gives_path_and_cause(tiny, spoil, message):
    data = tiny('detection')
    path = data.root / 'training.json'
    path.write_text(spoil(path.read_text()))
    with pytest.raises(ValueError, match=rf"CocoDataset could not be read, ann_file '{path}'.*{message}"):
        data.train()


def test_invalid_objects_are_left_out(tiny):
    data = tiny('detection')

    def spoil(coco):
        empty, away, unknown, kept = coco['annotations']
        empty['bbox'] = [5, 5, 0, 7]
        away['bbox'] = [200, 5, 10, 10]
        unknown['category_id'] = 77
        coco['annotations'] += [dict(kept, id=9, image_id=99), dict(kept, id=10, bbox=[3, 3, math.nan, 5])]

    data.change_annotations(spoil)
    found = [loaded(data).get_data_info(i)['instances'] for i in range(4)]
    assert [len(instances) for instances in found] == [0, 0, 0, 1]
    assert len(data.train()) == 2


def test_dataset_without_objects_can_be_trained_on(tiny):
    data = tiny('detection')
    data.change_annotations(lambda coco: coco['annotations'].clear())
    lines = data.train(validate=True)
    assert [line['loss_mask'] for line in lines if 'loss' in line] == [0, 0]
    assert all(line['loss_rpn_cls'] > 0 for line in lines)


def test_masks_are_cut_at_the_image_border(tiny):
    data = tiny('detection')
    outline = [-50, -50, 16, -50, 16, 100, -50, 100]
    data.change_annotations(lambda coco: every(coco, segmentation=[outline], bbox=[-50, -50, 66, 150]))
    cfg = read_config(str(data.config))
    options = {'train_dataloader.dataset.pipeline': cfg.train_dataloader.dataset.pipeline[:2]}
    (mask,) = loaded(data, options)[0]['gt_masks'].masks
    expected = np.zeros((40, 32), np.uint8)
    expected[:, :16] = 1
    assert np.array_equal(mask, expected)
    # boxes are not cut
    assert loaded(data, options)[0]['gt_bboxes'].tensor.tolist() == [[-50, -50, 16, 100]]
    assert all(math.isfinite(line['loss']) for line in data.train())


@pytest.mark.parametrize('reach', [math.nan, math.inf, 1e9])
def test_invalid_outline_is_refused(tiny, reach, loading_guards):
    data = tiny('detection')
    data.change_annotations(
        lambda coco: coco['annotations'][1].update(segmentation=[[9, 9, 0, 0, 0, 9], [0, 0, reach, 5, 5, 5]])
    )
    with pytest.raises(
        ValueError,
        match=rf'outline of object 0 of \S+/1\.png is not valid: it has the coordinate {re.escape(f"{reach:g}")}, ',
    ):
        loaded(data)[1]


@pytest.mark.parametrize(
    ('items', 'message'),
    [
        (dict(segmentation=dict(size=[32, 40], counts=[200, 500, 580])), 'has 32 x 40 pixels, the image has 40 x 32'),
        (dict(segmentation=dict(size=[40, 32], counts=[200, 5000])), 'Invalid RLE'),
    ],
)
def test_invalid_run_length_mask_error_names_image(tiny, items, message):
    data = tiny('detection')
    data.change_annotations(lambda coco: every(coco, **items))
    with pytest.raises((RuntimeError, ValueError), match=rf'\S+/images/training/\d.png.* {message}'):
        data.train()


def test_object_without_mask_error_names_image(tiny):
    data = tiny('detection')
    data.change_annotations(lambda coco: coco['annotations'][0].pop('segmentation'))
    with pytest.raises(KeyError, match=r"sample 0 of CocoDataset, \S+/images/training/0.png: KeyError: 'mask'"):
        data.train()


def test_annotations_of_another_size_than_the_image_are_refused(tiny):
    data = tiny('detection')
    data.change_annotations(lambda coco: coco['images'][2].update(height=80, width=64))
    with pytest.raises(
        ValueError, match=r'2\.png has 40 x 32 pixels, but its annotations belong to an image of 80 x 64'
    ):
        data.train()


def test_class_missing_in_coco_file_is_refused(tiny):
    data = tiny('detection')
    data.change_annotations(lambda coco: coco['categories'][0].update(name='cats'))
    with pytest.raises(ValueError, match=r'training\.json has 1 of the 2 classes of CocoDataset, cat, dog'):
        data.train()


def test_sizes_as_text_and_placeholders_are_accepted():
    from mmdefmamba.guards.coco_annotations import _check_size

    for height, width in (('40', '32'), (0, 0), (None, 32), (40.0, 32.0)):
        _check_size(dict(ori_shape=(40, 32), height=height, width=width))
    _check_size(dict(height=1, width=1))  # no image was loaded
    with pytest.raises(ValueError, match='belong to an image of 41 x 32'):
        _check_size(dict(ori_shape=(40, 32), height='41', width='32'))


def test_empty_outline_is_left_to_mmdet():
    from mmdefmamba.guards.coco_annotations import _check_masks

    _check_masks(dict(ori_shape=(40, 32), instances=[dict(mask=[[]]), dict(mask=[])]))
    _check_masks(dict(instances=[dict(mask=[[1, 2, 3]])]))  # no image was loaded


# ---- segmentation: label maps


def write(path, labels):
    cv2.imwrite(str(path), labels)


MAPS = {
    'missing': (lambda path, labels: path.unlink(), r'No such file .*maps/\S+/0\.png'),
    'cut': (lambda path, labels: path.write_bytes(path.read_bytes()[:-20]), 'a PNG of .* whose end is missing'),
    'label': (
        lambda path, labels: write(path, labels * 2),
        'has the label 2, but BaseSegDataset has 2 classes: labels from 0 to 1',
    ),
    'size': (lambda path, labels: write(path, labels[:20]), r'0\.png has 20 x 32 pixels, its image .* has 40 x 32'),
    'turned': (lambda path, labels: write(path, labels.T), r'0\.png has 32 x 40 pixels, its image .* has 40 x 32'),
    'colour': (
        lambda path, labels: write(path, np.stack([labels] * 3, -1)),
        'has 3 channels. A label map has one channel',
    ),
    'deep': (
        lambda path, labels: write(path, labels.astype(np.uint16) * 257),
        'has labels up to 257, but mmseg reads 8 bits',
    ),
}


@pytest.mark.parametrize('split', ['training', 'validation'])
@pytest.mark.parametrize('kind', MAPS)
def test_invalid_label_map_error_gives_path_and_cause(tiny, kind, split, trained_segmentation):
    data = trained_segmentation if split == 'validation' else tiny('segmentation')
    spoil, message = MAPS[kind]
    path = data.map_of(data.images(split)[0])
    before = path.read_bytes()
    spoil(path, cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    try:
        with pytest.raises((OSError, ValueError), match=message) as raised:
            data.test() if split == 'validation' else data.train('train_dataloader.batch_size=4')
        assert str(path) in str(raised.value)
    finally:
        path.write_bytes(before)


@pytest.fixture(scope='module')
def trained_segmentation(tiny_class, tools, tmp_path_factory):
    data = tiny_class('segmentation', tmp_path_factory.mktemp('segmentation'), tools)
    data.train()
    return data


def test_ignored_and_16_bit_label_maps_can_be_trained_on(tiny):
    data = tiny('segmentation')
    first, second, third, fourth = map(data.map_of, data.images())
    write(first, np.full((40, 32), 255, np.uint8))
    write(second, cv2.imread(str(second), cv2.IMREAD_UNCHANGED).astype(np.uint16))
    for path in (third, fourth):
        path.write_bytes(first.read_bytes())
    first, second = data.train('train_dataloader.batch_size=4')
    assert 0 < second['decode.loss_ce'] < first['decode.loss_ce'] * 2
    # ignored pixels have weight 0: one map of four has labels, and its loss is near log(2) per pixel
    assert first['decode.loss_ce'] == pytest.approx(math.log(2) / 4, rel=0.6)


# ---- classification: a list of images


def listed(data, lines):
    (data.root / 'list.txt').write_text('\n'.join(lines))
    return ['train_dataloader.dataset.ann_file=list.txt', 'train_dataloader.dataset.metainfo.classes=[cat,dog]']


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (['cat/0.png 0', 'dog/1.png dog'], r"could not be read, ann_file '\S+list\.txt'.*invalid literal .*'dog'"),
        (['cat/0.png 0', 'dog/1.png'], r"could not be read, ann_file '\S+list\.txt'.*not enough values"),
        (
            ['cat/0.png 0', 'dog/1.png 2'],
            r'dog/1\.png has the label 2, but Custom.* has 2 classes: labels from 0 to 1',
        ),
        (
            ['cat/0.png 0', 'dog/1.png -1'],
            r'dog/1\.png has the label -1, but Custom.* has 2 classes: labels from 0 to 1',
        ),
    ],
)
def test_invalid_class_label_error_names_list_or_image(tiny, lines, message):
    data = tiny('classification')
    with pytest.raises(ValueError, match=message):
        data.train(*listed(data, lines))


@pytest.mark.parametrize('task', TASKS)
def test_head_with_wrong_number_of_classes_is_refused(tiny, task):
    data = tiny(task)
    key, count = {
        'classification': ('model.head.num_classes', 'head.num_classes is 3'),
        'detection': ('model.roi_head.bbox_head.num_classes', 'roi_head.bbox_head.num_classes is 3'),
        'segmentation': ('model.decode_head.num_classes', 'decode_head.num_classes is 3'),
    }[task]
    options = [f'{key}=3'] + (['data_preprocessor.num_classes=3'] if task == 'classification' else [])
    with pytest.raises(ValueError, match=rf'{count}, but \w+ has 2 classes: cat, dog. Set {key}=2'):
        data.train(*options)


def test_additional_class_folder_is_refused(tiny):
    data = tiny('classification')
    (data.root / 'train/bird').mkdir()
    cv2.imwrite(str(data.root / 'train/bird/0.png'), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match=r'head\.num_classes is 2, but CustomDataset has 3 classes'):
        data.train()
    assert json.dumps(sorted(path.name for path in (data.root / 'train').iterdir())) == '["bird", "cat", "dog"]'
