"""What is installed: which library is missing, with the command that installs it, and which were mixed up."""

import importlib.metadata
import logging
import re

from .log import is_first_process

#: OpenMMLab's libraries by the name that is imported: the distributions that have it. The first one is that of the
#: extra ``openmmlab``. pip does not know that they exclude each other, and installs one over the files of another.
DISTRIBUTIONS = {
    'mmcv': ('mmcv-lite', 'mmcv', 'mmcv-full', 'onedl-mmcv'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmengine': ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
}
#: The other packages of the extra ``openmmlab`` by the name that is imported.
OTHERS = {
    'ftfy': 'ftfy',
    'jinja2': 'jinja2',
    'pycocotools': 'pycocotools',
    'regex': 'regex',
    'sklearn': 'scikit-learn',
    'torchvision': 'torchvision',
}


def explain_missing(error):
    """Return which library an ImportError misses and the command that installs it; '' if the error is another one.

    Args:
        error: Python's error for a module that does not exist, or MMEngine's for a package that is not installed.
    """
    if not isinstance(error, ModuleNotFoundError):
        return ''
    named = re.match(r'(\S+) is not installed', str(error))
    name = (error.name or (named[1] if named else '')).partition('.')[0]
    name = next((module for module, names in DISTRIBUTIONS.items() if name in names), name)
    package = DISTRIBUTIONS[name][0] if name in DISTRIBUTIONS else OTHERS.get(name)
    if package is None:
        return ''
    fork = ', or its fork' if name in DISTRIBUTIONS else ''
    return (
        f"{name} is not installed. Install what the three tasks need: pip install 'mmdefmamba[openmmlab]'. With full "
        "mmcv: pip install 'mmdefmamba[mmcv]'. With forks of OpenMMLab's libraries, only what is missing: pip install "
        f'{package}{fork}'
    )


def warn_of_mixture(module):
    """Log a warning if several distributions have installed an imported module of :data:`DISTRIBUTIONS`."""
    found = {}
    for name in DISTRIBUTIONS[module.__name__]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if len(found) > 1 and is_first_process():
        logging.getLogger('mmdefmamba').warning(
            '%s have both installed the module %s, one over the files of the other. Uninstall them (pip uninstall %s) '
            'and install the one that you want again',
            ' and '.join(f'{name} {version}' for name, version in found.items()),
            module.__name__,
            ' '.join(found),
        )
