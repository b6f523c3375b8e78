"""The options of tools/train.py and tools/test.py, and how they change a config.

There is one set of options for all three tasks, with the names that users of mmpretrain, mmdet and mmseg know.
``--cfg-options`` are applied first; the other options act on the result.
"""

import os
from pathlib import Path

from mmengine.config import ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.evaluator import DumpResults
from mmengine.logging import print_log
from mmengine.registry import RUNNERS

from ..apis.zoo import load_config
from ..checkpoints import resume_if_possible
from ..config_tree import innermost_dataset, library_of, type_name
from ..engine.distributed import init_without_gpu
from ..engine.start_log import BriefRunner
from ..files import decodable, existing_file, shown
from ..guards.config_files import check_checkpoint_files
from ..guards.config_keys import check_keys, check_options
from ..guards.hook import guards_hook
from .program import Parser
from .start import resume_after_restart

# The arguments by which the hooks of the three libraries draw tested images: the switch, and the folder.
_VISUALIZATION_HOOKS = {
    'VisualizationHook': ('enable', 'out_dir'),  # mmpretrain
    'DetVisualizationHook': ('draw', 'test_out_dir'),
    'SegVisualizationHook': ('draw', None),  # into the visualizer's save_dir
}


class CfgOptions(DictAction):
    """MMEngine's ``KEY=VALUE ...``, with an error for a value that cannot be parsed."""

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            key, equals, given = value.partition('=')
            if not equals:
                parser.error(f'{option_string} takes KEY=VALUE, got {value!r}')
            if 'dict(' in given or '{' in given:
                parser.error(f'{option_string} takes no dicts, got {value!r}: set their keys, {key}.KEY=VALUE')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, RecursionError):  # MMEngine raises these for brackets that do not close
            parser.error(f'{option_string} takes numbers, words, (a,b) and [a,b] as values, got {" ".join(values)}')


def train_parser():
    """Return the parser of tools/train.py."""
    parser = Parser(description='Train a model.')
    parser.add_argument('config', help='path of the config')
    _add_common(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from this checkpoint; without a path, from the latest one in the work dir if there is one',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--no-validate', action='store_true', help='do not validate while training')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by batch size / the config's base batch size",
    )
    parser.add_argument('--no-persistent-workers', action='store_true', help='start new data workers in each epoch')
    return parser


def test_parser():
    """Return the parser of tools/test.py."""
    parser = Parser(description='Test a checkpoint.')
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    _add_common(parser)
    parser.add_argument(
        '--out',
        help='save predictions to this .pkl file (segmentation: or, as one PNG per image, to this folder); '
        'see --out-item',
    )
    parser.add_argument('--out-item', choices=('pred', 'metrics'), default='pred', help='what --out saves')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='save drawn predictions to this folder')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds to show each image')
    parser.add_argument('--interval', type=int, default=1, help='draw one of so many images (segmentation: batches)')
    parser.add_argument('--tta', action='store_true', help="test-time augmentation, by the config's tta_model")
    return parser


