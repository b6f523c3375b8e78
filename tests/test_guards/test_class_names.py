"""Names and numbers of the classes agree between config, data, annotation files and checkpoint."""

import json

import cv2
import numpy as np
import pytest
import torch

from mmdefmamba.guards.class_folders import number_folders
from mmdefmamba.guards.class_names import compare_names, names_in_checkpoint
from mmdefmamba.guards.config_errors import read_config

# ---- numbering by name


@pytest.mark.parametrize('classes', [('cat', 'dog'), ('dog', 'cat')])
@pytest.mark.parametrize('order', [[0, 1], [1, 0]])
def test_perfect_predictions_score_one_whatever_the_order_of_names(tiny, loading_guards, classes, order):
    data = tiny('detection')
    for split in ('training', 'validation'):
        data.change_annotations(lambda coco: coco.update(categories=[coco['categories'][i] for i in order]), split)
    dataset = data.dataset('val', metainfo=dict(classes=classes))
    # the first image has a cat, the second a dog: see conftest.py
    assert [dataset.get_data_info(i)['instances'][0]['bbox_label'] for i in (0, 1)] == [
        classes.index('cat'),
        classes.index('dog'),
    ]
    scores = data.perfect_scores(dataset, metric=['bbox', 'segm'], classwise=True)
    assert [scores[f'coco/{key}'] for key in ('bbox_mAP', 'segm_mAP', 'cat_precision', 'dog_precision')] == [1] * 4


def test_files_with_other_orders_of_categories_give_the_same_numbers(tiny, loading_guards, told):
    data = tiny('detection')
    data.change_annotations(lambda coco: coco['categories'].reverse(), 'validation')
    assert [data.dataset(split).get_data_info(0)['instances'][0]['bbox_label'] for split in ('train', 'val')] == [0, 0]
    (warning,) = [text for level, text in told if 'numbered by name' in text]
    assert 'categories of the file are dog, cat' in warning and '0 cat, 1 dog' in warning


@pytest.mark.parametrize(
    ('folders', 'classes', 'numbers'),
    [
        (['cat', 'dog'], ('dog', 'cat'), dict(cat=1, dog=0)),
        (['Cat', 'hot_dog'], ('hot dog', 'cat'), {'Cat': 1, 'hot_dog': 0}),
        (['cat', 'dog'], ('bird', 'cat', 'dog'), dict(cat=1, dog=2)),
        (['n01', 'n02'], ('tench', 'goldfish'), None),
        (['0', '1', '10', *'23456789'], [*'abcdefghijk'], {str(i): i for i in range(11)}),
        (['a', 'b'], ('a', 'a'), None),
    ],
)
def test_folders_are_numbered_by_name(folders, classes, numbers):
    assert number_folders(folders, classes) == numbers


def test_folders_of_images_get_the_numbers_of_their_names(tiny, loading_guards):
    dataset = tiny('classification').dataset(classes=('dog', 'cat'))
    assert {(info['img_path'].split('/')[-2], info['gt_label']) for info in map(dataset.get_data_info, range(4))} == {
        ('cat', 1),
        ('dog', 0),
    }
    assert dataset.folder_to_idx == {'cat': 1, 'dog': 0}


def test_folder_without_its_class_is_refused_with_both_sides(tiny, loading_guards):
    data = tiny('classification')
    with pytest.raises(ValueError, match=r"folder 'dog' is none of the 2 classes cat, dogs, did you mean 'dogs'\?"):
        data.dataset(classes=('cat', 'dogs'))
    with pytest.raises(ValueError, match=r'has 2 folders, cat, dog, but there are 3 classes, a, b, c'):
        data.dataset(classes=('a', 'b', 'c'))


def test_folders_whose_names_are_no_class_are_paired_with_a_warning(tiny, loading_guards, told):
    tiny('classification').dataset(classes=('Katze', 'Hund'))
    assert any(level == 'WARNING' and 'In this order: cat is Katze, dog is Hund' in text for level, text in told)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_labels_in_a_list_that_contradict_the_folders_are_refused(tiny, split):
    data = tiny('classification')
    lists = {}
    for name, folder in (('train', 'training'), ('val', 'validation')):
        paths = [path.relative_to(data.root / name) for path in data.images(folder)]
        lists[name] = data.root / f'{name}.txt'
        lists[name].write_text(''.join(f'{path} {["cat", "dog"].index(path.parts[0])}\n' for path in paths))
    options = [f'{name}_dataloader.dataset.ann_file={file}' for name, file in lists.items()]
    options += [f'{name}_dataloader.dataset.classes=("cat","dog")' for name in lists]
    data.train(*options, validate=True)
    lines = lists[split].read_text().splitlines()
    swapped = ''.join(f'{line[:-1]}{1 - int(line[-1])}\n' for line in lines)
    lists[split].write_text(swapped)
    with pytest.raises(ValueError, match=r'images in the folder cat have the label 1, which is dog; cat is class 0'):
        data.train(*options, validate=True)


# ---- comparing


