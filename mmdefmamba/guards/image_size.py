"""How many pixels an image file has, from its header: a file of a few kilobytes can hold an image of gigabytes."""

import io
from typing import NamedTuple

from PIL import Image

from ..files import shorten

#: The default limit of the tools that read images of a user, and of the page in the browser.
MAX_PIXELS = 20_000_000
#: The default limit in the data pipelines of a run: 805 MB as 8-bit colours.
MAX_DATA_PIXELS = 2**28
# The first bytes of the files that Pillow and OpenCV both read.
_FORMATS = {
    b'\x89PNG': 'PNG',
    b'\xff\xd8\xff': 'JPEG',
    b'GIF8': 'GIF',
    b'RIFF': 'WEBP',
    b'BM': 'BMP',
    **{b'P%d' % number: 'PPM' for number in range(1, 8)},
}
_TIFF = {b'II*\0': 'little', b'MM\0*': 'big', b'II+\0': 'little', b'MM\0+': 'big'}
_WIDTH, _HEIGHT, _SAMPLES = 256, 257, 277  # the tags of TIFF
# Steps after which an image is no larger. What others do to its size is not known here.
_KEEPS_SIZE = ('LoadImageFromFile', 'CenterCrop', 'PackInputs', 'PackSegInputs', 'PackDetInputs', 'LoadAnnotations')
_MAX_TAGS, _MAX_PAGES = 10_000, 100_000


class Size(NamedTuple):
    """The size of an image: its width and height in pixels, and how many images of at most 4 values per pixel it is."""

    width: int
    height: int
    layers: int = 1

    @property
    def pixels(self):
        """The number of pixels in all layers."""
        return self.width * self.height * self.layers


def image_size(content, all_pages=False):
    """Read the size of an image from the bytes of its file, without decoding it.

    Args:
        content: the bytes.
        all_pages: whether the decoder reads all pages of a TIFF, as tifffile does. OpenCV and Pillow read the first.

    Returns:
        A :class:`Size`; None for a format that is not known here.

    Raises:
        OSError: the header is damaged.
    """
    if content[:4] in _TIFF:
        return _tiff_size(content, all_pages)
    kind = next((kind for start, kind in _FORMATS.items() if content.startswith(start)), None)
    if kind is None:
        return None
    try:
        if kind == 'WEBP':
            return _webp_size(content)
        Image.init()
        # the plugin itself: Image.open has a limit of its own, which would hide the size
        with Image.OPEN[kind][0](io.BytesIO(content), '') as image:
            return Size(*image.size)
    except Exception as error:  # the header of a damaged file can raise nearly anything
        raise OSError(f'the header of this {kind} is damaged: {shorten(error)}') from error


def check_pixels(content, limit, all_pages=False):
    """Refuse an image with more pixels than a limit, before it is decoded.

    Args:
        content: the bytes of its file.
        limit: number of pixels; None for no limit.
        all_pages: as for :func:`image_size`.

    Raises:
        OSError: the image has more pixels, or its header is damaged.
    """
    size = None if limit is None else image_size(content, all_pages)
    if size is not None and size.pixels > limit:
        layers = f' x {size.layers} layers' if size.layers > 1 else ''
        raise OSError(
            f'the image has {size.width:,} x {size.height:,}{layers} pixels, the limit is {limit:,} (max_pixels)'
        )


def check_resized(steps, height, width, limit=MAX_DATA_PIXELS):
    """Refuse an image of which a test pipeline would make a far larger one, before it does.

    ``ResizeEdge`` makes the short side as long as it says, and ``Pad`` can make a square: a line of 1 x 60,000 pixels
    would become an image of gigabytes.

    Args:
        steps: of the pipeline, as dicts.
        height, width: of the image, in pixels.
        limit: number of pixels.

    Raises:
        ValueError: a step would make more pixels than both the image and ``limit``.
    """
    largest = max(limit, height * width)
    before = f'{height:,} x {width:,}'
    for step in steps:
        kind = step['type'] if isinstance(step['type'], str) else step['type'].__name__
        kind = kind.rpartition('.')[2]
        if kind == 'ResizeEdge':
            sides = {'short': min(height, width), 'long': max(height, width), 'height': height, 'width': width}
            scale = step['scale'] / sides[step.get('edge', 'short')]
            height, width = max(1, round(height * scale)), max(1, round(width * scale))
        elif kind == 'Pad' and step.get('pad_to_square'):
            height = width = max(height, width)
        elif kind not in _KEEPS_SIZE:
            return
        if height * width > largest:
            raise ValueError(
                f'the image of {before} pixels would become one of {height:,} x {width:,} by the step {kind} of the '
                f'test pipeline, and the limit is {largest:,} pixels. Cut it into parts, or give the config another '
                'resizing'
            )


def _webp_size(content):
    """Read the header of a WebP of any of its three kinds; Pillow would reserve memory for the whole image."""
    kind, body = content[12:16], content[20:30]
    if content[8:12] != b'WEBP' or len(body) < 10:
        raise ValueError('it is no WebP')
    if kind == b'VP8X':
        return Size(*(1 + int.from_bytes(body[at : at + 3], 'little') for at in (4, 7)))
    if kind == b'VP8L':
        bits = int.from_bytes(body[1:5], 'little')
        return Size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b'VP8 ':
        return Size(*(int.from_bytes(body[at : at + 2], 'little') & 0x3FFF for at in (6, 8)))
    raise ValueError(f'it begins with a part {kind!r}')


def _tiff_size(content, all_pages):
    """Follow the directories of a TIFF, also of a BigTIFF."""
    order = _TIFF[content[:4]]
    big = content[2:3] == b'+' or content[3:4] == b'+'
    word, counter, entry, start = (8, 8, 20, 8) if big else (4, 2, 12, 4)

    def number(at, length):
        part = content[at : at + length]
        if at < 0 or len(part) < length:
            raise OSError('the header of this TIFF is damaged: it points behind the end of the file')
        return int.from_bytes(part, order)

    at, seen, largest, layers = number(start, word), set(), None, 0
    while at and at not in seen and len(seen) < _MAX_PAGES:
        seen.add(at)
        count, tags = number(at, counter), {}
        if count > _MAX_TAGS:
            raise OSError(f'the header of this TIFF is damaged: a page has {count} tags')
        for place in range(at + counter, at + counter + count * entry, entry):
            tag, kind = number(place, 2), number(place + 2, 2)
            if tag in (_WIDTH, _HEIGHT, _SAMPLES):
                length = {1: 1, 3: 2, 4: 4, 16: 8}.get(kind)
                if length is None:
                    raise OSError(f'the header of this TIFF is damaged: tag {tag} has the type {kind}')
                tags[tag] = number(place + (12 if big else 8), length)
        page = Size(tags.get(_WIDTH, 0), tags.get(_HEIGHT, 0), -(-tags.get(_SAMPLES, 1) // 4) or 1)
        layers += page.layers
        largest = page if largest is None else max(largest, page, key=lambda size: size.width * size.height)
        if not all_pages:
            break
        at = number(at + counter + count * entry, word)
    if largest is None:
        raise OSError('the header of this TIFF is damaged: it has no page')
    return largest._replace(layers=layers)
