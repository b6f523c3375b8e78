"""Input from visitors: images within limits, and drawn digits in the form of the training images."""

import base64
import binascii
import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from ..guards.image_size import MAX_PIXELS

MAX_BYTES = 10 * 2**20
DATA_URL = 'data:image/png;base64,'
FORMATS = ('BMP', 'JPEG', 'PNG', 'WEBP')

GRID = 8  # scikit-learn's digits are 8 x 8
FINE = 32  # they were made from bitmaps of 32 x 32: one value per 4 x 4 pixels
# Smallest contrast of a digit, from 0 to 255; smallest ink of a pixel that belongs to it, from 0 to 1.
MIN_CONTRAST, MIN_INK = 24, 0.25
MIN_SIDE = 160  # pixels; on a smaller image the width of a stroke cannot be measured
# Width of the strokes of scikit-learn's digits, relative to their height: the mean over the training split.
STROKE = 0.2


class UploadError(ValueError):
    """An upload that cannot be used; the message is for the visitor."""


def load_upload(path):
    """Read an uploaded image. The limits on its size are checked before it is decoded.

    Args:
        path: path of the uploaded file.

    Returns:
        (height, width, 3), uint8, RGB, rotated as its EXIF data say; transparent pixels become white.

    Raises:
        UploadError: the file has too many bytes or pixels, is truncated, or is not an image of ``FORMATS``.
    """
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise UploadError(f'The file has {size / 2**20:.1f} MB. The limit is {MAX_BYTES / 2**20:.0f} MB.')
    return decode(Path(path).read_bytes())


def load_drawing(url):
    """Read a drawing from the drawing pad.

    Args:
        url: a PNG as a data URL.

    Returns:
        As :func:`load_upload`.

    Raises:
        UploadError: the URL is not a complete PNG, or the image has too many pixels.
    """
    if not isinstance(url, str) or not url.startswith(DATA_URL) or len(url) > MAX_BYTES:
        raise UploadError('The drawing is incomplete. Draw it again.')
    try:
        return decode(base64.b64decode(url.removeprefix(DATA_URL), validate=True))
    except binascii.Error as error:
        raise UploadError('The drawing is incomplete. Draw it again.') from error


def decode(content):
    """Decode the bytes of an image file, with the results and errors of :func:`load_upload`."""
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images, but the limit here is lower
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            size, most = f'{image.width} x {image.height}', f'{MAX_PIXELS / 1e6:.0f} million'
            raise UploadError(f'The image has {size} pixels. The limit is {most}.')
        image = ImageOps.exif_transpose(image)
        return on_white(image)
    except Image.DecompressionBombError as error:
        raise UploadError(f'The image has too many pixels. The limit is {MAX_PIXELS / 1e6:.0f} million.') from error
    except (OSError, SyntaxError, ValueError) as error:  # the errors of Pillow's decoders
        if isinstance(error, UploadError):
            raise
        raise UploadError(
            f'This is not a complete image. Send a {", ".join(FORMATS[:-1])} or {FORMATS[-1]} file.'
        ) from error


def on_white(image):
    """Convert a Pillow image to (height, width, 3), uint8, RGB; transparent pixels become white."""
    if image.mode in ('I;16', 'I'):  # 16 bits; Pillow's convert() would clip the values at 255
        return np.repeat((np.asarray(image) // 257).astype(np.uint8)[..., None], 3, axis=-1)
    if 'A' in image.mode or 'transparency' in image.info:
        image = image.convert('RGBA')
        ground = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(ground, image)
    return np.asarray(image.convert('RGB'))


def prepare_digit(image):
    """Convert a drawn or photographed digit to the form of scikit-learn's digits: light on dark, as high as 8 pixels.

    Args:
        image: (height, width, 3), uint8, RGB; a digit that is darker or lighter than the background.

    Returns:
        (8, 8, 3), uint8.

    Raises:
        UploadError: nothing has enough contrast to the background.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    ink = np.abs(gray - np.median(border))
    if ink.max() < MIN_CONTRAST:
        raise UploadError('There is no digit: nothing stands out from the background.')
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
    """Crop a map of ink to its strokes."""
    rows, columns = np.flatnonzero((ink > MIN_INK).any(1)), np.flatnonzero((ink > MIN_INK).any(0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _with_usual_strokes(ink):
    """Give the strokes the width that they have in scikit-learn's digits, whatever the pen and the drawing's size."""
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
