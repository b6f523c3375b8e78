"""The guard ``coco_files``: a COCO file is read as it is meant, and what mmdet leaves out of it is counted.

Without it: mmdet numbers the classes in the order of the file's categories and names them in the order of
``metainfo.classes``. COCO's evaluation drops the annotation with the id 0, and fails after the first epoch where
``iscrowd`` is missing or an outline is not one. Annotations that belong to no image or no class vanish.
Seen in: mmdet 3.3.0, pycocotools 2.0.11.
Can go: when mmdet numbers classes by name, and checks and counts annotations.
"""

import logging
from collections import Counter
from numbers import Real

from mmengine.logging import print_log

from ..files import shown
from .dataset_parts import counted, describe, listed, note, set_source_names
from .loading import guarded

_NAME = 'coco_files'
_POINTS = 3  # an outline of fewer points has no area


def install(module):
    """Guard mmdet's COCO and CocoDataset; ``module`` is the one that defines the latter."""
    coco, dataset = module.COCO, module.CocoDataset
    guarded(coco, '__init__', _NAME, lambda init: _completing(init, coco))
    guarded(coco, 'get_cat_ids', _NAME, lambda get: _by_name(get, coco))
    guarded(dataset, 'load_data_list', _NAME, lambda load: _counting(load, dataset))
    guarded(dataset, 'filter_data', _NAME, _counting_images)


def complete(content):
    """Add what COCO's evaluation needs to the content of a COCO file, where the meaning is clear.

    A missing ``iscrowd`` becomes 0, a missing ``area`` that of the outlines or of the box. If an annotation has the id
    0, which COCO's evaluation drops, or one that is not an integer, all get new ids from 1.

    Args:
        content: the file as a dict; its annotations are changed.

    Returns:
        What was added, a list of texts.
    """
    annotations = [each for each in content.get('annotations') or () if isinstance(each, dict)]
    changes = []
    crowds = [each for each in annotations if 'iscrowd' not in each and 'segments_info' not in each]
    for annotation in crowds:
        annotation['iscrowd'] = 0
    if crowds:
        changes.append(f'iscrowd is missing in {len(crowds)} annotations and is taken as 0')
    areas = [each for each in annotations if 'area' not in each and _is_box(each.get('bbox'))]
    for annotation in areas:
        annotation['area'] = _area(annotation)
    if areas:
        changes.append(f'area is missing in {len(areas)} annotations and is computed from the outline or the box')
    ids = [each.get('id') for each in annotations]
    if any(type(each) is not int or each == 0 for each in ids) and len({str(each) for each in ids}) == len(ids):
        for number, annotation in enumerate(annotations, 1):
            annotation['id'] = number
        changes.append(
            'ids of annotations are 0 or no integers; they are numbered anew from 1, since COCO drops the id 0'
        )
    return changes


def mask_errors(annotations, evaluated):
    """Return which masks cannot be read, as texts with the id of the annotation.

    Args:
        annotations: of a COCO file.
        evaluated: whether COCO's evaluation uses the masks. It needs a mask of each object. mmdet's training leaves out
            objects whose outlines have fewer than three points.
    """
    errors = []
    for annotation in annotations:
        error = _mask_error(annotation.get('segmentation'), evaluated)
        if error:
            errors.append(f'annotation {annotation.get("id")}: {error}')
    return errors


def shorten(errors, limit=3):
    """Return errors as one text, with a count where there are more than ``limit``."""
    rest = f'; and {len(errors) - limit} more' if len(errors) > limit else ''
    return '; '.join(errors[:limit]) + rest


def reasons_left_out(content, category_ids):
    """Return why annotations of a COCO file are of no use for training, as mmdet's CocoDataset decides it.

    Args:
        content: the file as a dict.
        category_ids: of the classes of the dataset.

    Returns:
        A Counter: reason -> number of annotations.
    """
    images = {image['id']: image for image in content.get('images') or ()}
    names = {category['id']: category.get('name') for category in content.get('categories') or ()}
    kept, reasons = set(category_ids), Counter()
    for annotation in content.get('annotations') or ():
        reason = _reason(annotation, images.get(annotation['image_id']), names, kept)
        if reason:
            reasons[reason] += 1
    return reasons


