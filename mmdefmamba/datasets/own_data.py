"""The classes of a user's own data, read from the data, for configs: ``classes = folder_classes('data/mine')``.

Each function reads the training and the validation data, and refuses data that are missing, empty, or have different
classes. The names are in the order of their numbers.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..files import IMAGE_EXTENSIONS, existing_file, shown
from ..names import unknown_name

SPLITS = ('train', 'val')
IGNORED = 255  # the label of pixels without a class


def folder_classes(data_root, splits=SPLITS):
    """Return the names of the folders of the training data, sorted: ``data_root/train/cat/*.jpg``.

    Args:
        data_root: folder of the splits.
        splits: names of the training and the validation folder.

    Returns:
        A tuple of names; the number of a class is its place.

    Raises:
        FileNotFoundError: a split has no folder.
        ValueError: a split has no folder with an image in it, or the validation data have a class of their own.
    """
    found = {split: _class_folders(_folder(Path(data_root, split))) for split in splits}
    train, *others = splits
    for split in others:
        _check_same(found[train], found[split], Path(data_root, train), Path(data_root, split))
    return tuple(found[train])


def coco_classes(*files):
    """Return the names of the categories of COCO files, in the order of their ids.

    Args:
        *files: the annotation file of the training data, then that of the validation data.

    Returns:
        A tuple of names; the number of a class is its place.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file is not JSON or not in COCO's format, it has no category, image or annotation, or a category
            of the validation data is not one of the training data.
    """
    found = [_categories(file) for file in files]
    for file, names in zip(files[1:], found[1:], strict=True):
        _check_same(found[0], names, files[0], file)
    return tuple(found[0])


def coco_has_masks(file):
    """Return whether each annotation of a COCO file has an outline or a mask, which Mask R-CNN learns from."""
    return all(annotation.get('segmentation') for annotation in _read_coco(file)['annotations'])


def map_classes(data_root, splits=SPLITS):
    """Return the names of the classes of label maps: the lines of ``classes.txt``, or else the numbers in the maps.

    Images are in ``data_root/images/train``, label maps of the same names in ``data_root/labels/train``: PNG files with
    the number of the class of each pixel, from 0; 255 is ignored. ``data_root/classes.txt`` has one name per line, that
    of class 0 first. Without it all maps are read once, and the names are ``'0'``, ``'1'`` and so on.

    Args:
        data_root: folder of images and labels.
        splits: names of the training and the validation folders.

    Returns:
        A tuple of names; the number of a class is its place.

    Raises:
        FileNotFoundError: a folder does not exist.
        ValueError: a folder is empty, ``classes.txt`` has no line or a name twice, no map has a class, or there is one
            class only: a network learns nothing from it.
    """
    maps = [
        path for split in splits for path in _files(_folder(Path(data_root, 'labels', split)), ('.png',), 'label map')
    ]
    for split in splits:
        _files(_folder(Path(data_root, 'images', split)), IMAGE_EXTENSIONS, 'image')
    listed = Path(data_root, 'classes.txt')
    if listed.is_file():
        names = [line.strip() for line in listed.read_text('utf-8').splitlines() if line.strip()]
        if not names or len(set(names)) < len(names):
            raise ValueError(f'{listed} must have one line per class, each name once, got {names}')
        if len(names) == 1:
            raise ValueError(
                f'{listed} names one class, {names[0]!r}, from which nothing can be learned. The background is a class '
                f'too: name it in the first line, and write 0 for it and 1 for {names[0]!r} in the label maps'
            )
        return tuple(names)
    highest = max(_highest_label(path) for path in maps)
    if highest < 0:
        raise ValueError(
            f'no label map in {shown(data_root)}/labels has a class: all pixels are {IGNORED}, which is ignored'
        )
    if highest == 0:
        raise ValueError(
            f'the label maps in {shown(data_root)}/labels have no class but 0, so there is nothing to learn. '
            f'{IGNORED} is '
            f'ignored: it is neither learned nor scored. If {IGNORED} is meant as a class, write 1 instead'
        )
    return tuple(str(label) for label in range(highest + 1))


def checkpoint_or_none(path):
    """Return the path of a checkpoint that exists, or None for None and ''.

    Raises:
        FileNotFoundError: there is no such file. A URL is not looked up.
    """
    if not path:
        return None
    return path if '://' in str(path) else str(existing_file(path, 'checkpoint'))


def _folder(path):
    if not path.is_dir():
        raise FileNotFoundError(f'data folder {shown(path)} does not exist, seen from {shown(Path.cwd())}')
    return path


def _files(folder, extensions, what):
    found = sorted(path for path in folder.rglob('*') if path.suffix.lower() in extensions and path.is_file())
    if not found:
        raise ValueError(f'{shown(folder)} has no {what}: no file ends in {", ".join(extensions)}')
    return found


def _class_folders(folder):
    # hidden folders, such as .ipynb_checkpoints, are no classes: the guard class_folders stops at them
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith('.'))
    if not names:
        raise ValueError(f'{shown(folder)} has no folder: it needs one folder of images per class')
    for name in names:
        _files(folder / name, IMAGE_EXTENSIONS, 'image')
    return names


def _read_coco(file):
    path = existing_file(file, 'annotation file')
    try:
        content = json.loads(path.read_text('utf-8'))
    except ValueError as error:
        raise ValueError(f'{shown(path)} is not JSON: {error}') from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(content, dict) or not content.get(key):
            raise ValueError(
                f"{shown(path)} has no {key}: a file in COCO's format has lists of images, annotations, categories"
            )
    return content


def _categories(file):
    return [str(category['name']) for category in sorted(_read_coco(file)['categories'], key=lambda one: one['id'])]


def _check_same(trained, other, train, place):
    strange = [name for name in other if name not in trained]
    if strange:
        problem = f'{place} has the class {strange[0]!r}, which {train} does not have'
        remedy = f'The classes there are {", ".join(trained)}. Give both the same classes'
        raise ValueError(unknown_name(problem, strange[0], trained, remedy))


def _highest_label(path):
    with Image.open(path) as image:
        if image.mode not in ('L', 'P', '1'):
            raise ValueError(
                f'{shown(path)} has the mode {image.mode}: a label map has one channel of 8 bits with the number of '
                'the class '
                'of each pixel'
            )
        labels = np.asarray(image)
    known = labels[labels != IGNORED]
    return int(known.max()) if known.size else -1
