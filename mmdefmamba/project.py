"""The configs, the tools and the index of models, which lie beside the package or in it."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def project_folder():
    """Return the folder that has ``configs/``, ``tools/`` and ``model-index.yml``.

    In a clone, installed or not, this is its root. A wheel has them in ``.mim`` inside the package, where MMEngine and
    mim look for them.

    Raises:
        FileNotFoundError: they are in neither place.
    """
    for folder in (PACKAGE.parent, PACKAGE / '.mim'):
        if (folder / 'configs').is_dir() and (folder / 'model-index.yml').is_file():
            return folder
    raise FileNotFoundError(
        f'{PACKAGE} has no configs: neither beside it, as in a clone, nor in {PACKAGE / ".mim"}, as in an installed '
        'wheel. Install mmdefmamba again'
    )
