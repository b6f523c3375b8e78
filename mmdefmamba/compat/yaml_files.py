"""YAML files that run code.

Defect: MMEngine reads YAML with PyYAML's unrestricted loader: ``!!python/object/apply:os.system`` in a config or an
annotation file is carried out.
Seen in: mmengine 0.11.0rc3.
Can go: when MMEngine reads with a restricted loader.

Remedy: PyYAML's FullLoader, which knows the tuples that ``Config.dump`` writes, and calls nothing. A config in Python
remains a program.
"""

import yaml
from mmengine.fileio.handlers import yaml_handler

_LOADER = getattr(yaml, 'CFullLoader', yaml.FullLoader)  # the fast one, where PyYAML was built with it


def apply():
    """Have MMEngine read YAML without running code.

    Returns:
        What was done and why, one line; None where it was done already.
    """
    if yaml_handler.Loader is _LOADER:
        return None
    yaml_handler.Loader = _LOADER
    return 'MMEngine reads YAML files without running code in them: it would'
