"""Image files: finding them by path, folder or pattern, and writing results."""

import glob
import itertools
import os
from collections import Counter
from pathlib import Path

import cv2

from ..files import IMAGE_EXTENSIONS, shown


def find_images(inputs, recursive=False, leave_out=None):
    """Find image files by path, folder or pattern.

    A path of a file is taken whatever its extension. From a folder, all files with one of the ``IMAGE_EXTENSIONS`` that
    are not hidden are taken, sorted.

    Args:
        inputs: paths of files or folders, or patterns such as ``'scans/**/*.png'``.
        recursive: whether to search the subfolders of a folder as well.
        leave_out: a folder that is not searched, such as the folder for the results, or None. A file in it is taken
            only if its own path is given.

    Returns:
        Paths in the order of ``inputs``, each file once.

    Raises:
        FileNotFoundError: a path does not exist, a pattern matches nothing, or a folder has no images.
    """
    found = {}
    for name in map(os.fspath, inputs):
        path = Path(name).expanduser()
        if path.exists():
            matches = [path]
        else:
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
            if not matches:
                what = 'no file matches' if glob.has_magic(name) else 'no such file or folder:'
                raise FileNotFoundError(f'{what} {shown(name)}, seen from {shown(Path.cwd())}')
        files = [file for match in matches for file in _files(match, recursive, leave_out)]
        if not files:
            hint = '' if recursive else '; --recursive searches its subfolders as well'
            raise FileNotFoundError(f'no images in {shown(name)}: no file ends in {", ".join(IMAGE_EXTENSIONS)}{hint}')
        found.update((os.path.abspath(file), file) for file in files if os.path.abspath(file) not in found)
    return list(found.values())


def write_image(path, image):
    """Write an image as PNG, and create its folder if necessary.

    Args:
        path: the Path to write.
        image: (height, width, 3) uint8 RGB, or (height, width) uint8 or uint16.

    Raises:
        OSError: the image cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done, content = cv2.imencode('.png', image[..., ::-1] if image.ndim == 3 else image)
    if not done:
        raise OSError(f'{shown(path)}: an image of {image.shape} and {image.dtype} cannot be encoded')
    path.write_bytes(content.tobytes())


def output_names(paths):
    """Choose a relative ``.png`` path for each image; all paths are different.

    Folders below the deepest common folder of all images are kept. The result of ``a.jpg`` is ``a.png``, or
    ``a.jpg.png`` if the folder has another image ``a``.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    root = os.path.commonpath([path.parent for path in absolute])
    relative = [path.relative_to(root) for path in absolute]
    # casefold, because the file systems of macOS and Windows do not distinguish A.png and a.png
    stems = Counter(str(path.with_suffix('')).casefold() for path in relative)
    names, used = [], set()
    for path in relative:
        alone = stems[str(path.with_suffix('')).casefold()] == 1
        base = path.stem if alone else path.name
        tries = (path.with_name(f'{base}{(number and f"_{number}") or ""}.png') for number in itertools.count())
        names.append(next(name for name in tries if str(name).casefold() not in used))
        used.add(str(names[-1]).casefold())
    return names


def _files(path, recursive, leave_out):
    if not path.is_dir():
        return [path]
    inside = path.rglob('*') if recursive else path.iterdir()
    left_out = leave_out and Path(leave_out).resolve()
    return sorted(
        file
        for file in inside
        if file.suffix.lower() in IMAGE_EXTENSIONS
        and file.is_file()
        and not any(part.startswith('.') for part in file.relative_to(path).parts)
        and not (left_out and left_out in file.resolve().parents)
    )
