"""The trained models of a machine: the last checkpoint of each work dir, with the config of its run."""

from pathlib import Path
from typing import NamedTuple

from ..files import shown
from ..tensor_files import SUFFIX

MAX_NOTE = 10_000  # characters of the file last_checkpoint


class TrainedModel(NamedTuple):
    """A trained model.

    Attributes:
        name: name on the page; it is unique.
        config: path of a config, or a name from :func:`mmdefmamba.list_models`.
        checkpoint: path of the checkpoint.
    """

    name: str
    config: str
    checkpoint: str


def find_models(folder):
    """Find the trained models in a folder and its direct subfolders.

    A work dir of MMEngine contains the config of the run (the newest ``.py`` is taken) and the name of the last
    checkpoint. Where no name is given, the newest file of safetensors beside a config is taken.

    Args:
        folder: a folder such as ``work_dirs``; it need not exist.

    Returns:
        A list of :class:`TrainedModel`, and a list with one line per skipped work dir, which gives the reason.
    """
    folder = Path(folder)
    found, skipped = [], []
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for work_dir in [folder, *inside]:
        last = work_dir / 'last_checkpoint'
        configs, published = _by_age(work_dir.glob('*.py')), _by_age(work_dir.glob(f'*{SUFFIX}'))
        if not last.is_file():
            if configs and published:
                found.append(TrainedModel(shown(work_dir.name), str(configs[-1]), str(published[-1])))
            continue
        try:
            with open(last, encoding='utf-8') as file:
                named = Path(file.read(MAX_NOTE).strip())
            # the folder may have been moved after the run
            checkpoint = next((path for path in (work_dir / named.name, named) if path.is_file()), None)
        except (OSError, ValueError) as error:  # not a text, or no name that a file can have
            skipped.append(f'{shown(work_dir)}: its last_checkpoint cannot be read: {error}')
            continue
        if checkpoint is None:
            skipped.append(f'{shown(work_dir)}: its last checkpoint, {shown(named.name)}, does not exist')
        elif not configs:
            skipped.append(f'{shown(work_dir)}: there is no config next to {shown(checkpoint.name)}')
        else:
            name = shown(work_dir.name).removeprefix('quickstart_')
            found.append(TrainedModel(name, str(configs[-1]), str(checkpoint)))
    return found, skipped


def _by_age(files):
    return sorted(files, key=lambda path: path.stat().st_mtime)


def without_repetitions(models):
    """Return the same models without those whose checkpoint an earlier one has."""
    first = {}
    for model in models:
        first.setdefault(Path(model.checkpoint).resolve(), model)
    return list(first.values())


def with_unique_names(models):
    """Return the same models with unique names: the second model of a name gets ``(2)``, and so on."""
    unique, used = [], set()
    for model in models:
        name, number = model.name, 2
        while name in used:
            name, number = f'{model.name} ({number})', number + 1
        used.add(name)
        unique.append(model._replace(name=name))
    return unique
