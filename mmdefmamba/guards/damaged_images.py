"""Damaged images that mmcv would train on, or die of without a name.

Defect: with OpenCV 4 mmcv reads a JPEG that was cut short as an image whose rest is black, without an error. Where a
file does not decode at all, ``mmcv.imfrombytes`` returns ``None``: a label map then ends in an AttributeError that
names no file, and ``LoadImageFromFile(ignore_empty=True)``, mmcv's switch to leave out what cannot
be read, does not.
Seen in: mmcv-lite 2.1.0, with OpenCV 4.10 and 5.0 (which decodes no cut JPEG).
Can go: when ``mmcv.imfrombytes`` raises for such files.

What is damaged in its middle and still decodes is not found.
"""

import functools
import logging
from collections import Counter

import mmcv
from mmcv.transforms import LoadImageFromFile
from mmengine.logging import print_log

# Last bytes of a whole file, by first bytes. Some writers append more, so they are looked for near the end.
_ENDS = {b'\xff\xd8\xff': ('JPEG', b'\xff\xd9'), b'\x89PNG\r\n\x1a\n': ('PNG', b'IEND\xaeB`\x82')}
_NEAR_THE_END = 4096

# Decoders of mmcv that need a package of their own: the name that mmcv has for it, and what to install.
_DECODERS = {'tifffile': ('tifffile', 'tifffile'), 'turbojpeg': ('TurboJPEG', 'PyTurboJPEG')}

_skipped = Counter()


def apply():
    """Have mmcv refuse damaged images by name, and skip them where ``ignore_empty`` says so.

    Returns:
        What was done and why, one line; None where it was done already.
    """
    if hasattr(mmcv.imfrombytes, '__wrapped__'):
        return None
    mmcv.imfrombytes = _refusing_damage(mmcv.imfrombytes)
    LoadImageFromFile.transform = _naming_the_file(LoadImageFromFile.transform)
    return 'mmcv refuses images that were cut short: it would decode JPEGs in part and PNGs to None'


def image_damage(content):
    """What is wrong with the bytes of an image file as far as can be told without decoding, or None."""
    if not content:
        return 'the file is empty'
    for start, (kind, end) in _ENDS.items():
        if content[: len(start)] == start and end not in content[-_NEAR_THE_END:]:
            return f'a {kind} of {len(content)} bytes whose end is missing'
    return None


def _refusing_damage(imfrombytes):
    @functools.wraps(imfrombytes)
    def decode(content, *args, **kwargs):
        damage = image_damage(bytes(content))
        image = None if damage else imfrombytes(content, *args, **kwargs)
        if image is None:
            raise OSError(damage or f'{len(content)} bytes that no decoder takes for an image')
        return image

    return decode


def _naming_the_file(transform):
    @functools.wraps(transform)
    def load(self, results):
        path = results['img_path']
        name, package = _DECODERS.get(self.imdecode_backend, (None, None))
        if name and getattr(mmcv.image.io, name) is None:
            raise ImportError(f'imdecode_backend={self.imdecode_backend!r} needs {package}: pip install {package}')
        try:
            loaded = transform(self, results)
        except OSError as error:
            raise type(error)(
                f'{path} could not be loaded: {error}. LoadImageFromFile(ignore_empty=True) in the training pipeline '
                'leaves such images out'
            ) from error
        if loaded is None:
            _skipped[path] += 1
            if _skipped[path] == 1:
                text = f'{path} could not be loaded and is left out, {len(_skipped)} so far in this process'
                print_log(text, 'current', logging.WARNING)
        return loaded

    return load
