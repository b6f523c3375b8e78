"""Data of one's own: what is left out is counted, what is missing is completed, what cannot work stops at the start."""

import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import METRICS

from mmdefmamba.guards.coco_files import complete, mask_errors
from mmdefmamba.guards.label_values import check_labels, label_problem, unnamed_problem
from mmdefmamba.guards.metric_names import metric_names


def warnings_in(told):
    return [text for level, text in told if level == 'WARNING']


# ---- COCO files


@pytest.mark.parametrize('ids', [(0, 1), (5, 0), ('a', 'b')])
def test_perfect_predictions_score_one_whatever_the_ids(tiny, loading_guards, ids):
    data = tiny('detection')

    def change(coco):
        for annotation, number in zip(coco['annotations'], ids, strict=True):
            annotation['id'] = number

    data.change_annotations(change, 'validation')
    scores = data.perfect_scores(data.dataset('val'), metric=['bbox', 'segm'])
    assert (scores['coco/bbox_mAP'], scores['coco/segm_mAP']) == (1, 1)


def test_missing_iscrowd_and_area_are_completed(tiny, loading_guards, told):
    data = tiny('detection')

    def change(coco):
        for annotation in coco['annotations']:
            del annotation['iscrowd'], annotation['area']

    data.change_annotations(change, 'validation')
    scores = data.perfect_scores(data.dataset('val'), metric=['bbox', 'segm', 'proposal_fast'])
    assert (scores['coco/bbox_mAP'], scores['coco/segm_mAP'], scores['coco/AR@100']) == (1, 1, 1)
    assert 'iscrowd is missing in 2 annotations' in warnings_in(told)[0]


def test_missing_area_is_that_of_the_outline_or_the_box():
    box = dict(id=1, iscrowd=0, bbox=[1, 2, 10, 4])
    triangle = dict(box, id=2, segmentation=[[0, 0, 10, 0, 0, 4], [0, 0, 2, 0, 2, 2, 0, 2]])
    given = dict(box, id=3, area=7)
    content = dict(annotations=[box, triangle, given])
    complete(content)
    assert [each['area'] for each in content['annotations']] == [40, 20 + 4, 7]
    assert complete(content) == []  # a whole file is not changed
    assert [each['id'] for each in content['annotations']] == [1, 2, 3]


def test_ids_that_are_not_unique_are_not_numbered_anew():
    content = dict(annotations=[dict(id=0, iscrowd=0, area=1), dict(id=0, iscrowd=0, area=1)])
    assert complete(content) == []


@pytest.mark.parametrize(
    ('mask', 'evaluated', 'trained'),
    [
        ([1, 2, 3, 4, 5, 6], 'flat list of 6 numbers', 'flat list of 6 numbers'),
        ([[1, 2]], 'an outline has 1 points', ''),
        ([[1, 2, 3, 4]], 'an outline has 2 points', ''),
        ([[1, 2, 3, 4, 5]], 'an outline has 5 numbers', 'an outline has 5 numbers'),
        ([], 'it has no segmentation', ''),
        (None, 'it has no segmentation', ''),
        (dict(size=[4, 4]), "its segmentation has ['size']", "its segmentation has ['size']"),
        (dict(size=[4, 4], counts='abc'), '', ''),
        ([[1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1, 2, 2]], '', ''),
    ],
)
def test_masks_that_cannot_be_read_are_named(mask, evaluated, trained):
    for expected, errors in (
        (evaluated, mask_errors([dict(id=7, segmentation=mask)], evaluated=True)),
        (trained, mask_errors([dict(id=7, segmentation=mask)], evaluated=False)),
    ):
        assert len(errors) == bool(expected)
        assert not expected or (expected in errors[0] and 'annotation 7' in errors[0])


@pytest.mark.parametrize('mask', [[[3, 4]], [[3, 4, 9, 9]], []])
def test_masks_of_the_validation_file_are_checked_before_the_first_step(tiny, mask):
    data = tiny('detection')
    data.change_annotations(lambda coco: coco['annotations'][1].update(segmentation=mask), 'validation')
    with pytest.raises(ValueError, match=r'metric segm cannot read 1 masks of its ann_file\. annotation 2: '):
        data.train(validate=True)
    assert not list(data.work_dir.glob('*.pth'))


