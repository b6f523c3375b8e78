"""Which trained models there are to look at: the last checkpoint of each work dir, with the config of its run."""

from pathlib import Path
from typing import NamedTuple


class TrainedModel(NamedTuple):
    """A model to look at.

    Attributes:
        name: shown on the page; unique.
        config: path of a config, or a name of :func:`mmdefmamba.list_models`.
        checkpoint: path.
    """

    name: str
    config: str
    checkpoint: str


def find_models(folder):
    """The trained models in a folder: itself or its direct subfolders, as far as they are work dirs of MMEngine.

    MMEngine's runs leave there the config (the newest ``.py`` counts) and the name of the last checkpoint.

    Args:
        folder: such as ``work_dirs``; need not exist.

    Returns:
        A list of :class:`TrainedModel`, and a list of lines that say which work dirs were passed over and why.
    """
    folder = Path(folder)
    found, passed_over = [], []
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for work_dir in [folder, *inside]:
        last = work_dir / 'last_checkpoint'
        if not last.is_file():
            continue
        named = Path(last.read_text().strip())
        # a folder may have been moved since
        checkpoint = next((path for path in (work_dir / named.name, named) if path.is_file()), None)
        configs = sorted(work_dir.glob('*.py'), key=lambda path: path.stat().st_mtime)
        if checkpoint is None:
            passed_over.append(f'{work_dir}: its last checkpoint, {named.name}, is gone')
        elif not configs:
            passed_over.append(f'{work_dir}: no config beside {checkpoint.name}')
        else:
            name = work_dir.name.removeprefix('quickstart_')
            found.append(TrainedModel(name, str(configs[-1]), str(checkpoint)))
    return found, passed_over


def with_unique_names(models):
    """The same models; those that share a name get a number."""
    unique, used = [], set()
    for model in models:
        name, number = model.name, 2
        while name in used:
            name, number = f'{model.name} ({number})', number + 1
        used.add(name)
        unique.append(model._replace(name=name))
    return unique
