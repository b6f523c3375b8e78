"""How the options change a config, and which ones are refused. Nothing is trained."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdefmamba.cli import run_options as cli
from mmdefmamba.engine.distributed import init_without_gpu
from mmdefmamba.guards.config_errors import explain_errors

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'
PICO = ROOT / 'configs/classification/defmamba_pico_digits.py'
VISUALIZERS = {
    'VisualizationHook': dict(enable=True, out_dir='drawn'),
    'DetVisualizationHook': dict(draw=True, test_out_dir='drawn'),
    'SegVisualizationHook': dict(draw=True),
}


@pytest.fixture
def write(tmp_path):
    def write(**items):
        path = tmp_path / 'small.py'
        Config(items).dump(path)
        return str(path)

    return write


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    path.touch()
    return str(path)


def train_config(*args):
    return cli.train_config(cli.train_parser().parse_args(args))


def test_config(*args):
    return cli.test_config(cli.test_parser().parse_args(args))


test_config.__test__ = False


def test_missing_file_error_gives_path(write, checkpoint):
    for config in (train_config, lambda path: test_config(path, checkpoint)):
        with pytest.raises(FileNotFoundError, match=r'config no/such\.py does not exist, seen from /'):
            config('no/such.py')
    with pytest.raises(FileNotFoundError, match=r'checkpoint no/such\.pth does not exist'):
        test_config(write(), 'no/such.pth')
    with pytest.raises(FileNotFoundError, match=r'checkpoint no/such\.pth does not exist'):
        train_config(write(), '--resume', 'no/such.pth')


@pytest.mark.parametrize('name', ['get_flops', 'compare_order_gradients'])
def test_analysis_tools_say_where_they_looked_for_a_config(tools, monkeypatch, name):
    monkeypatch.setattr('sys.argv', [name, 'no/such.py'])
    with pytest.raises(FileNotFoundError, match=r'config no/such\.py does not exist, seen from /'):
        tools[f'analysis_tools/{name}']()


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['c.py', '--ampp'], 'unrecognized arguments: --ampp'),
        (['c.py', '--cfg-options', 'lr'], "--cfg-options takes KEY=VALUE, got 'lr'"),
        (['c.py', '--launcher', 'torch'], "invalid choice: 'torch'"),
        ([], 'required: config'),
    ],
)
def test_malformed_option_error_names_the_option(args, message, capsys):
    with pytest.raises(SystemExit, match='2'):
        cli.train_parser().parse_args(args)
    assert message in capsys.readouterr().err


def test_misspelt_key_error_gives_suggestion(write):
    with pytest.raises(ValueError, match="no component reads the config key 'optim_wraper', did you mean"):
        train_config(write(optim_wraper=dict(optimizer=dict(lr=1.0))))
    with pytest.raises(ValueError, match=r"'train_dataloaders', did you mean 'train_dataloader'"):
        train_config(write(), '--cfg-options', 'train_dataloaders.batch_size=4')
    # variables of the config, and keys that only the libraries read, are allowed
    assert (
        train_config(write(image_size=32, max_epochs=3, data_root='x', backend_args=None, optimizer=1)).max_epochs == 3
    )


@pytest.mark.parametrize(
    ('backbone', 'message'),
    [
        (
            dict(drop_path_rat=0.1),
            r"DefMamba does not take the argument 'drop_path_rat'. Did you mean 'drop_path_rate'\?",
        ),
        (dict(zzz=0.1), r"DefMamba does not take the argument 'zzz'. It takes: arch, formulation, scans, .*init_cfg\."),
    ],
)
def test_misspelt_argument_error_gives_suggestion(backbone, message, tmp_path):
    cfg = train_config(str(PICO), '--work-dir', str(tmp_path))
    cfg.model.backbone.update(backbone)
    with pytest.raises(TypeError, match=message), explain_errors(cfg):
        cli.build_runner(cfg)


def test_work_dir_comes_from_option_then_config_then_name(write):
    assert train_config(write()).work_dir == 'work_dirs/small'
    path = write(work_dir='of_config')
    assert train_config(path).work_dir == 'of_config'
    assert train_config(path, '--cfg-options', 'work_dir=of_options').work_dir == 'of_options'
    assert train_config(path, '--work-dir', 'mine').work_dir == 'mine'


def test_resume_without_checkpoint_starts_from_load_from(write, checkpoint, tmp_path):
    pretrained = str(tmp_path / 'pretrained.pth')
    torch.save({}, pretrained)
    path = write(work_dir=str(tmp_path), load_from=pretrained)
    assert train_config(path).get('resume') is None
    first = train_config(path, '--resume')
    assert (first.resume, first.load_from) == (False, pretrained)
    torch.save({}, checkpoint)
    (tmp_path / 'last_checkpoint').write_text(checkpoint)
    later = train_config(path, '--resume')
    assert (later.resume, later.load_from) == (True, checkpoint)
    chosen = train_config(path, '--resume', checkpoint)
    assert (chosen.resume, chosen.load_from) == (True, checkpoint)


def test_loader_and_validation_options(write):
    loader = dict(dataset=dict(), pin_memory=True, persistent_workers=True)
    loaders = {f'{name}_dataloader': loader for name in ('train', 'val', 'test')}
    path = write(**loaders, val_cfg=dict(), val_evaluator=dict(type='Accuracy'))
    cfg = train_config(path, '--no-validate', '--no-pin-memory', '--no-persistent-workers')
    assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None
    expected = dict(dataset=dict(), pin_memory=False, persistent_workers=False)
    assert cfg.train_dataloader == cfg.test_dataloader == expected


def test_amp_option_needs_a_gpu_and_keeps_the_optimizer(write, monkeypatch):
    monkeypatch.setattr(cli, 'get_device', lambda: 'cpu')
    path = write(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)))
    with pytest.raises(ValueError, match='--amp needs a GPU'):
        train_config(path, '--amp')
    monkeypatch.setattr(cli, 'get_device', lambda: 'cuda')
    wrapper = train_config(path, '--amp').optim_wrapper
    assert (wrapper.type, wrapper.loss_scale, wrapper.optimizer.lr) == ('AmpOptimWrapper', 'dynamic', 0.1)
    wrapper = train_config(path, '--amp', '--cfg-options', 'optim_wrapper.loss_scale=512.0').optim_wrapper
    assert wrapper.loss_scale == 512
    with pytest.raises(ValueError, match=r"--amp needs .* got 'Mine'"):
        train_config(path, '--amp', '--cfg-options', 'optim_wrapper.type=Mine')


def test_auto_scale_lr_needs_a_base_batch_size(write):
    cfg = train_config(write(auto_scale_lr=dict(base_batch_size=1024)), '--auto-scale-lr')
    assert cfg.auto_scale_lr == dict(base_batch_size=1024, enable=True)
    with pytest.raises(ValueError, match=r'auto_scale_lr\.base_batch_size=N'):
        train_config(write(), '--auto-scale-lr')


@pytest.mark.parametrize('hook', VISUALIZERS)
def test_show_dir_reaches_every_library(write, checkpoint, hook):
    path = write(default_hooks=dict(visualization=dict(type=hook)), visualizer=dict(type='V'))
    cfg = test_config(path, checkpoint, '--show-dir', 'drawn', '--wait-time', '0.5', '--interval', '3')
    expected = dict(VISUALIZERS[hook], type=hook, show=False, wait_time=0.5, interval=3)
    assert cfg.default_hooks.visualization == expected
    assert cfg.visualizer.get('save_dir') == ('drawn' if hook == 'SegVisualizationHook' else None)
    assert test_config(path, checkpoint, '--show').default_hooks.visualization.show is True


def test_show_needs_a_visualization_hook(write, checkpoint):
    with pytest.raises(ValueError, match=r'default_hooks\.visualization is \{\}'):
        test_config(write(), checkpoint, '--show')


def test_out_takes_a_pickle_or_for_segmentation_a_folder(write, checkpoint):
    path = write(test_evaluator=dict(type='IoUMetric'))
    assert test_config(path, checkpoint, '--out', 'masks').test_evaluator.output_dir == 'masks'
    assert test_config(path, checkpoint, '--out', 'masks.pkl').test_evaluator == dict(type='IoUMetric')
    with pytest.raises(ValueError, match=r"--out needs a \.pkl or \.pickle file, got 'pred\.json'"):
        test_config(write(test_evaluator=dict(type='Accuracy')), checkpoint, '--out', 'pred.json')
    with pytest.raises(ValueError, match='--out must name'):
        test_config(path, checkpoint, '--out-item', 'metrics')


def test_tta_uses_tta_model_and_tta_pipeline(write, checkpoint):
    items = dict(model=dict(type='M'), test_dataloader=dict(dataset=dict(type='R', dataset=dict(pipeline=['plain']))))
    with pytest.raises(ValueError, match=r'--tta: .*small\.py defines no tta_model'):
        test_config(write(**items), checkpoint, '--tta')
    with pytest.raises(ValueError, match='defines no tta_pipeline'):
        test_config(write(**items, tta_model=dict(type='T')), checkpoint, '--tta')
    cfg = test_config(write(**items, tta_model=dict(type='T'), tta_pipeline=['views']), checkpoint, '--tta')
    assert cfg.model == dict(type='T', module=dict(type='M'))
    assert cfg.test_dataloader.dataset.dataset.pipeline == ['views']


def test_only_torchrun_works_without_a_gpu(monkeypatch):
    monkeypatch.setattr('mmdefmamba.engine.distributed.get_device', lambda: 'cpu')
    assert init_without_gpu(Config(dict(launcher='none'))) is None
    with pytest.raises(ValueError, match='--launcher slurm needs a GPU'):
        init_without_gpu(Config(dict(launcher='slurm')))


@pytest.mark.parametrize(
    ('script', 'args', 'expected'),
    [
        ('train', 'part job c.py wd --amp', 'train.py c.py --launcher slurm --work-dir wd --amp'),
        ('train', 'part job c.py --resume', 'train.py c.py --launcher slurm --resume'),
        ('train', 'part job c.py', 'train.py c.py --launcher slurm'),
        ('test', 'part job c.py c.pth --tta', 'test.py c.py c.pth --launcher slurm --tta'),
    ],
)
def test_slurm_scripts_call_srun(script, args, expected, tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    env = dict(os.environ, PATH=f'{tmp_path}:{os.environ["PATH"]}', GPUS='16', SRUN_ARGS='--quiet --time=1')
    command = [TOOLS / f'slurm_{script}.sh', *args.split()]
    line = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert line.startswith('--partition=part --job-name=job --gres=gpu:8 --ntasks=16 --ntasks-per-node=8')
    assert '--quiet --time=1 python -u' in line
    assert line.endswith(f'/{expected}\n')


@pytest.mark.parametrize('script', ['dist_train', 'dist_test', 'slurm_train', 'slurm_test'])
def test_scripts_print_their_usage(script):
    done = subprocess.run([TOOLS / f'{script}.sh', 'c.py'], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith('usage: ')
