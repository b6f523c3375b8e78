"""The guard ``damaged_images``: images that are damaged are reported with their file name.

Without it: with OpenCV 4 mmcv reads a JPEG that was cut short as an image whose rest is black, without an error. For a
file that does not decode at all ``mmcv.imfrombytes`` returns ``None``: a label map then ends in an AttributeError that
names no file, and ``LoadImageFromFile(ignore_empty=True)``, mmcv's switch to leave out what cannot be read, fails, too.
Seen in: mmcv-lite 2.1.0, with OpenCV 4.10 and 5.0 (which decodes no cut JPEG).
Can go: when ``mmcv.imfrombytes`` raises an error for such files.

The guard finds files whose end is missing. It does not find damage in the middle of a file that still decodes. It also
refuses images with more pixels than a limit, which a file of a few kilobytes can have.
"""

import functools
import logging
import re
from collections import Counter

import cv2
import mmcv
from mmengine.logging import print_log

from ..files import shorten, shown
from .image_size import check_pixels
from .loading import guarded, max_pixels

_NAME = 'damaged_images'
_JPEG, _PNG = b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n'
# A marker in compressed data: neither an escaped byte (ff 00) nor a restart marker (ff d0 to ff d7) nor a fill byte.
_MARKER = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')
_END = 0xD9
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}

# Decoders of mmcv that need a package of their own: the name that mmcv has for it, and the package to install.
_DECODERS = {'tifffile': ('tifffile', 'tifffile'), 'turbojpeg': ('TurboJPEG', 'PyTurboJPEG')}

_skipped = Counter()


def install(module):
    """Guard ``mmcv.imfrombytes`` and mmcv's LoadImageFromFile; ``module`` is the one that defines the latter."""
    guarded(mmcv, 'imfrombytes', _NAME, _refusing_damage)
    guarded(module.LoadImageFromFile, 'transform', _NAME, _naming_the_file)


def image_damage(content):
    """Return what is wrong with the bytes of an image file, or None if nothing is seen without decoding it."""
    if not content:
        return 'the file is empty'
    for kind, start, is_cut in (('JPEG', _JPEG, _is_cut_jpeg), ('PNG', _PNG, _is_cut_png)):
        if content.startswith(start) and is_cut(content):
            return f'a {kind} of {len(content)} bytes whose end is missing'
    return None


def decode(content, **options):
    """Decode the bytes of an image file with ``mmcv.imfrombytes``, guarded whether or not a run asks for it.

    Raises:
        OSError: the image is damaged.
    """
    return _refusing_damage(mmcv.imfrombytes)(content, **options)


def _is_cut_jpeg(content):
    """Follow the segments of a JPEG to its end marker; what comes after that, in photos of phones for example, is free.

    Segments are passed by their length, since a thumbnail inside of one has an end marker, too.
    """
    at = 2
    while True:
        marker = _MARKER.search(content, at)
        if marker is None:
            return True
        kind, at = content[marker.end() - 1], marker.end()
        if kind == _END:
            return False
        if kind not in _WITHOUT_LENGTH:
            # of a scan the header alone has a length; the search goes on in its compressed data
            at += int.from_bytes(content[at : at + 2], 'big')


def _is_cut_png(content):
    """Follow the chunks of a PNG to its last one; what comes after that is free."""
    at = len(_PNG)
    while at + 12 <= len(content):  # length, name, data, checksum
        if content[at + 4 : at + 8] == b'IEND':
            return False
        at += 12 + int.from_bytes(content[at : at + 4], 'big')
    return True


def _refusing_damage(imfrombytes):
    def decoded(content, *args, **kwargs):
        content = bytes(content)
        damage, image = image_damage(content), None
        if not damage:
            check_pixels(content, max_pixels(), all_pages=kwargs.get('backend') == 'tifffile')
            try:
                image = imfrombytes(content, *args, **kwargs)
            except (cv2.error, MemoryError) as error:
                damage = f'the decoder ends with {shorten(error) or "too little memory"}'
        if image is None:
            raise OSError(damage or f'no decoder can read these {len(content)} bytes as an image')
        return image

    return decoded


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
            # of other kinds, such as urllib's HTTPError, the constructor takes more than a text
            kind = type(error) if type(error).__module__ == 'builtins' else OSError
            raise kind(
                f'{shown(path)} could not be loaded: {error}. LoadImageFromFile(ignore_empty=True) in the training '
                'pipeline leaves such images out'
            ) from error
        if loaded is None:
            _skipped[path] += 1
            if _skipped[path] == 1:
                text = f'{shown(path)} could not be loaded and is left out, {len(_skipped)} so far in this process'
                print_log(text, 'current', logging.WARNING)
        return loaded

    return load
