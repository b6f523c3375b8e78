"""The order of a scan as an animation.

The path grows over the image, and each visited place takes the colour of its rank.
"""

import io

import cv2
import numpy as np
from matplotlib import colormaps
from PIL import Image

from .canvas import COLOURS

SIDE = 320  # longer side of the animation, in pixels
MAX_FRAMES = 32
SECONDS = 4.0
HOLD_SECONDS = 1.5  # how long the complete path stays
OPACITY = 0.55
# Of a path with more steps than WHOLE only the LATEST steps are drawn, because the whole path would hide the image.
WHOLE, LATEST = 64, 24


def animate_scan(image, order, map_size):
    """Draw the path of a scan step by step.

    Args:
        image: what the network was given, (height, width, 3) uint8 RGB.
        order: the place visited at each step, counted row by row, integers (H * W,).
        map_size: (H, W).

    Returns:
        An animated WebP that repeats forever, bytes.

    Raises:
        ValueError: ``order`` does not have one entry per place of the map.
    """
    height, width = map_size
    order = np.asarray(order)
    if order.shape != (height * width,):
        raise ValueError(f'order must have {height} * {width} places, got {order.shape}')
    scale = SIDE / max(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[:2])
    interpolation = cv2.INTER_NEAREST if scale > 1 else cv2.INTER_AREA
    base = cv2.resize(image, size[::-1], interpolation=interpolation)
    steps = np.unique(np.linspace(1, len(order), min(MAX_FRAMES, len(order))).round().astype(int))
    frames = [Image.fromarray(_frame(base, order, map_size, step)) for step in steps]
    durations = [max(20, round(1000 * SECONDS / len(frames)))] * len(frames)
    durations[-1] += round(1000 * HOLD_SECONDS)
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        'WEBP',
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        quality=75,
        method=0,
        kmin=0,
        kmax=1,
    )
    return buffer.getvalue()


def _frame(base, order, map_size, step):
    """Return the picture after ``step`` steps, (height, width, 3) uint8 RGB."""
    rank = np.full(len(order), -1)
    rank[order[:step]] = np.arange(step)
    colors = colormaps[COLOURS](np.maximum(rank, 0) / max(len(order) - 1, 1))[:, :3] * 255
    size = base.shape[1::-1]
    visited = cv2.resize((rank >= 0).reshape(map_size).astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    tint = cv2.resize(colors.reshape(*map_size, 3).astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    opacity = OPACITY * visited[..., None]
    frame = np.ascontiguousarray((base * (1 - opacity) + tint * opacity).astype(np.uint8))
    # centres of the places, in units of 1/16 pixel
    first = 0 if len(order) <= WHOLE else max(step - LATEST, 0)
    rows, columns = np.divmod(order[first:step], map_size[1])
    centres = (np.stack([columns, rows], -1) + 0.5) * np.array(size) / np.array(map_size[::-1])
    path = np.round(centres * 16).astype(np.int32)
    cell = min(size[0] / map_size[1], size[1] / map_size[0])
    thickness = int(np.clip(cell / 12, 1, 3))
    # a dark rim keeps the white line visible on white ground
    for color, extra in (((0, 0, 0), 2), ((255, 255, 255), 0)):
        cv2.polylines(frame, [path[:, None]], False, color, thickness + extra, cv2.LINE_AA, shift=4)
    start = np.divmod(order[0], map_size[1])[::-1]
    ends = np.round(np.stack([(np.array(start) + 0.5) * np.array(size) / np.array(map_size[::-1]) * 16, path[-1]]))
    for point, fill in zip(ends.astype(int), ((255, 255, 255), (230, 60, 40)), strict=True):
        radius = int(16 * np.clip(cell / 5, 3, 9))
        cv2.circle(frame, point.tolist(), radius + 24, (0, 0, 0), -1, cv2.LINE_AA, shift=4)
        cv2.circle(frame, point.tolist(), radius, fill, -1, cv2.LINE_AA, shift=4)
    return frame
