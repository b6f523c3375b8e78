"""Errors of a data pipeline that do not say which sample they are about.

Defect: a run-length code that does not decode, a crop that finds no pixel, a missing ``mask``: whatever a transform
raises ends the training, and among a million images nobody knows which one it was.
Seen in: mmengine 0.11.0rc3.
Can go: when ``BaseDataset.prepare_data`` names the sample.
"""

import functools

from mmengine.dataset import BaseDataset

_PATHS = ('img_path', 'seg_map_path')


def apply():
    """Have MMEngine's datasets name the sample that a transform failed on.

    Returns:
        What was done and why, one line; None where it was done already.
    """
    if hasattr(BaseDataset.prepare_data, '__wrapped__'):
        return None
    BaseDataset.prepare_data = _naming_the_sample(BaseDataset.prepare_data)
    return 'errors of data pipelines name the sample: they would not'


def _naming_the_sample(prepare_data):
    @functools.wraps(prepare_data)
    def prepare(self, idx):
        try:
            return prepare_data(self, idx)
        except Exception as error:
            info = self.get_data_info(idx)
            paths = [str(info[key]) for key in _PATHS if info.get(key)]
            if any(path in str(error) for path in paths):
                raise
            # no type of its own: data workers pass on an error by its type and text alone
            raise RuntimeError(
                f'sample {idx} of {type(self).__name__}, {" and ".join(paths) or "in memory"}: '
                f'{type(error).__name__}: {error}'
            ) from error

    return prepare
