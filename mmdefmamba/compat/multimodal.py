"""mmpretrain beside a release of transformers that its multimodal models were not written for.

Defect: ``mmpretrain.models`` imports its multimodal models wherever transformers >= 4.28 and pycocotools are
installed, with no upper bound. Newer releases of transformers no longer have what those models import, and the whole
import fails (``TypeError: NoneType takes no arguments``). mamba-ssm installs transformers, and most GPU machines have
it.
Seen in: mmpretrain 1.2.0 with transformers 4.53, 4.55, 4.57 and 5.0 (4.49 and 4.50 work).
Can go: when mmpretrain bounds the version, or imports those models on demand.

The mend tells mmpretrain what it would find without transformers: that the multimodal models are not available.
"""

import importlib.metadata
import importlib.util
import symtable
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


def apply(dependency):
    """Switch the models off in ``mmpretrain.utils.dependency``; returns what made that necessary, or False."""
    missing = _missing()
    if not dependency.WITH_MULTIMODAL or not missing:
        return False
    dependency.WITH_MULTIMODAL = False
    return f'transformers has no {", ".join(missing)}'


def _missing():
    """Return the names of :data:`_NEEDED` that an installed transformers lacks, sorted."""
    try:
        importlib.metadata.version('transformers')  # mmpretrain asks in this way
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