@pytest.mark.parametrize(
    ('first', 'second', 'verdict'),
    [
        (['cat', 'hot dog'], ('Cat', 'hot_dog'), 'same'),
        (['cat', 'dog'], ['dog', 'cat'], 'other'),
        (['cat', 'dog'], ['dog', 'wolf'], 'other'),
        (['cat', 'dog'], ['cat', 'wolf'], 'other'),
        (['cat', 'dog'], ['cat', 'dog', 'wolf'], 'other'),
        ([*'abcdefghij'], [*'abcdefghi', 'z'], 'renamed'),
        ([*'abcdefghijklmnopqrst'], [*'bacdefghijklmnopqrst'], 'other'),
        (['n01440764', 'n01443537'], ['tench', 'goldfish'], 'renamed'),
        (['n01440764', 'n01443537'], ['n01443537', 'n01440764'], 'other'),
        (['crane', 'jay', 'crane'], ['crane', 'jay', 'crane'], 'same'),
    ],
)
def test_lists_of_names_are_compared_by_name_and_place(first, second, verdict):
    assert compare_names(first, second) == verdict


def test_names_in_a_checkpoint_are_found():
    assert names_in_checkpoint(dict(meta=dict(dataset_meta=dict(classes=('a', 'b'))))) == ['a', 'b']
    assert names_in_checkpoint(dict(meta=dict(CLASSES=['a']))) == ['a']
    for without in (dict(), dict(meta=None), dict(meta=dict(dataset_meta=[dict(classes=('a',))])), [1]):
        assert names_in_checkpoint(without) is None


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_validation_data_with_other_names_are_refused_before_the_first_step(tiny, task):
    data = tiny(task)
    options = []
    if task == 'classification':
        (data.root / 'val/cat').rename(data.root / 'val/wolf')
    elif task == 'detection':
        data.change_annotations(lambda coco: coco['categories'][0].update(name='wolf'), 'validation')
        options = ['val_dataloader.dataset.metainfo.classes=("dog","wolf")']
    else:
        options = ['val_dataloader.dataset.metainfo.classes=("dog","cat")']
    other = 'dog, cat' if task == 'segmentation' else 'dog, wolf'
    with pytest.raises(ValueError, match=rf'(?s)are cat, dog \(2\); the classes of \S+ of .*are {other} \(2\)'):
        data.train(*options, validate=True)
    assert not list(data.work_dir.glob('*.pth'))


def test_parts_of_the_training_data_with_other_names_are_refused(tiny):
    data = tiny('detection')
    cfg = read_config(str(data.config)).train_dataloader.dataset.to_dict()
    first = {key: cfg[key] for key in ('data_root', 'ann_file', 'data_prefix', 'pipeline')}
    parts = [
        dict(first, type='CocoDataset', metainfo=dict(classes=names)) for names in (('cat', 'dog'), ('dog', 'cat'))
    ]
    text = f'train_dataloader["dataset"] = dict(_delete_=True, type="mmdet.ConcatDataset", datasets={parts!r})\n'
    data.config.write_text(data.config.read_text() + text)
    with pytest.raises(ValueError, match='Give all parts of the training data the same classes'):
        data.train()


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_a_checkpoint_is_not_tested_on_data_with_other_names(tiny, task):
    data = tiny(task)
    data.train()
    file = (data.work_dir / 'last_checkpoint').read_text()
    saved = torch.load(file, weights_only=False)
    assert tuple(saved['meta']['dataset_meta']['classes']) == ('cat', 'dog')
    saved['meta']['dataset_meta']['classes'] = ('dog', 'cat')
    torch.save(saved, file)
    with pytest.raises(ValueError, match=r'classes of checkpoint \S+ are dog, cat \(2\); .* are cat, dog'):
        data.test()
    with pytest.raises(ValueError, match=r'classes of checkpoint \S+ are dog, cat \(2\); .* are cat, dog'):
        data.train(args=['--resume', file])
    # fine-tuning may have other classes, and the guard can be left out
    data.train(f'load_from={file}')
    torch.save(saved, file)
    (data.work_dir / 'last_checkpoint').write_text(file)
    data.test('custom_hooks.0.leave_out=[class_names]')


# ---- the evaluator's file


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda coco: coco['categories'][1].update(name='wolf'),
            'has no category dog, which are classes of CocoDataset',
        ),
        (lambda coco: coco['images'][0].update(file_name='9.png'), 'is of other images .* image 0 is 9.png'),
        (lambda coco: coco['images'].pop(), 'is of other images .* image 1 is missing'),
    ],
)
def test_file_of_the_evaluator_must_belong_to_the_validation_data(tiny, change, message):
    data = tiny('detection')
    coco = json.loads((data.root / 'validation.json').read_text())
    change(coco)
    (data.root / 'other.json').write_text(json.dumps(coco))
    with pytest.raises(ValueError, match=message):
        data.train(f'val_evaluator.ann_file={data.root}/other.json', validate=True)


# ---- the right advice


def test_advice_about_the_number_of_classes_fits_the_cause(tiny, loading_guards):
    data = tiny('classification')
    (data.root / 'train/.ipynb_checkpoints').mkdir()
    with pytest.raises(ValueError, match=r"has the folder '\.ipynb_checkpoints', .* Remove it"):
        data.train()
    (data.root / 'train/.ipynb_checkpoints').rmdir()
    (data.root / 'val/bird').mkdir()
    cv2.imwrite(str(data.root / 'val/bird/0.png'), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError) as raised:
        data.train(validate=True)
    assert 'bird, cat, dog (3)' in str(raised.value) and 'num_classes' not in str(raised.value)

    data = tiny('detection')
    data.change_annotations(lambda coco: coco['categories'].append(dict(id=9, name='cat')))
    with pytest.raises(ValueError, match=r"several categories: 'cat' is the name of the ids 1, 9"):
        data.dataset()
    with pytest.raises(ValueError, match=r"metainfo\.classes is the text 'cat'.*\('cat',\)"):
        data.train('train_dataloader.dataset.metainfo.classes=cat')
