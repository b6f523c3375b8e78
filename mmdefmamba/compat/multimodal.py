"""mmpretrain beside a transformers release its multimodal models were not written for.

Defect: ``mmpretrain.models`` imports its multimodal models wherever transformers >= 4.28 and pycocotools are
installed, with no upper bound; newer transformers no longer have what those models import, and the whole import dies
(``TypeError: NoneType takes no arguments``). transformers comes with mamba-ssm and with most GPU machines.
Seen in: mmpretrain 1.2.0 with transformers 4.53, 4.55, 4.57 and 5.0 (4.49 and 4.50 work).
Can go: when mmpretrain bounds the version or imports those models on demand.

Remedy: tell mmpretrain what it would say without transformers, that it has no multimodal models.
"""

import importlib.metadata
import importlib.util
import logging
import symtable
import sys
from pathlib import Path

# What mmpretrain/models/multimodal (blip, blip2, ofa, ram) imports from transformers.modeling_utils.
_NEEDED = {
    'GenerationConfig',
    'GenerationMixin',
    'PreTrainedModel',
    'apply_chunking_to_forward',
    'find_pruneable_heads_and_indices',
    'prune_linear_layer',
}


def apply():
    """Switch mmpretrain's multimodal models off where transformers lacks what they import.

    Imports mmpretrain (not its models) only then. A mmpretrain that cannot be imported is left to whoever needs it.

    Returns:
        What was done and why, one line; None where nothing was.
    """
    if importlib.util.find_spec('mmpretrain') is None or 'mmpretrain.models' in sys.modules:
        return None
    missing = _missing()
    if not missing:
        return None
    try:
        from mmpretrain.utils import dependency
    except (ImportError, AssertionError) as error:
        # Detection and segmentation need no mmpretrain; who imports it will see this error again.
        logging.getLogger('mmdefmamba').info('mmpretrain cannot be imported: %s', error)
        return None
    if not dependency.WITH_MULTIMODAL:
        return None
    dependency.WITH_MULTIMODAL = False
    return f"mmpretrain's multimodal models are switched off: transformers has no {', '.join(missing)}"


def _missing():
    """What of :data:`_NEEDED` an installed transformers lacks, sorted; empty where none is installed."""
    try:
        importlib.metadata.version('transformers')  # as mmpretrain asks
    except importlib.metadata.PackageNotFoundError:
        return []
    spec = importlib.util.find_spec('transformers')
    names = set()
    for folder in (spec and spec.submodule_search_locations) or ():
        source = Path(folder, 'modeling_utils.py')
        if source.is_file():
            # Compiled, not imported: importing transformers takes seconds.
            module = symtable.symtable(source.read_text('utf-8'), str(source), 'exec')
            names.update(name.get_name() for name in module.get_symbols() if name.is_imported() or name.is_assigned())
    return sorted(_NEEDED - names)