def test_annotations_that_are_left_out_are_counted_with_the_reason(tiny, loading_guards, told):
    data = tiny('detection')

    def spoil(coco):
        crowd, unknown, other, kept = coco['annotations']
        crowd['iscrowd'] = 1
        unknown['category_id'] = 77
        other['image_id'] = '2'
        coco['annotations'] += [dict(kept, id=10, bbox=[200, 5, 10, 10]), dict(kept, id=11, area=0)]

    data.change_annotations(spoil)
    data.dataset()
    text = next(text for _, text in told if 'annotations are objects to learn' in text)
    assert '1 of 6 annotations are objects to learn' in text
    reasons = ('iscrowd', 'unknown category 77', "image_id that no image has (such as '2')", 'outside', 'area of 0')
    assert [text.count(reason) for reason in reasons] == [1] * 5
    assert any('no object of the classes cat' in text for text in warnings_in(told))


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (dict(iscrowd=1), '4 marked as a crowd'),
        (dict(image_id='1'), "4 with an image_id that no image has .such as '1'."),
        (dict(category_id='1'), "4 of the unknown category '1'"),
        (dict(ignore=1), '4 with ignore set'),
    ],
)
def test_data_without_a_usable_annotation_is_refused_with_counts(tiny, change, reason):
    data = tiny('detection')
    data.change_annotations(lambda coco: [each.update(change) for each in coco['annotations']])
    with pytest.raises(ValueError, match=rf'0 of 4 annotations are objects to learn\. Left out: {reason}'):
        data.train()


def test_two_images_with_one_id_are_refused(tiny):
    data = tiny('detection')
    data.change_annotations(lambda coco: coco['images'][1].update(id=0))
    with pytest.raises(ValueError, match=r'two images have the id 0, 0\.png and 1\.png'):
        data.train()


def test_two_categories_with_one_id_are_refused(tiny):
    data = tiny('detection')
    data.change_annotations(lambda coco: coco['categories'][1].update(id=coco['categories'][0]['id']))
    with pytest.raises(
        ValueError, match=r"training\.json: two categories have the id \d+, 'cat' and 'dog'\. Give each"
    ):
        data.train()
    assert not list(data.work_dir.glob('*.pth'))


# ---- files that are left out


def test_files_that_are_left_out_are_counted_by_extension(tiny, loading_guards, told):
    data = tiny('classification')
    first = data.images()[0]
    for number in range(3):
        cv2.imwrite(str(first.with_name(f'{number}.webp')), cv2.imread(str(first)))
    shutil.copy(first, data.root / 'train/loose.png')
    (first.parent / 'notes').write_text('')
    dataset = data.dataset()
    assert len(dataset) == 4
    (text,) = warnings_in(told)
    assert '5 of 9 files are left out: 3 .webp, 1 .png outside of the folders, 1 without extension' in text
    extensions = eval(text.partition('Set extensions=')[2].partition(' to take all')[0])
    assert len(data.dataset(extensions=extensions)) == 7


def test_files_that_mmseg_leaves_out_are_counted(tiny, loading_guards, told):
    data = tiny('segmentation')
    first = data.images()[0]
    shutil.copy(first, first.with_suffix('.jpg'))
    shutil.copy(data.map_of(first), data.map_of(first).with_name('old.png'))
    shutil.copy(data.map_of(first), data.map_of(first).with_name('old_color.txt'))
    assert len(data.dataset()) == 4
    images, maps = warnings_in(told)
    assert "1 of 5 files are left out: 1 .jpg. It takes img_suffix '.png'" in images
    assert '1 of 5 files are left out: 1 .png label maps without an image' in maps


@pytest.mark.parametrize('task', ['classification', 'segmentation'])
def test_a_folder_without_an_image_says_what_it_holds(tiny, loading_guards, task):
    data = tiny(task)
    for image in data.images():
        image.rename(image.with_suffix('.gif'))
    with pytest.raises(ValueError, match=r"holds no image: no file ends in .*\.png'?.*; it holds 4 \.gif"):
        data.dataset()


def test_images_that_the_filter_leaves_out_are_counted(tiny, loading_guards, told):
    data = tiny('detection')
    data.change_annotations(lambda coco: coco['images'][0].update(height=19))
    assert len(data.dataset(filter_cfg=dict(min_size=20))) == 3
    assert any("1 of 4 images are left out by filter_cfg {'min_size': 20}" in text for _, text in told)


