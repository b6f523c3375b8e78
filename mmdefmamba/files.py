"""Files whose paths a user gives."""

import unicodedata
from pathlib import Path

#: Extensions of the image files that the tools read, in lower case.
IMAGE_EXTENSIONS = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')

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
    return ''.join(
        char.encode('unicode_escape').decode() if unicodedata.category(char) in _OBEYED else char
        for char in decodable(name)
    )


def shown_lines(text):
    """Return a text in the form of :func:`shown`, with its own line breaks."""
    return '\n'.join(map(shown, str(text).split('\n')))


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
