"""Checkpoint files that a config names: whether they exist, before the model is built and the data are read."""

from pathlib import Path

from ..config_tree import dicts_in
from ..files import shown, split_checkpoint


def check_checkpoint_files(cfg):
    """Refuse a config whose training would load a checkpoint file that does not exist.

    URLs and names that MMEngine looks up, such as ``torchvision://resnet50``, are not checked.

    Args:
        cfg: an MMEngine Config.

    Raises:
        FileNotFoundError: gives the key and the path.
    """
    files = {'load_from': cfg.get('load_from')}
    for path, node in dicts_in(cfg.get('model') or {}, ('model',)):
        if str(node.get('type', '')).rpartition('.')[2] == 'Pretrained':
            files['.'.join([*path, 'checkpoint'])] = node.get('checkpoint')
    for key, file in files.items():
        if not isinstance(file, str):
            continue
        file, *_ = split_checkpoint(file)
        if '://' not in file and not Path(file).expanduser().exists():
            raise FileNotFoundError(
                f'{key}: the checkpoint {shown(file)} does not exist, seen from {shown(Path.cwd())}'
            )
