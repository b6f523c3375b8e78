"""Reading the logs of trainings from MMEngine's ``scalars.json``."""

import json
from pathlib import Path

from ..files import shown


def read_scalars(work_dir):
    """Read the logs of all runs in a work dir, and join the logs of a run that was resumed.

    MMEngine writes one ``TIMESTAMP/vis_data/scalars.json`` per start. The log of a resumed run replaces earlier logs
    from its first step on. The log of a run that starts from the first step replaces all earlier logs.

    Args:
        work_dir: the work dir of ``tools/train.py``.

    Returns:
        Two lists of dicts. The first is the log of training, where ``step`` is the iteration. The second is the log of
        validations, where ``step`` is the epoch, or the iteration in an iteration-based training. A list is empty if
        nothing was logged.

    Raises:
        ValueError: a line is not JSON. Only the last line of a file may be incomplete, because the run may have been
            killed while it wrote.
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
                raise ValueError(f'{shown(path)}, line {number} is not JSON: {text[:80]!r}') from error
    return lines