def _add_common(parser):
    parser.add_argument('--work-dir', help='folder for logs and checkpoints, ./work_dirs/CONFIG_NAME by default')
    parser.add_argument('--report', metavar='DIR', help='write an HTML page of the run to this folder')
    parser.add_argument('--no-pin-memory', action='store_true', help='do not pin memory in data loaders')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='change the config, e.g. model.backbone.drop_path_rate=0.1 key="[(a,b),(c,d)]" (no spaces inside)',
    )
    parser.add_argument(
        '--no-config-check', action='store_true', help='do not look for slips in the keys of the config'
    )
    parser.add_argument('--launcher', choices=('none', 'pytorch', 'slurm', 'mpi'), default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by torch.distributed.launch')


def train_config(args):
    """Return the config that ``train_parser().parse_args()`` asks for.

    Raises:
        FileNotFoundError: the config or the checkpoint does not exist.
        RuntimeError: ``--resume`` was given, and every checkpoint in the work dir is damaged.
        ValueError: an option does not go with the config or the machine, or a key of the config is a slip.
    """
    cfg = _load_config(args)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.resume == 'auto':
        resume_if_possible(cfg)
    elif args.resume:
        cfg.resume, cfg.load_from = True, _existing(args.resume, 'checkpoint')
    if args.resume != 'auto' and int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0:
        resume_after_restart(cfg)
    check_checkpoint_files(cfg)
    if args.amp:
        _use_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError(
                f'--auto-scale-lr: {shown(args.config)} does not say for which batch size its learning rate is; add '
                '--cfg-options auto_scale_lr.base_batch_size=N'
            )
        cfg.auto_scale_lr.enable = True
    if args.no_persistent_workers:
        _set_in_dataloaders(cfg, persistent_workers=False)
    return cfg


def test_config(args):
    """Return the config that ``test_parser().parse_args()`` asks for.

    Raises:
        FileNotFoundError: the config or the checkpoint does not exist.
        ValueError: an option does not go with the config, or a key of the config is a slip.
    """
    cfg = _load_config(args)
    cfg.load_from = _existing(args.checkpoint, 'checkpoint')
    if args.out_item == 'metrics' and not args.out:
        raise ValueError('--out-item metrics: --out must name the file to save the metrics to')
    if args.out and args.out_item == 'pred' and not _is_pickle(args.out):
        _save_masks(cfg, args.out)
    if args.show or args.show_dir:
        _draw(cfg, args)
    if args.tta:
        _use_tta(cfg, args.config)
    return cfg


def build_runner(cfg):
    """Build the runner of a config, also for a distributed run without a GPU.

    Raises:
        ValueError: the config has no model.
    """
    if not cfg.get('model'):
        raise ValueError(f"{shown(cfg.filename)} has no 'model': does it name its base configs in '_base_'?")
    done = init_without_gpu(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else BriefRunner.from_cfg(cfg)
    if done:
        runner.logger.info(done)
    if getattr(runner, 'details', None):
        runner.logger.info(
            f'environment, complete config, hooks, and settings of each parameter: {shown(runner.details)}'
        )
    return runner


def add_dump(runner, out):
    """Let the runner save its predictions to ``out`` if that is a pickle file; for others see :func:`test_config`."""
    if not _is_pickle(out):
        return
    dump = DumpResults
    if library_of(runner.cfg) == 'mmdet':
        from mmdet.evaluation import DumpDetResults as dump  # masks as RLE, a hundredth of the size
    runner.test_evaluator.metrics.append(dump(out_file_path=out))


def _load_config(args):
    cfg = load_config(args.config)
    _check(cfg, args)
    cfg.launcher = args.launcher
    if args.launcher != 'none':
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.work_dir or not cfg.get('work_dir'):
        cfg.work_dir = args.work_dir or os.path.join('work_dirs', Path(args.config).stem)
    # MMEngine would fail after an epoch, when it writes last_checkpoint
    _require_valid(cfg.work_dir, 'the name of the work dir', '--work-dir')
    if args.no_pin_memory:
        _set_in_dataloaders(cfg, pin_memory=False)
    if args.report:
        _make_folder(args.report, '--report')
    return cfg


def _check(cfg, args):
    """Apply ``--cfg-options``; look for slips in them and in the config, unless the user does not want that."""
    cfg.merge_from_dict(args.cfg_options or {})
    hook = guards_hook(cfg)
    if not args.no_config_check and 'config_keys' not in (hook or {}).get('leave_out', ()):
        check_options(args.cfg_options or {})
        check_keys(cfg)
    if hook is None:
        print_log(
            f'{shown(args.config)} runs without guards: neither custom_hooks nor default_hooks has a GuardsHook. '
            'configs/_base_/guards.py adds it',
            logger='current',
        )


def _require_valid(folder, what, option):
    if decodable(folder) != folder:
        raise ValueError(f'{what}, {shown(folder)}, is not valid UTF-8. Choose another {option}')


def _existing(path, what):
    # MMEngine looks up URLs and names such as torchvision://resnet50
    if '://' not in path:
        existing_file(path, what)
    return path


def _make_folder(path, option):
    """Make a folder for results before the work begins."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f'{option} needs a folder, but {path!r} cannot be made: {error.strerror}') from error


def _is_pickle(path):
    return path.endswith(('.pkl', '.pickle'))


def _set_in_dataloaders(cfg, **values):
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name):
            cfg[name].update(values)


def _use_amp(cfg):
    if get_device() in ('cpu', 'mps'):
        raise ValueError(
            "--amp needs a GPU: MMEngine's AmpOptimWrapper does not work on other devices. PyTorch sees no GPU here"
        )
    kind = type_name(cfg.optim_wrapper, 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ValueError(f"--amp needs optim_wrapper.type='OptimWrapper', got {kind!r}")
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def _save_masks(cfg, folder):
    evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    evaluators = [evaluator for evaluator in evaluators if type_name(evaluator) == 'IoUMetric']
    if not evaluators:
        raise ValueError(
            f'--out needs a .pkl or .pickle file, got {folder!r}; a folder works for segmentation (IoUMetric)'
        )
    for evaluator in evaluators:
        evaluator.output_dir = folder


def _draw(cfg, args):
    hook = cfg.get('default_hooks', {}).get('visualization') or {}
    if type_name(hook) not in _VISUALIZATION_HOOKS:
        raise ValueError(
            f'--show and --show-dir: default_hooks.visualization is {dict(hook)}, its type must be one of '
            f'{", ".join(_VISUALIZATION_HOOKS)}'
        )
    switch, folder = _VISUALIZATION_HOOKS[type_name(hook)]
    hook.update({switch: True, 'show': args.show, 'wait_time': args.wait_time, 'interval': args.interval})
    if args.show_dir:
        # OpenCV, which writes into it, would end the process
        _require_valid(args.show_dir, 'the name of the folder for pictures', '--show-dir')
        if folder:
            hook[folder] = args.show_dir
        else:
            cfg.visualizer.save_dir = args.show_dir
    if type_name(hook) == 'SegVisualizationHook':
        # it asks the Runner for the iteration of the training, and the Runner would load the training data for that
        cfg.update(dict.fromkeys(('train_cfg', 'train_dataloader', 'optim_wrapper', 'param_scheduler')))


def _use_tta(cfg, config):
    for name in ('tta_model', 'tta_pipeline'):
        if not cfg.get(name):
            raise ValueError(
                f'--tta: {shown(config)} defines no {name}; it needs a tta_model, e.g. '
                "dict(type='mmpretrain.AverageClsScoreTTA'), and a tta_pipeline that ends in TestTimeAug"
            )
    cfg.model = ConfigDict(cfg.tta_model, module=cfg.model)
    innermost_dataset(cfg.test_dataloader.dataset).pipeline = cfg.tta_pipeline
