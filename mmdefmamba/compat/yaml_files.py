"""YAML files that run code.

Defect: MMEngine reads YAML with PyYAML's unrestricted loader, which carries out ``!!python/object/apply:os.system`` in
a config or an annotation file.
Seen in: mmengine 0.11.0rc3.
Can go: when MMEngine reads YAML with a restricted loader.

The mend takes PyYAML's FullLoader. It knows the tuples that ``Config.dump`` writes, and calls nothing. A config in
Python remains a program.
"""

import yaml

from .marks import replace

# The C implementation is faster; PyYAML may have been built without it.
_FULL_LOADER = getattr(yaml, 'CFullLoader', yaml.FullLoader)


def apply(yaml_handler):
    """Have MMEngine's ``yaml_handler`` read YAML without running code; returns whether that changed it."""
    return replace(yaml_handler, 'Loader', lambda loader: type('FullLoader', (_FULL_LOADER,), {}), 'yaml_files')