# ---- label maps


def rewrite(data, change, split='training'):
    for image in data.images(split):
        path = str(data.map_of(image))
        cv2.imwrite(path, change(cv2.imread(path, cv2.IMREAD_GRAYSCALE)))


@pytest.mark.parametrize('split', ['training', 'validation'])
def test_label_maps_of_0_and_255_are_refused(tiny, split):
    data = tiny('segmentation')
    rewrite(data, lambda labels: labels * 255, split)
    with pytest.raises(ValueError, match=r"no class but 'cat' occurs in .* 37\.5 % .* label 255.*'dog', write 1"):
        data.train(validate=True)


@pytest.mark.parametrize(
    ('name', 'options', 'remedy'),
    [
        ('ground', {}, 'If it is meant as a second class, write 1 instead, and name both classes'),
        ('shape', dict(reduce_zero_label=True), 'reduce_zero_label=True makes the label 0 an ignored one'),
    ],
)
def test_one_class_beside_ignored_pixels_is_refused(tiny, loading_guards, name, options, remedy):
    data = tiny('segmentation')
    if not options:
        rewrite(data, lambda labels: labels * 255)
    path = str(data.map_of(data.images()[0]))  # the first map has no ignored pixel
    cv2.imwrite(path, np.full_like(cv2.imread(path, cv2.IMREAD_GRAYSCALE), 1 if options else 0))
    dataset = data.dataset(metainfo=dict(classes=(name,)), **options)
    # three of four maps have a box of 37.5 % and ground of 62.5 %
    share = '46.9' if options else '28.1'
    with pytest.raises(ValueError, match=rf"no class but '{name}' occurs in .* {share} % .* label 255.*{remedy}"):
        check_labels(dataset, torch.nn.Identity())


def test_legal_uses_of_255_are_not_disturbed(tiny, told):
    """A border of 255, and a class that one map alone has."""
    data = tiny('segmentation')

    def border(labels):
        labels[:3] = 255
        return labels

    rewrite(data, border)
    for image in data.images()[1:]:
        path = str(data.map_of(image))
        labels = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(path, np.where(labels == 1, 255, labels))
    data.train()
    assert not [text for text in warnings_in(told) if '255' in text]


def counts_of(**pixels):
    from collections import Counter

    from mmdefmamba.guards.label_values import LabelCounts

    pixels = {int(name[1:]): number for name, number in pixels.items()}
    return LabelCounts(10, Counter(pixels), Counter(pixels))


@pytest.mark.parametrize(
    ('classes', 'counts', 'start'),
    [
        ('ab', dict(_0=60, _255=40), "no class but 'a' occurs"),
        ('ab', dict(_0=100), ''),
        ('ab', dict(_0=10000, _255=40), ''),
        ('abc', dict(_0=50, _1=10, _255=40), 'The classes c do not occur'),
        ('abc', dict(_0=50, _1=10, _2=1, _255=40), ''),
        (range(150), dict(_0=50, _1=10, _255=40), ''),
        (range(150), dict(_0=50, _255=40), 'no class but 0 occurs'),
        ('ab', dict(_255=40), "no class but 'an ignored one' occurs"),
    ],
)
def test_a_class_that_never_occurs_while_255_is_frequent_is_named(classes, counts, start):
    problem = label_problem([0] * 10, list(classes), counts_of(**counts), {255})
    assert problem.startswith(start) and bool(problem) == bool(start)


def test_labels_without_a_name_are_named():
    counts = counts_of(_0=60, _2=5, _7=1, _255=40)
    text = unnamed_problem([0] * 10, list('ab'), counts, {255})
    assert 'list has 2 classes, labels from 0 to 1, but' in text and '2 in 5, 7 in 1 maps' in text
    assert text.endswith('Give the classes 8 names in metainfo.classes of the dataset, or correct the labels')
    assert unnamed_problem([0] * 10, list('abcdefgh'), counts, {255}) == ''


# ---- names of scores

CAT_AND_DOG = dict(classes=('cat', 'dog'), palette=[[0, 0, 0], [9, 9, 9]])


