"""What trainings logged, read back from MMEngine's ``scalars.json``."""

import json
from pathlib import Path


def read_scalars(work_dir):
    """Read what the runs in a work dir logged, resumed ones as one.

    MMEngine writes ``TIMESTAMP/vis_data/scalars.json``, one folder for each start. A run that was resumed takes the
    place of what an earlier one logged from the same step on; one that starts from the first step, of all of it.

    Args:
        work_dir: the work dir of ``tools/train.py``.

    Returns:
        Two lists of dicts, what was logged in training (``step`` is the iteration) and after validations (``step`` is
        the epoch, or the iteration where training goes by iterations). Empty where nothing was logged.

    Raises:
        ValueError: a line that is not JSON, other than the last one of a file, which a kill may have cut short.
    """
    training, validation = [], []
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        lines = _lines(path)
        trained = [line for line in lines if 'lr' in line or 'loss' in line]
        validated = [line for line in lines if line not in trained]
        if trained:
            first = trained[0]
            anew = len(trained) > 1 and first['step'] <= trained[1]['step'] - first['step']
            training = [line for line in training if not anew and line['step'] < first['step']]
            begin = first.get('epoch', first['step'])
            validation = [line for line in validation if not anew and line['step'] < begin]
        training += trained
        validation += validated
    return training, validation


def _lines(path):
    texts = path.read_text('utf-8').splitlines()
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError as error:
            if number < len(texts):
                raise ValueError(f'{path}, line {number} is not JSON: {text[:80]!r}') from error
    return lines
