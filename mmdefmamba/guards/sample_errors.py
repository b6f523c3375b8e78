"""The guard ``sample_errors``: an error in a data pipeline says which sample it is about.

Without it: whatever a transform raises (a mask that does not decode, a crop without a pixel, a key that is missing)
ends the training, and among a million images nobody knows which one it was.
Seen in: mmengine 0.11.0rc3.
Can go: when ``BaseDataset.prepare_data`` names the sample.
"""

from ..files import shown
from .loading import guarded

_NAME = 'sample_errors'
_KEPT = (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError)
_PATHS = ('img_path', 'seg_map_path')


def install(module):
    """Guard the pipelines of all datasets of MMEngine; ``module`` is the one that defines BaseDataset."""
    guarded(module.BaseDataset, 'prepare_data', _NAME, _naming_the_sample)


def _naming_the_sample(prepare_data):
    def prepare(self, idx):
        try:
            return prepare_data(self, idx)
        except Exception as error:
            info = self.get_data_info(idx)
            paths = [str(info[key]) for key in _PATHS if info.get(key)]
            if any(name in str(error) for path in paths for name in (path, shown(path))):
                raise
            text = f'sample {idx} of {type(self).__name__}, {shown(" and ".join(paths) or "in memory")}: '
            # of the same type where that is one of these: a dataset may catch it. A data worker hands on type and text
            kind = type(error) if type(error) in _KEPT else RuntimeError
            raise kind(f'{text}{type(error).__name__}: {error}') from error

    return prepare
