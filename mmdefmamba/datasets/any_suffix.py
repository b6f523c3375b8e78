"""A dataset of images of any format and their label maps, for mmseg."""

import logging
from pathlib import Path

from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset

from ..files import IMAGE_EXTENSIONS, shown


class AnySuffixSegDataset(BaseSegDataset):
    """mmseg's BaseSegDataset for images of any format: the label map of ``a/x.jpg`` or ``a/x.webp`` is ``a/x.png``.

    A config names it ``mmdefmamba.datasets.any_suffix.AnySuffixSegDataset``.

    Args:
        **kwargs: as for BaseSegDataset, which here takes no ``ann_file`` and no ``img_suffix``.

    Raises:
        ValueError: there is no image, an image has no label map, or two images have one label map.
    """

    def load_data_list(self):
        """Return one entry per image, sorted by path."""
        images, maps = (Path(self.data_prefix[name]) for name in ('img_path', 'seg_map_path'))
        paths = sorted(path for path in images.rglob('*') if path.suffix.lower() in IMAGE_EXTENSIONS)
        if not paths:
            raise ValueError(f'{shown(images)} holds no image: no file ends in {", ".join(IMAGE_EXTENSIONS)}')
        entries = {}
        for path in paths:
            label_map = (maps / path.relative_to(images)).with_suffix(self.seg_map_suffix)
            if not label_map.is_file():
                raise ValueError(f'image {shown(path)} has no label map: {shown(label_map)} does not exist')
            if label_map in entries:
                raise ValueError(
                    f'images {shown(entries[label_map]["img_path"])} and {shown(path)} have the same label map '
                    f'{shown(label_map)}'
                )
            entries[label_map] = dict(
                img_path=str(path),
                seg_map_path=str(label_map),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
        unused = sum(path not in entries for path in maps.rglob(f'*{self.seg_map_suffix}'))
        if unused:
            print_log(f'{maps}: {unused} label maps have no image in {shown(images)}', 'current', logging.WARNING)
        return list(entries.values())
