"""Files whose paths a user gives."""

from pathlib import Path

#: Extensions of the image files that the tools read, in lower case.
IMAGE_EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')


def existing_file(path, what):
    """Return the path of a file that exists.

    Args:
        path: str or Path; ``~`` stands for the home folder of the user.
        what: what the error calls the file, such as ``'image'``.

    Returns:
        The Path, with ``~`` replaced.

    Raises:
        FileNotFoundError: there is no such file, or it is a folder.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f'{what} {path} does not exist, seen from {Path.cwd()}')
    return file