def _reason(annotation, image, names, kept):
    if image is None:
        return f'with an image_id that no image has (such as {annotation["image_id"]!r})'
    if annotation.get('ignore', False):
        return 'with ignore set'
    left, top, width, height = annotation['bbox']
    inside = min(left + width, image['width']) - max(left, 0), min(top + height, image['height']) - max(top, 0)
    if not (max(0, inside[0]) * max(0, inside[1])):
        return 'with a box outside of the image or without area'
    if annotation['area'] <= 0 or width < 1 or height < 1:
        return 'with a box of less than one pixel or an area of 0'
    category = annotation['category_id']
    if category not in kept:
        name = names.get(category)
        return f'of {name!r}, which is no class of the dataset' if name else f'of the unknown category {category!r}'
    return 'marked as a crowd (iscrowd)' if annotation.get('iscrowd', False) else ''


def _completing(init, owner):
    def read(self, annotation_file=None):
        init(self, annotation_file)
        if type(self) is not owner or not isinstance(self.dataset, dict) or not self.dataset:
            return
        _check_images(self.dataset, annotation_file)
        _check_categories(self.dataset, annotation_file)
        changes = complete(self.dataset)
        if changes:
            self.createIndex()
            self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs
            print_log(f'{shown(annotation_file)}: {"; ".join(changes)}', 'current', logging.WARNING)

    return read


def _check_images(content, file):
    found = {}
    for image in content.get('images') or ():
        other = found.setdefault(image['id'], image)
        if other.get('file_name') != image.get('file_name'):
            raise ValueError(
                f'{shown(file)}: two images have the id {image["id"]!r}, {shown(other.get("file_name"))} and '
                f'{shown(image.get("file_name"))}. Give each image an id of its own'
            )


def _check_categories(content, file):
    found = {}
    for category in content.get('categories') or ():
        other = found.setdefault(category['id'], category)
        if other is not category:
            raise ValueError(
                f'{shown(file)}: two categories have the id {category["id"]!r}, {other.get("name")!r} and '
                f'{category.get("name")!r}. Give each category an id of its own, and its annotations that category_id'
            )


def _by_name(get_cat_ids, owner):
    def in_order(self, cat_names=(), sup_names=(), cat_ids=()):
        ids = get_cat_ids(self, cat_names, sup_names, cat_ids)
        if type(self) is not owner or isinstance(cat_names, str) or len(ids) < 2 or not cat_names:
            return ids
        names = {number: self.cats[number]['name'] for number in ids}
        twice = [name for name, times in Counter(names.values()).items() if times > 1]
        if twice:
            same = ', '.join(str(number) for number, name in names.items() if name == twice[0])
            raise ValueError(
                f'{len(twice)} names belong to several categories: {twice[0]!r} is the name of the ids {same}. '
                'Give each category a name of its own, or give their annotations one category_id'
            )
        place = {name: number for number, name in enumerate(cat_names)}
        ordered = sorted(ids, key=lambda number: place[names[number]])
        if ordered != list(ids):
            print_log(
                f'The categories of the file are {listed(names[number] for number in ids)}; the dataset calls its '
                f'classes {listed(cat_names)}. They are numbered by name, in the order of the dataset: '
                f'{listed(f"{i} {names[number]}" for i, number in enumerate(ordered))}. mmdet alone numbers them in '
                'the order of the file: a checkpoint that was trained without the guard coco_files has those numbers',
                'current',
                logging.WARNING,
            )
        return ordered

    return in_order