def score_of(metric):
    """Return the scores that a metric gives for one perfect prediction."""
    kind = type(metric).__name__
    if kind == 'IoUMetric':
        maps = dict(data=torch.tensor([[[0, 1]]]))
        sample = dict(pred_sem_seg=maps, gt_sem_seg=maps)
    elif kind == 'VOCMetric':
        box = dict(bboxes=torch.tensor([[1.0, 1, 9, 9]]), labels=torch.tensor([1]), scores=torch.ones(1))
        none = dict(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        sample = dict(gt_instances=box, ignored_instances=none, pred_instances=box)
    else:
        label = torch.tensor([0, 1]) if kind in ('MultiLabelMetric', 'AveragePrecision') else torch.tensor([1])
        scores = torch.tensor([0.0, 1.0])
        sample = dict(gt_label=label, pred_score=scores, gt_score=scores, pred_label=label, num_classes=2)
    metric.process({}, [sample])
    return metric.evaluate(1)


@pytest.mark.parametrize(
    ('scope', 'metric'),
    [
        ('mmpretrain', dict(type='Accuracy')),
        ('mmpretrain', dict(type='Accuracy', topk=(1, 2), thrs=(0.0, None, 0.5), prefix='mine')),
        ('mmpretrain', dict(type='SingleLabelMetric')),
        ('mmpretrain', dict(type='SingleLabelMetric', items=('precision', 'support'), average=None)),
        ('mmpretrain', dict(type='SingleLabelMetric', average='micro', thrs=(0.1, 0.5))),
        ('mmpretrain', dict(type='MultiLabelMetric')),
        ('mmpretrain', dict(type='MultiLabelMetric', thr=0.3, average=None)),
        ('mmpretrain', dict(type='MultiLabelMetric', topk=1, average='micro')),
        ('mmpretrain', dict(type='AveragePrecision')),
        ('mmpretrain', dict(type='AveragePrecision', average=None)),
        ('mmseg', dict(type='IoUMetric', iou_metrics=['mIoU'])),
        ('mmseg', dict(type='IoUMetric', iou_metrics=['mDice', 'mFscore'])),
        ('mmdet', dict(type='VOCMetric')),
        ('mmdet', dict(type='VOCMetric', iou_thrs=[0.5, 0.75])),
    ],
)
def test_names_of_scores_are_those_that_the_metric_gives(scope, metric):
    import importlib

    importlib.import_module(f'{scope}.evaluation')
    built = METRICS.build(dict(metric, type=f'{scope}.{metric["type"]}'))
    built.dataset_meta = CAT_AND_DOG
    assert metric_names(built) == set(score_of(built))


@pytest.mark.parametrize('options', [dict(), dict(classwise=True), dict(metric_items=['mAP', 'AR@100'])])
def test_names_of_coco_scores_are_those_that_the_metric_gives(tiny, loading_guards, options):
    data = tiny('detection')
    kinds = ['bbox', 'segm', 'proposal', 'proposal_fast'] if 'metric_items' not in options else ['bbox', 'segm']
    dataset = data.dataset('val')
    built = METRICS.build(dict(type='CocoMetric', ann_file=str(data.root / 'validation.json'), metric=kinds, **options))
    built.dataset_meta = dataset.metainfo
    assert metric_names(built) == set(data.perfect_scores(dataset, metric=kinds, **options))


def test_a_metric_of_the_user_is_not_checked():
    class Accuracy:
        prefix = None

    assert metric_names(Accuracy()) is None


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (
            'default_hooks.checkpoint.save_best=mIoUs',
            r"save_best: the evaluator gives no 'mIoUs', did you mean 'mIoU'\?",
        ),
        ('default_hooks.stop.type=EarlyStoppingHook', r"EarlyStoppingHook\.monitor: the evaluator gives no 'acc'"),
        ('param_scheduler.0.type=ReduceOnPlateauLR', r"ReduceOnPlateauLR\.monitor: the evaluator gives no 'loss'"),
    ],
)
def test_a_score_that_the_evaluator_does_not_give_is_refused_at_the_start(tiny, option, message):
    more = ['default_hooks.stop.monitor=acc'] if 'stop' in option else []
    more += ['param_scheduler.0.by_epoch=True', 'param_scheduler.0.factor=0.5'] if 'scheduler' in option else []
    data = tiny('segmentation')
    with pytest.raises(ValueError, match=message):
        data.train(option, *more, validate=True)
    assert not list(data.work_dir.glob('*.pth'))


