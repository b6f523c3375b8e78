"""The guard ``class_folders``: folders of images are numbered by their names, and files that are left out are counted.

Without it: mmpretrain numbers the folders alphabetically and takes ``classes`` as names for these numbers, so that
``classes=('dog', 'cat')`` swaps the names of the folders cat and dog. A folder such as ``.ipynb_checkpoints`` counts as
a class. Files with an extension that is not on the dataset's list vanish.
Seen in: mmpretrain 1.2.0.
Can go: when mmpretrain's CustomDataset numbers folders by the names of its classes, and counts what it leaves out.
"""

import logging
from collections import Counter
from pathlib import PurePath

from mmengine.fileio import get_file_backend

from ..files import IMAGE_EXTENSIONS, shown
from ..names import unknown_name
from .dataset_parts import counted, describe, listed, note, plain_name, set_source_names
from .loading import guarded

_NAME = 'class_folders'
# Folders that other programs make: hidden ones, __MACOSX, @eaDir, lost+found.
_FOREIGN = ('.', '__', '@', 'lost+found')


def install(module):
    """Guard mmpretrain's CustomDataset, which ``module`` defines."""
    guarded(module.CustomDataset, '_find_samples', _NAME, lambda find: _numbering_by_name(module))


def number_folders(folders, classes):
    """Return the number of each folder by its name among the classes, or None if no folder has the name of a class.

    Upper and lower case, spaces, ``_`` and ``-`` make no difference. Folders that are called 0, 1, 2 and so on have
    these numbers.

    Args:
        folders: names of all folders.
        classes: names of the classes, in their order.

    Raises:
        ValueError: some folders have the name of a class and others do not.
    """
    numbers = {plain_name(name): number for number, name in enumerate(classes)}
    if len(numbers) < len(classes):  # a name that occurs twice numbers nothing
        return None
    known = {folder: numbers[plain_name(folder)] for folder in folders if plain_name(folder) in numbers}
    others = [folder for folder in folders if folder not in known]
    if known and others:
        problem = f'the folder {others[0]!r} is none of the {len(classes)} classes {listed(classes)}'
        raise ValueError(
            unknown_name(
                problem, others[0], list(classes), f'The folders are {listed(folders)}. Give both the same names'
            )
        )
    if len(set(known.values())) < len(known):
        return None
    if not known and {*folders} == {str(number) for number in range(len(classes))}:
        return {folder: int(folder) for folder in folders}
    return known or None


def note_left_out(dataset, left_out, total, taken, remedy):
    """Note how many files of a dataset's folder are left out, by extension; as a warning if one may be an image.

    Args:
        dataset: the dataset.
        left_out: Counter of extensions; '' for files without one.
        total: number of files in the folder.
        taken: the extensions or suffix that the dataset takes, as text.
        remedy: what to do if a file should be taken.
    """
    if not left_out:
        return
    images = _images(left_out)
    note(
        dataset,
        f'{describe(dataset)}: {sum(left_out.values())} of {total} files are left out: {counted(left_out)}. '
        f'It takes {taken}' + (f'. {remedy}' if images else ''),
        logging.WARNING if images else logging.INFO,
    )


def extension(file):
    """Return the extension of a file in lower case, such as ``.webp``, or ``without extension``."""
    return PurePath(file).suffix.lower() or 'without extension'


def _numbering_by_name(module):
    def find(self):
        left_out = Counter()

        def takes(file):
            taken = self.is_valid_file(file)
            if not taken:
                left_out[extension(file)] += 1
            return taken

        numbers = _numbers(self, module) if self.with_label else None
        samples, empty = module.get_samples(self.img_prefix, numbers, is_valid_file=takes)
        if self.with_label:
            self.folder_to_idx = numbers
            backend = get_file_backend(self.img_prefix, enable_singleton=True)
            loose = backend.list_dir_or_file(self.img_prefix, list_dir=False, list_file=True, recursive=False)
            left_out.update(f'{extension(file)} outside of the folders' for file in loose)
        taken = ', '.join(sorted(self.extensions))
        total = len(samples) + sum(left_out.values())
        if not samples:
            held = counted(left_out) or 'no file'
            raise ValueError(f'{shown(self.img_prefix)} holds no image: no file ends in {taken}; it holds {held}')
        note_left_out(
            self, left_out, total, taken, f'Set extensions={(*sorted(self.extensions), *_images(left_out))} to take all'
        )
        if empty:
            note(self, f'{describe(self)}: no image in the folders {listed(sorted(empty))}', logging.WARNING)
        return samples

    return find


def _images(left_out):
    return sorted({kind.split()[0] for kind in left_out} & {*IMAGE_EXTENSIONS})


def _numbers(self, module):
    """Return the number of each folder, as the names of the classes say; set the names where there are none."""
    folders, numbers = module.find_folders(self.img_prefix)
    foreign = [folder for folder in folders if folder.startswith(_FOREIGN)]
    if foreign:
        raise ValueError(
            f'{shown(self.img_prefix)} has the folder {foreign[0]!r}, which mmpretrain would take as a class. Remove it'
        )
    set_source_names(self, folders)
    classes = self.CLASSES
    if classes is None:
        self._metainfo['classes'] = tuple(folders)
        return numbers
    by_name = number_folders(folders, classes)
    if by_name is None and len(folders) != len(classes):
        raise ValueError(
            f'{shown(self.img_prefix)} has {len(folders)} folders, {listed(folders)}, but there are {len(classes)} '
            f'classes, {listed(classes)}'
        )
    if by_name is None:
        if 'classes' not in type(self).METAINFO:  # ImageNet and others name their folders by other words on purpose
            pairs = listed(f'{shown(folder)} is {name}' for folder, name in zip(folders, classes, strict=True))
            note(self, f'{describe(self)}: no folder has the name of a class. In this order: {pairs}', logging.WARNING)
        return numbers
    absent = [name for number, name in enumerate(classes) if number not in by_name.values()]
    if absent:
        text = f'{describe(self)}: no folder for the classes {listed(absent)}'
        note(self, text, logging.INFO if self.test_mode else logging.WARNING)
    return by_name
