"""What the page takes from its visitors: images within limits, and drawn digits made like those of the training set."""

import base64
import binascii
import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 20_000_000
DATA_URL = 'data:image/png;base64,'
FORMATS = ('BMP', 'JPEG', 'PNG', 'WEBP')

GRID = 8  # scikit-learn's digits are 8 x 8
FINE = 32  # made of bitmaps of 32 x 32, 4 x 4 of their pixels a value
# Contrast below which there is nothing to see, of 255; ink from which a pixel belongs to the digit, of 1.
MIN_CONTRAST, MIN_INK = 24, 0.25
MIN_SIDE = 160  # on fewer pixels the width of a stroke cannot be told
# Width of a stroke of scikit-learn's digits by their height: the mean over the training split.
STROKE = 0.2


class UploadError(ValueError):
    """What was uploaded cannot be used; the message is for the visitor."""


def load_upload(path):
    """Read an uploaded image; its size is known, and refused, before it is decoded.

    Args:
        path: of the uploaded file.

    Returns:
        (height, width, 3), uint8, RGB, turned as its EXIF data say; what is transparent becomes white.

    Raises:
        UploadError: too many bytes or pixels, cut short, or no image of ``FORMATS``.
    """
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise UploadError(f'The file has {size / 2**20:.1f} MB, at most {MAX_BYTES / 2**20:.0f} MB are taken.')
    return decode(Path(path).read_bytes())


def load_drawing(url):
    """Read what the drawing pad sends, a PNG as a data URL; as :func:`load_upload`."""
    if not isinstance(url, str) or not url.startswith(DATA_URL) or len(url) > MAX_BYTES:
        raise UploadError('The drawing did not arrive whole.')
    try:
        return decode(base64.b64decode(url.removeprefix(DATA_URL), validate=True))
    except binascii.Error as error:
        raise UploadError('The drawing did not arrive whole.') from error


def decode(content):
    """The bytes of an image file as :func:`load_upload` returns it."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of many pixels; the limit here is lower
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            size, most = f'{image.width} x {image.height}', f'{MAX_PIXELS / 1e6:.0f} million'
            raise UploadError(f'The image has {size} pixels, at most {most} are taken.')
        image = ImageOps.exif_transpose(image)
        return on_white(image)
    except Image.DecompressionBombError as error:
        raise UploadError(f'The image has more than {MAX_PIXELS / 1e6:.0f} million pixels.') from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise
        if isinstance(error, UploadError):
            raise
        raise UploadError(
            f'This is no whole image: {", ".join(FORMATS[:-1])} and {FORMATS[-1]} files are taken.'
        ) from error


def on_white(image):
    """A Pillow image as (height, width, 3), uint8, RGB; what is transparent becomes white."""
    if image.mode in ('I;16', 'I'):  # 16 bits; Pillow's convert() would cut the values off at 255
        return np.repeat((np.asarray(image) // 257).astype(np.uint8)[..., None], 3, axis=-1)
    if 'A' in image.mode or 'transparency' in image.info:
        image = image.convert('RGBA')
        ground = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(ground, image)
    return np.asarray(image.convert('RGB'))


def prepare_digit(image):
    """Make a drawn or photographed digit like scikit-learn's: light on dark, filling the height of 8 x 8 pixels.

    Args:
        image: (height, width, 3), uint8, RGB; a digit darker or lighter than what is around it.

    Returns:
        (8, 8, 3), uint8.

    Raises:
        UploadError: nothing stands out from the ground.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    ink = np.abs(gray - np.median(border))
    if ink.max() < MIN_CONTRAST:
        raise UploadError('There is no digit: nothing stands out from the ground.')
    ink /= ink.max()
    if max(ink.shape) < MIN_SIDE:
        zoom = MIN_SIDE / max(ink.shape)
        ink = cv2.resize(ink, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC).clip(0, 1)
    ink = _with_usual_strokes(_cut_out(ink))
    height, width = ink.shape
    scale = FINE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    ink = cv2.resize(ink, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (FINE - size[1]) // 2, (FINE - size[0]) // 2
    fine = np.zeros((FINE, FINE), np.float32)
    fine[top : top + size[1], left : left + size[0]] = ink
    block = FINE // GRID
    coarse = fine.reshape(GRID, block, GRID, block).mean((1, 3))
    coarse = np.round(coarse / coarse.max() * 255).astype(np.uint8)
    return np.repeat(coarse[..., None], 3, axis=-1)


def _cut_out(ink):
    """The part of a map of ink that has any, with room around for wider strokes."""
    rows, columns = np.flatnonzero((ink > MIN_INK).any(1)), np.flatnonzero((ink > MIN_INK).any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _with_usual_strokes(ink):
    """Make strokes as wide as in scikit-learn's digits: the pen and the size of the drawing are the visitor's."""
    height, width = ink.shape
    margin = max(height, width) // 4 + 1
    ink = np.pad(ink, margin)
    distance = cv2.distanceTransform((ink > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    # across a stroke of width w the distance to its edge is w / 4 on average
    stroke = 4 * distance[distance > 0].mean() if (distance > 0).any() else 1.0
    change = round(STROKE * max(height, width) - stroke)
    if abs(change) > 1:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (abs(change), abs(change)))
        changed = cv2.dilate(ink, kernel) if change > 0 else cv2.erode(ink, kernel)
        ink = changed if changed.max() > MIN_INK else ink
    return _cut_out(ink)
