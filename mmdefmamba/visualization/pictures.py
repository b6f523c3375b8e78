"""Pictures of images with any number of channels and any range of values."""

import numpy as np


def to_picture(image, rgb=False):
    """Return an image as a picture that can be shown.

    Three channels are the colours. Of four channels the first three are shown, as without transparency. Two channels,
    and more than four, have no colours: their mean is shown in grey.

    Args:
        image: (height, width) or (height, width, channels), any real dtype. Values from 0 to 255 are shown as they are.
            Any other range of values is stretched, from its lowest value, black, to its highest, white. Values that
            are not finite are black.
        rgb: whether the colours are in the order RGB; by default BGR, in which OpenCV and mmcv read files.

    Returns:
        (height, width, 3), uint8, RGB.

    Raises:
        ValueError: the image has another number of dimensions, or is empty.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or not image.size:
        raise ValueError(f'an image must be (height, width) or (height, width, channels), got {image.shape}')
    image = image.reshape(*image.shape[:2], -1)
    channels = image.shape[2]
    if channels in (3, 4):
        image = image[..., :3] if rgb else image[..., 2::-1]
    elif channels > 1:
        image = image.mean(2, keepdims=True)
    if image.dtype != np.uint8:
        image = _to_bytes(image)
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _to_bytes(image):
    image = image.astype(np.float64)
    finite = image[np.isfinite(image)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
    if low < 0 or high > 255:
        image = (image - low) * (255 / (high - low)) if high > low else np.zeros_like(image)
    return np.nan_to_num(image, nan=0, posinf=0, neginf=0).round().clip(0, 255).astype(np.uint8)
