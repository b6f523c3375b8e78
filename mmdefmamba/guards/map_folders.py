"""The guard ``map_folders``: files that mmseg leaves out of a folder are counted, and an empty folder says why.

Without it: mmseg takes the files that end in ``img_suffix``, by default ``.jpg``. Images of another kind, and label
maps whose image has another name, vanish.
Seen in: mmsegmentation 1.2.2.
Can go: when mmseg's BaseSegDataset counts what it leaves out.
"""

import os.path
from collections import Counter

from mmengine import fileio

from .class_folders import extension, note_left_out
from .dataset_parts import counted, describe
from .loading import guarded

_NAME = 'map_folders'


def install(module):
    """Guard mmseg's BaseSegDataset, which ``module`` defines."""
    guarded(module.BaseSegDataset, 'load_data_list', _NAME, _counting)


def _counting(load_data_list):
    def load(self):
        data = load_data_list(self)
        listed = self.ann_file and not os.path.isdir(self.ann_file)
        if not listed:
            _count(self, data)
        return data

    return load


def _count(dataset, data):
    images, maps = dataset.data_prefix.get('img_path'), dataset.data_prefix.get('seg_map_path')
    if not images:
        return
    files = _files(images, dataset)
    others = [file for file in files if not file.endswith(dataset.img_suffix)]
    if maps == images:  # one folder for both
        others = [file for file in others if not file.endswith(dataset.seg_map_suffix)]
    kinds = Counter(map(extension, others))
    if not data:
        held = counted(kinds) or 'no file'
        raise ValueError(
            f'{describe(dataset)} holds no image: no file ends in img_suffix {dataset.img_suffix!r}; it holds {held}'
        )
    remedy = 'Set img_suffix if these are the images, or write all images with one suffix'
    note_left_out(dataset, kinds, len(data) + len(others), f'img_suffix {dataset.img_suffix!r}', remedy)
    if maps and os.path.isdir(maps):
        wanted = {os.path.relpath(info['seg_map_path'], maps) for info in data if 'seg_map_path' in info}
        found = [os.path.normpath(file) for file in _files(maps, dataset) if file.endswith(dataset.seg_map_suffix)]
        unused = [file for file in found if file not in wanted]
        kinds = Counter(f'{extension(file)} label maps without an image' for file in unused)
        note_left_out(dataset, kinds, len(wanted) + len(unused), 'the label map of each image', '')


def _files(folder, dataset):
    return list(fileio.list_dir_or_file(folder, list_dir=False, recursive=True, backend_args=dataset.backend_args))
