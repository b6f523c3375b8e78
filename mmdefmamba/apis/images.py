"""Image files: found by path, folder and pattern, read as the networks' own pipelines read them."""

import glob
import itertools
import os
from collections import Counter
from pathlib import Path

import cv2
import mmcv

EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')


def find_images(inputs, recursive=False, leave_out=None):
    """The files that paths, folders and patterns name.

    A file that is named is taken whatever its extension. Of a folder, the files with an extension of ``EXTENSIONS``
    that are not hidden are taken, sorted.

    Args:
        inputs: paths of files or folders, or patterns such as ``'scans/**/*.png'``.
        recursive: take the images of a folder's folders, too.
        leave_out: a folder of which nothing is taken unless it is named as a file; results are written there.

    Returns:
        Paths, each file once, in the order of ``inputs``.

    Raises:
        FileNotFoundError: an input that names no file, no folder with images and matches nothing.
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
                raise FileNotFoundError(f'{what} {name}, seen from {Path.cwd()}')
        files = [file for match in matches for file in _files(match, recursive, leave_out)]
        if not files:
            hint = '' if recursive else ', with --recursive in its folders, too'
            raise FileNotFoundError(f'no images in {name}; looked for {", ".join(EXTENSIONS)}{hint}')
        found.update((os.path.abspath(file), file) for file in files if os.path.abspath(file) not in found)
    return list(found.values())


def read_image(path):
    """Read an image as ``LoadImageFromFile`` does in training: 8 bits, three channels, turned as its EXIF data say.

    Returns:
        (height, width, 3) uint8, BGR; transparency is dropped.

    Raises:
        OSError: the file cannot be read, was cut short, or is no image; names it.
    """
    try:
        return mmcv.imfrombytes(Path(path).read_bytes())
    except cv2.error as error:
        raise OSError(f'{path} could not be read: {error.err or error}') from error
    except OSError as error:
        # an error of the file system names the path itself
        raise error if error.filename else OSError(f'{path} could not be read: {error}') from error


def write_image(path, image):
    """Write an image, (height, width, 3) uint8 RGB or (height, width) uint8; makes its folder.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done, content = cv2.imencode('.png', image[..., ::-1] if image.ndim == 3 else image)
    if not done:
        raise OSError(f'{path}: an image of {image.shape} and {image.dtype} cannot be encoded')
    path.write_bytes(content.tobytes())


def output_names(paths):
    """A relative ``.png`` path for each image, all different.

    Folders below the deepest one that all images share are kept. ``a.png``, and ``a.jpg.png`` where ``a.jpg`` and
    another ``a`` are in one folder.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    root = os.path.commonpath([path.parent for path in absolute])
    relative = [path.relative_to(root) for path in absolute]
    # casefold: file systems of macOS and Windows take A.png and a.png for one
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
        if file.suffix.lower() in EXTENSIONS
        and file.is_file()
        and not any(part.startswith('.') for part in file.relative_to(path).parts)
        and not (left_out and left_out in file.resolve().parents)
    )