def _counting(load_data_list, owner):
    def load(self):
        read = []
        # mmdet drops the content of the file at the end of load_data_list
        self.COCOAPI = lambda *args: read.append(type(self).COCOAPI(*args)) or read[-1]
        try:
            data = load_data_list(self)
        finally:
            del self.COCOAPI
        if type(self).parse_data_info is owner.parse_data_info and read and isinstance(self.ann_file, str):
            set_source_names(self, (category['name'] for category in read[0].dataset['categories']))
            _report(self, data, read[0].dataset)
        return data

    return load


def _report(dataset, data, content):
    total = len(content.get('annotations') or ())
    used = [instance for info in data for instance in info['instances'] if not instance['ignore_flag']]
    if total > len(used):
        reasons = counted(reasons_left_out(content, dataset.cat_ids))
        text = f'{describe(dataset)}: {len(used)} of {total} annotations are objects to learn. Left out: {reasons}'
        if not used:
            raise ValueError(f'{text}. Without an object there is nothing to learn or to score: correct the file')
        note(dataset, text)
    names = dataset.metainfo['classes']
    seen = {instance['bbox_label'] for instance in used}
    if used and len(seen) < len(names) == len(dataset.cat_ids):
        absent = listed(name for number, name in enumerate(names) if number not in seen)
        note(dataset, f'{describe(dataset)}: no object of the classes {absent}', _level(dataset))
    if loads_masks(dataset):
        wanted = set(dataset.cat_ids)
        objects = [each for each in content['annotations'] if each.get('category_id') in wanted] if used else []
        errors = mask_errors(objects, evaluated=False)
        if errors:
            raise ValueError(f'{shown(dataset.ann_file)}: {len(errors)} masks cannot be read. {shorten(errors)}')


def _level(dataset):
    """Return how loud a note about a missing class is: training does not learn it, validation can do without it."""
    return logging.INFO if dataset.test_mode else logging.WARNING


def loads_masks(dataset):
    """Return whether the pipeline of a dataset loads the masks of objects."""
    return any(getattr(transform, 'with_mask', False) for transform in getattr(dataset.pipeline, 'transforms', ()))


def _counting_images(filter_data):
    def kept(self):
        before = len(self.data_list)
        data = filter_data(self)
        if len(data) < before:
            note(
                self,
                f'{describe(self)}: {before - len(data)} of {before} images are left out by filter_cfg '
                f'{dict(self.filter_cfg)}',
            )
        return data

    return kept


def _mask_error(mask, evaluated):
    if not mask:
        return 'it has no segmentation' if evaluated else ''
    if isinstance(mask, dict):
        return '' if {'size', 'counts'} <= set(mask) else f'its segmentation has {sorted(mask)}, not size and counts'
    if all(isinstance(each, Real) for each in mask):
        return (
            f'its segmentation is a flat list of {len(mask)} numbers. It must be a list of outlines: '
            '[[x1, y1, x2, y2, x3, y3, ...]]'
        )
    if not all(isinstance(each, (list, tuple)) for each in mask):
        return 'its segmentation is neither a list of outlines nor a run-length mask'
    odd = next((each for each in mask if len(each) % 2), None)
    if odd is not None:
        return f'an outline has {len(odd)} numbers. It must have pairs of x and y'
    short = [len(each) // 2 for each in mask if len(each) < 2 * _POINTS]
    if evaluated and short:
        return f'an outline has {short[0]} points. It must have {_POINTS} or more'
    return ''


def _is_box(box):
    return isinstance(box, (list, tuple)) and len(box) == 4 and all(isinstance(side, Real) for side in box)


def _area(annotation):
    mask = annotation.get('segmentation')
    if mask and isinstance(mask, list) and not _mask_error(mask, evaluated=True):
        return sum(_outline_area(outline) for outline in mask)
    return annotation['bbox'][2] * annotation['bbox'][3]


def _outline_area(outline):
    """Return the area of a polygon, [x1, y1, x2, y2, ...], by the shoelace formula."""
    xs, ys = outline[::2], outline[1::2]
    pairs = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    return abs(sum(x * next_y - next_x * y for x, y, next_x, next_y in pairs)) / 2
