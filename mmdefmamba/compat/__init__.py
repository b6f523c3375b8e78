"""Mends for upstream defects, each in its own module, which says when it can go."""

import logging

from . import data_workers, logged_metrics, mmcv_ops, multimodal, thin_images, yaml_files
from . import safe_loading as checkpoints
from .safe_loading import load_safely, trust_checkpoints

__all__ = ['apply', 'load_safely', 'trust_checkpoints']
_PATCHES = (
    mmcv_ops,
    checkpoints,
    multimodal,
    data_workers,
    logged_metrics,
    thin_images,
    yaml_files,
)


def apply():
    """Apply every patch that this environment needs and that is not applied yet; logs one line for each."""
    for patch in _PATCHES:
        done = patch.apply()
        if done:
            logging.getLogger('mmdefmamba').info(done)
