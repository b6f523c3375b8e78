from types import SimpleNamespace

import pytest
from torch import nn

from mmdefmamba.guards import ClassCountHook


def head(num_classes):
    module = nn.Identity()
    module.num_classes = num_classes
    return module


def run(hook, when, model, classes):
    dataset = type('Cats', (), {'metainfo': {} if classes is None else {'classes': classes}})()
    loaders = {f'{name}_dataloader': SimpleNamespace(dataset=dataset) for name in ('train', 'val', 'test')}
    getattr(hook, when)(SimpleNamespace(model=model, **loaders))


@pytest.mark.parametrize('when', ['before_train', 'before_val_epoch', 'before_test_epoch'])
def test_head_with_wrong_number_of_classes_is_refused(when):
    model = nn.ModuleDict({'rpn_head': head(1), 'roi_head': nn.ModuleDict({'bbox_head': head(80)})})
    run(ClassCountHook(), when, model, ('cat',) * 80)
    message = (
        r'roi_head.bbox_head.num_classes is 80, but Cats has 2 classes. Set model.roi_head.bbox_head.num_classes=2'
    )
    with pytest.raises(ValueError, match=message):
        run(ClassCountHook(), when, model, ('cat', 'dog'))
    with pytest.raises(ValueError, match=r'head.num_classes is 1000'):
        run(ClassCountHook(), when, nn.ModuleDict({'head': head(1000)}), ('cat', 'dog'))


def test_datasets_without_class_names_are_not_checked():
    run(ClassCountHook(), 'before_train', nn.ModuleDict({'head': head(1000)}), None)
    run(ClassCountHook(), 'before_train', nn.ModuleDict({'head': nn.Identity()}), ('cat',))
