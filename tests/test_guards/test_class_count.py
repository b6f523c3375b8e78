from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmdefmamba.guards import ClassCountHook


def head(num_classes):
    module = nn.Identity()
    module.num_classes = num_classes
    return module


def a_runner(model, **loaders):
    return SimpleNamespace(model=model, _train_loop=None, _val_loop=None, _test_loop=None, **loaders)


def run(hook, when, model, classes):
    dataset = type('Cats', (), {'metainfo': {} if classes is None else {'classes': classes}})()
    loaders = {f'{name}_dataloader': SimpleNamespace(dataset=dataset) for name in ('train', 'val', 'test')}
    getattr(hook, when)(a_runner(model, **loaders))


@pytest.mark.parametrize('when', ['before_train', 'before_val_epoch', 'before_test_epoch'])
def test_head_with_wrong_number_of_classes_is_refused(when):
    model = nn.ModuleDict({'rpn_head': head(1), 'roi_head': nn.ModuleDict({'bbox_head': head(80)})})
    run(ClassCountHook(), when, model, ('cat',) * 80)
    message = r'roi_head.bbox_head.num_classes is 80, but Cats has 2 classes: cat, dog. ' + (
        'Set model.roi_head.bbox_head.num_classes=2' if when == 'before_train' else 'The (validation|test) data need'
    )
    with pytest.raises(ValueError, match=message):
        run(ClassCountHook(), when, model, ('cat', 'dog'))
    with pytest.raises(ValueError, match=r'head.num_classes is 1000'):
        run(ClassCountHook(), when, nn.ModuleDict({'head': head(1000)}), ('cat', 'dog'))


def test_datasets_without_class_names_are_not_checked():
    run(ClassCountHook(), 'before_train', nn.ModuleDict({'head': head(1000)}), None)
    run(ClassCountHook(), 'before_train', nn.ModuleDict({'head': nn.Identity()}), ('cat',))


def test_heads_of_panoptic_and_semantic_branches_are_accepted():
    """Panoptic FPN and HTC as mmdet has them: things, and the stuff classes of another annotation."""
    meta = dict(classes=('a',) * 133, thing_classes=('a',) * 80, stuff_classes=('a',) * 53)
    model = nn.ModuleDict(
        {
            'roi_head': nn.ModuleDict({'bbox_head': head(80), 'semantic_head': head(183)}),
            'panoptic_head': head(53),
            'rpn_head': nn.ModuleList([head(1)]),
        }
    )
    dataset = SimpleNamespace(metainfo=meta)
    ClassCountHook().before_train(a_runner(model, train_dataloader=SimpleNamespace(dataset=dataset)))
    model['decode_head'] = nn.ModuleList([head(5)])
    with pytest.raises(ValueError, match=r'decode_head\.0\.num_classes is 5'):
        ClassCountHook().before_train(a_runner(model, train_dataloader=SimpleNamespace(dataset=dataset)))


@pytest.mark.parametrize('metainfo', [None, [dict(classes=('a',)), dict(classes=('b',))]])
def test_datasets_of_several_parts_are_not_checked(metainfo):
    """mmdet's ConcatDataset has a list where its parts differ."""
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo))
    hook, model = ClassCountHook(), nn.ModuleDict({'head': head(7)})
    hook.before_train(a_runner(model, train_dataloader=loader))
    hook.before_train_iter(a_runner(model, train_dataloader=loader), 0, dict(data_samples=[{}]))


def test_labels_that_a_head_ignores_are_accepted():
    class Sample(dict):
        seg_map_path = 'a.png'

    batch = dict(data_samples=[Sample(gt_sem_seg=torch.tensor([[0, 1, 100]]))])
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=('a', 'b'))))
    model = nn.ModuleDict({'decode_head': head(2)})
    runner = a_runner(model, train_dataloader=loader)
    with pytest.raises(ValueError, match='has the label 100'):
        ClassCountHook().before_train_iter(runner, 0, batch)
    model['decode_head'].ignore_index = 100
    ClassCountHook().before_train_iter(runner, 0, batch)
