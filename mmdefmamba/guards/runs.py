"""What the guards ask of MMEngine's Runner, which keeps it in private attributes."""

from mmengine.runner import BaseLoop


def is_built(runner, split):
    """Return whether a runner has built its loop for ``'train'``, ``'val'`` or ``'test'``, as it does before a run."""
    if split == 'train':
        return isinstance(runner._train_loop, BaseLoop)
    return isinstance(runner._val_loop if split == 'val' else runner._test_loop, BaseLoop)


def is_resumed(runner):
    """Return whether a runner resumes a training, rather than load its weights alone."""
    return bool(runner._resume)


def loaded_file(runner):
    """Return the path or URL of the checkpoint that a runner loads, or None."""
    return runner._load_from