# ---- batches and checkpoint files


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('split', ['train', 'val'])
def test_images_of_different_sizes_in_a_batch_are_explained(tiny, split, workers):
    data = tiny('classification')
    for image in data.images('training' if split == 'train' else 'validation')[1:]:
        cv2.imwrite(str(image), np.zeros((50, 60, 3), np.uint8))
    text = data.config.read_text()
    text += f"{split}_dataloader['dataset']['pipeline'] = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]\n"
    data.config.write_text(text)
    options = [f'{split}_dataloader.num_workers={workers}', f'{split}_dataloader.collate_fn.type=default_collate']
    options += ['train_dataloader.sampler.shuffle=False']
    crop = 'RandomResizedCrop' if split == 'train' else 'Resize and CenterCrop'
    message = rf'image 0 has 3 x 40 x 32, image 1 has 3 x 50 x 60 .* pipeline of {split}_dataloader\.dataset .* {crop}'
    with pytest.raises(ValueError, match=message):
        data.train(*options, validate=True)


@pytest.mark.parametrize(
    ('options', 'key'),
    [
        (['model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint=no.pth'], 'model.backbone'),
        (['load_from=no.pth'], 'load_from'),
        (['load_from=released://no.pth'], 'load_from'),
    ],
)
def test_missing_checkpoint_is_reported_before_the_model_is_built(tiny, options, key, monkeypatch):
    from mmdefmamba.cli import run_options

    monkeypatch.setattr(run_options, 'build_runner', lambda cfg: pytest.fail('it is built'))
    with pytest.raises(FileNotFoundError, match=rf'{key}\S*: the checkpoint no\.pth does not exist'):
        tiny('classification').train(*options)


def test_checkpoints_that_mmengine_looks_up_are_left_to_it():
    from mmengine.config import Config

    from mmdefmamba.guards.config_files import check_checkpoint_files

    names = ['torchvision://resnet50', 'https://example.org/a.pth', None]
    heads = [dict(init_cfg=dict(type='Pretrained', checkpoint=name)) for name in names]
    check_checkpoint_files(Config(dict(load_from='open-mmlab://a', model=dict(heads=heads))))
    with pytest.raises(FileNotFoundError, match=r'model\.heads\.0\.init_cfg\.checkpoint'):
        check_checkpoint_files(Config(dict(model=dict(heads=[dict(init_cfg=dict(type='Pretrained', checkpoint='a'))]))))


def test_a_config_that_cannot_be_read_ends_a_tool_without_a_traceback(tmp_path, capsys):
    from mmdefmamba.cli import test, train
    from mmdefmamba.cli.program import run

    config = tmp_path / 'config.py'
    config.write_text("_base_ = 'nowhere.py'\n")
    for main, args in ((train.main, [str(config)]), (test.main, [str(config), 'a.pth'])):
        with pytest.raises(SystemExit) as ended:
            run(lambda main=main, args=args: main(args))
        assert ended.value.code == 2
        errors = capsys.readouterr().err
        assert errors.startswith(f'error: config {tmp_path}/nowhere.py (a base of {config}; paths in _base_ start from')
        assert errors.count('\n') == 1
    with pytest.raises(ValueError, match='of another kind'):

        def fail():
            raise ValueError('of another kind')

        run(fail)
    with pytest.raises(SystemExit) as ended:
        run(lambda: 1)
    assert ended.value.code == 1


def test_models_that_are_scored_on_other_classes_are_not_compared():
    """Retrieval, tracking and models whose classes are a text, as the libraries' own configs have them."""
    from torch import nn

    from mmdefmamba.guards.class_names import TEXT_HEADS, has_free_classes

    def module(name, *parts):
        made = type(name, (nn.Module,), {})()
        for number, part in enumerate(parts):
            made.add_module(str(number), part)
        return made

    for name in TEXT_HEADS:
        assert has_free_classes(module('Detector', module(name)))
    for name in ('BaseRetriever', 'BaseMOTModel', 'MultimodalEncoderDecoder'):
        base = type(name, (nn.Module,), {})
        assert has_free_classes(type('Own', (base,), {})())
    assert not has_free_classes(module('Detector', module('Shared2FCBBoxHead')))
