"""The guard ``metric_names``: the scores that hooks and schedulers wait for are among those of the evaluator.

Without it: ``save_best='mIoU'`` beside an evaluator that gives other scores is found after the first validation, or
passes with a warning, and the best checkpoint is never saved.
"""

from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.registry import HOOKS

from ..names import unknown_name
from .coco_files import mask_errors, shorten
from .runs import is_built

_SIZES = ('', '_50', '_75', '_s', '_m', '_l')
_RECALLS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')


@HOOKS.register_module()
class MetricNamesHook(Hook):
    """Look, before a training, for names of scores that the evaluator does not give, and for masks that it cannot read.

    Evaluators of which a metric is not known to this guard are left alone.

    Raises:
        ValueError: names the setting, the score, and the scores that exist; or the file and the annotation.
    """

    def before_train(self, runner):
        if not is_built(runner, 'val'):
            return
        check_masks(runner.val_evaluator)
        check_names(runner, runner.val_evaluator)

    def before_test(self, runner):
        check_masks(runner.test_evaluator)


def check_names(runner, evaluator):
    """Refuse a name of a score that the hooks or schedulers of a runner wait for and the evaluator does not give.

    Raises:
        ValueError: names the setting, the score, and the scores that exist.
    """
    known = evaluator_names(evaluator)
    for setting, name in wanted_names(runner) if known is not None else ():
        if name not in known:
            remedy = f'It gives {", ".join(sorted(known)) or "no score"}'
            raise ValueError(unknown_name(f'{setting}: the evaluator gives no {name!r}', name, known, remedy))


def wanted_names(runner):
    """Return pairs (setting, name of a score) of the hooks and schedulers of a runner."""
    wanted = []
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook):
            names = [hook.save_best] if isinstance(hook.save_best, str) else hook.save_best or ()
            wanted += [('save_best', name) for name in names if name != 'auto']
        elif isinstance(hook, EarlyStoppingHook):
            wanted.append(('EarlyStoppingHook.monitor', hook.monitor))
    schedulers = runner.param_schedulers or []
    groups = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
    for scheduler in (each for group in groups for each in group):
        if getattr(scheduler, 'need_val_args', False):
            wanted.append((f'{type(scheduler).__name__}.monitor', scheduler.monitor))
    return wanted


def evaluator_names(evaluator):
    """Return the names of all scores that an evaluator gives, a set; None if it is not known."""
    if type(evaluator) is not Evaluator:
        return None
    names = [metric_names(metric) for metric in evaluator.metrics]
    return None if None in names else set().union(*names)


def metric_names(metric):
    """Return the names of the scores of a metric of mmpretrain, mmdet or mmseg, a set; None if it is not known."""
    kind = type(metric)
    find = _FINDERS.get(kind.__name__)
    if find is None or kind.__module__.partition('.')[0] not in ('mmengine', 'mmpretrain', 'mmdet', 'mmseg'):
        return None
    return {f'{metric.prefix}/{name}' if metric.prefix else name for name in find(metric)}


def check_masks(evaluator):
    """Refuse a COCO file whose masks the evaluator needs and cannot read.

    Raises:
        ValueError: names the annotations.
    """
    for metric in evaluator.metrics:
        content = getattr(getattr(metric, '_coco_api', None), 'dataset', None)
        # CocoMetric lists the kinds of its evaluation in `metrics`
        if isinstance(content, dict) and 'segm' in getattr(metric, 'metrics', ()):
            errors = mask_errors(content.get('annotations') or (), evaluated=True)
            if errors:
                raise ValueError(
                    f'{type(metric).__name__} with metric segm cannot read {len(errors)} masks of its ann_file. '
                    f'{shorten(errors)}'
                )


def _coco(metric):
    names = []
    for kind in () if metric.format_only else metric.metrics:
        if kind == 'proposal_fast':
            names += [f'AR@{number}' for number in metric.proposal_nums]
        elif kind == 'proposal':
            names += metric.metric_items or _RECALLS
        else:
            names += [f'{kind}_{item}' for item in metric.metric_items or [f'mAP{size}' for size in _SIZES]]
            if metric.classwise:
                names += [f'{name}_precision' for name in metric.dataset_meta['classes']]
    return names


def _voc(metric):
    if metric.metric == 'mAP':
        return ['mAP', *(f'AP{int(threshold * 100):02d}' for threshold in metric.iou_thrs)]
    names = [f'recall@{number}@{threshold}' for number in metric.proposal_nums for threshold in metric.iou_thrs]
    return names + ([f'AR@{number}' for number in metric.proposal_nums] if len(metric.iou_thrs) > 1 else [])


def _iou(metric):
    parts = {'mIoU': ('mIoU', 'mAcc'), 'mDice': ('mDice', 'mAcc'), 'mFscore': ('mFscore', 'mPrecision', 'mRecall')}
    return [] if metric.format_only else ['aAcc', *(name for kind in metric.metrics for name in parts.get(kind, ()))]


def _thresholds(names, thresholds):
    if len(thresholds) == 1:
        return names
    ends = ['_no-thr' if threshold is None else f'_thr-{threshold:.2f}' for threshold in thresholds]
    return [name + end for name in names for end in ends]


def _accuracy(metric):
    return _thresholds([f'top{k}' for k in metric.topk], metric.thrs)


def _averaged(names, average, plain):
    """Add how mmpretrain averages over classes to names; ``plain`` are the averages that it does not name."""
    return [
        f'{name}_classwise' if average is None else name if average in plain else f'{name}_{average}' for name in names
    ]


def _single_label(metric):
    # 'support' is summed up over all classes, and only 'micro' is part of a name
    return _averaged(_thresholds(list(metric.items), metric.thrs), metric.average, ('macro', 'weighted'))


def _multi_label(metric):
    threshold = '' if metric.thr == 0.5 else f'_thr-{metric.thr or 0:.2f}'
    end = threshold if metric.thr else f'_top{metric.topk}'
    return _averaged([f'{name}{end}' for name in metric.items], metric.average, ('macro',))


def _average_precision(metric):
    return ['AP_classwise' if metric.average is None else 'mAP']


def _nothing(metric):
    return []


_FINDERS = {
    'Accuracy': _accuracy,
    'AveragePrecision': _average_precision,
    'CocoMetric': _coco,
    'DumpDetResults': _nothing,
    'DumpResults': _nothing,
    'IoUMetric': _iou,
    'MultiLabelMetric': _multi_label,
    'SingleLabelMetric': _single_label,
    'VOCMetric': _voc,
}
