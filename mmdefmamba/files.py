"""Files whose paths a user gives."""

import contextlib
import hashlib
import os
import socket
import unicodedata
from pathlib import Path

#: Extensions of the image files that the tools read, in lower case.
IMAGE_EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')

#: ``released://FILE`` is a checkpoint of the authors, ``released://FILE?ema`` the averaged weights in it.
RELEASED, AVERAGED = 'released://', '?ema'

# What a terminal or a browser obeys instead of showing it: control characters, invisible characters (some turn the
# direction of the text), and separators of lines. All else of Unicode is shown as it is.
_OBEYED = ('Cc', 'Cf', 'Zl', 'Zp')


def shown(name):
    """Return a path, or a text that contains one, in a form that terminals, logs and pages show on one line.

    The name of a file may contain anything: it could clear the terminal, or forge a line of a log. Such characters are
    written as Python writes them, ``\\x1b`` for example.

    Args:
        name: a str or Path.
    """
    text = decodable(name)
    if text.isprintable():  # nearly every name, and the pictures in a page
        return text
    return ''.join(
        char.encode('unicode_escape').decode() if unicodedata.category(char) in _OBEYED else char for char in text
    )


def shown_lines(text):
    """Return a text in the form of :func:`shown`, with its own line breaks and tabs."""
    return '\n'.join('\t'.join(map(shown, line.split('\t'))) for line in str(text).split('\n'))


def say(*lines, file=None):
    """Print lines in the form of :func:`shown`, and at once. The programs of this package print with it.

    Args:
        *lines: one argument is one line, whatever is in it. A text of several lines is passed as
            ``*text.split('\\n')``; the names in it are then in the form of :func:`shown` already.
        file: where to print to; None is stdout.
    """
    print(*map(shown, lines), sep='\n', file=file, flush=True)


def shorten(text, limit=500):
    """Return a text in the form of :func:`shown`, without its middle if it is long.

    Args:
        text: a text, such as an error that another library raised: some of these list every parameter of a network.
        limit: number of characters that are kept.
    """
    text = ' '.join(str(text).split())
    if len(text) > limit:
        text = f'{text[: limit * 2 // 3]} [...] {text[-(limit // 3) :]}'
    return shown(text)


def decodable(name):
    """Return a path or text as valid UTF-8; the bytes of a file name that are not are written as ``\\udcff``."""
    return str(name).encode(errors='backslashreplace').decode()


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
        raise FileNotFoundError(f'{what} {shown(path)} does not exist, seen from {shown(Path.cwd())}')
    return file


def split_checkpoint(name):
    """Return (path or URL, whether it is the authors', whether its averages are meant) of a checkpoint's name.

    Args:
        name: a str or Path, perhaps ``released://FILE`` or ``released://FILE?ema``.
    """
    name = str(name)
    if not name.startswith(RELEASED):
        return name, False, False
    source = name.removeprefix(RELEASED)
    return source.removesuffix(AVERAGED), True, source.endswith(AVERAGED)


def sha256_of(path):
    """Return the SHA-256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def partial_path(path):
    """Return where this process writes a file before it moves it to ``path``: two processes never write to one file."""
    return path.with_name(f'.{path.name}.{socket.gethostname()}.{os.getpid()}.partial')


@contextlib.contextmanager
def unfinished_file(target):
    """Give the path at which to write a file that is moved to its target only when it is whole.

    The block moves it with ``os.replace``. What is still there at the end of the block is removed, so that an
    incomplete file never has the target's name, and none is left.

    Args:
        target: str or Path of the file, whose folder exists.
    """
    part = partial_path(Path(target))
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)
