"""Files that a user names."""

from pathlib import Path


def existing_file(path, what):
    """A file that is there.

    Args:
        path: str or Path; ``~`` is the user's home.
        what: the word for it in the error, such as ``'image'``.

    Returns:
        Its Path.

    Raises:
        FileNotFoundError: it is not, or is a folder.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f'{what} {path} does not exist, seen from {Path.cwd()}')
    return file
