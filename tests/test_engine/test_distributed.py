"""Several processes over gloo train what one process trains, and each ends when another one is lost."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import digit_version

from mmdefmamba.compat import load_safely
from mmdefmamba.engine import distributed

HERE = Path(__file__).parent
PICO = HERE.parents[1] / 'configs/classification/defmamba_pico_digits.py'
TOTAL_BATCH, IMAGES = 32, 128
# Only the order of the images is random, and all ranks draw the same order.
TINY = f"""
_base_ = {str(PICO)!r}
custom_imports = dict(imports=['mmdefmamba', 'lose_rank'])
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 16), depths=(1, 2)), out_indices=1, drop_path_rate=0.0),
    head=dict(in_channels=16),
)
train_dataloader = dict(
    batch_size={TOTAL_BATCH},
    dataset=dict(indices={IMAGES}, pipeline=[_base_.resize, dict(type='PackInputs')]),
)
val_dataloader = dict(batch_size=16, dataset=dict(indices=61))
train_cfg = dict(max_epochs=3, val_interval=3)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=-1))
custom_hooks = [dict(type='LoseRank', rank=-1, how='raise')]
"""
FSDP = """
runner_type = 'FlexibleRunner'
strategy = dict(type='FSDPStrategy', state_dict_cfg='full')
"""


@pytest.fixture(scope='module', autouse=True)
def lose_rank_can_be_imported():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        yield


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text(TINY)
    return path


class KeepLosses(Hook):
    """A hook that writes the loss of each iteration and the final weights of each rank to the work dir."""

    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(outputs['loss'].item())

    def after_train(self, runner):
        Path(runner.work_dir, f'losses{runner.rank}.json').write_text(json.dumps(self.losses))
        torch.save(runner.model.state_dict(), Path(runner.work_dir, f'weights{runner.rank}.pth'))


def run(processes, world_size, config, folder, *options):
    """Train in ``world_size`` processes; 0 means one process without a launcher. Return the exit statuses."""
    arguments = [config, '--work-dir', folder, '--cfg-options', *options]
    if not world_size:
        folder.mkdir()
        return processes.wait([processes.fork(lambda: processes.train(arguments, [KeepLosses()]), folder / 'log.txt')])
    work = [*arguments[:3], '--launcher', 'pytorch', *arguments[3:]]
    return processes.wait(processes.fork_ranks(world_size, lambda rank: processes.train(work, [KeepLosses()]), folder))


def losses(folder, world_size=1):
    """Return the loss of each iteration, averaged over the ranks."""
    of_ranks = [json.loads((folder / f'losses{rank}.json').read_text()) for rank in range(world_size)]
    return torch.tensor(of_ranks, dtype=torch.float64).mean(0)


def epochs(request):
    steps = request.config.getoption('--steps')
    return [] if steps is None else [f'train_cfg.max_epochs={steps * TOTAL_BATCH // IMAGES}']


@pytest.fixture(scope='module')
def one_process(processes, config, request, tmp_path_factory):
    folder = tmp_path_factory.mktemp('one') / 'run'
    assert run(processes, 0, config, folder, 'randomness.seed=0', *epochs(request)) == [0]
    return folder


@pytest.mark.parametrize('world_size', [2, 4])
def test_losses_equal_those_of_one_process_with_the_same_total_batch(
    world_size, one_process, processes, config, request, tmp_path
):
    options = ['randomness.seed=0', f'train_dataloader.batch_size={TOTAL_BATCH // world_size}', *epochs(request)]
    assert run(processes, world_size, config, tmp_path / 'run', *options) == [0] * world_size
    found, expected = losses(tmp_path / 'run', world_size), losses(one_process)
    difference = (found / expected - 1).abs()
    print(f'{world_size} processes, {len(found)} steps: largest relative difference of a loss {difference.max():.1e}')
    assert len(found) == len(expected) >= 12
    assert difference.max() < 1e-5
    first, *others = (torch.load(tmp_path / f'run/weights{rank}.pth') for rank in range(world_size))
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


@pytest.mark.parametrize('world_size', [4])
def test_all_ranks_take_equally_many_steps_when_images_do_not_divide_evenly(world_size, processes, config, tmp_path):
    """61 images: the last batch is smaller. Some images are drawn twice, so that all ranks take equally many steps."""
    options = ['train_dataloader.dataset.indices=61', 'train_dataloader.batch_size=6', 'train_cfg.max_epochs=2']
    assert run(processes, world_size, config, tmp_path / 'run', *options) == [0] * world_size
    of_rank = -(-61 // world_size)
    assert len(losses(tmp_path / 'run', world_size)) == 2 * -(-of_rank // 6)
    assert losses(tmp_path / 'run', world_size).isfinite().all()


def losing(rank, how):
    return [f'custom_hooks.0.rank={rank}', f'custom_hooks.0.how={how}']


def seconds_since_lost(folder):
    return time.time() - float((folder / 'lost').read_text())


@pytest.mark.parametrize(('how', 'lost'), [('kill', 0), ('kill', 1), ('raise', 0), ('hang', 1)])
def test_a_rank_ends_by_itself_when_another_is_lost(how, lost, processes, config, tmp_path):
    """This runs without torchrun, which would end the ranks of its own machine only."""
    arguments = [config, '--work-dir', tmp_path / 'run', '--launcher', 'pytorch', '--cfg-options', *losing(lost, how)]
    # a rank that hangs is noticed only when the timeout is over, so that the timeout is short here
    timeout = 5 if how == 'hang' else 120
    arguments.append(f'env_cfg.dist_cfg.timeout={timeout}')
    ranks = processes.fork_ranks(2, lambda rank: processes.train(arguments), tmp_path / 'run')
    (status,) = processes.wait([ranks[1 - lost]])
    passed = seconds_since_lost(tmp_path / 'run')
    if how == 'hang':
        os.kill(ranks[lost], signal.SIGKILL)
    assert processes.wait([ranks[lost]]) == [1 if how == 'raise' else -9]
    assert status == 1
    print(f'rank {lost} lost ({how}): the other ended {passed:.1f} s later')
    assert (4 if how == 'hang' else 0) < passed < 20


def test_dist_train_ends_when_a_rank_is_killed(run_distributed, processes, config, tmp_path):
    """tools/dist_train.sh with data workers, as users run it, fails soon and leaves no process behind."""
    options = [*losing(1, 'kill'), 'train_dataloader.num_workers=1', 'train_dataloader.batch_size=8']
    arguments = [config, 2, '--work-dir', tmp_path / 'run', '--cfg-options', *options]
    output = run_distributed('dist_train.sh', *arguments, folder=HERE, fails=True)
    passed = seconds_since_lost(tmp_path / 'run')
    print(f'dist_train.sh ended {passed:.1f} s after a rank was killed')
    assert 'Signal 9 (SIGKILL)' in output
    assert passed < 60
    processes.wait_until(lambda: not running(str(tmp_path)), 10)


def running(word):
    """Return the command lines that contain ``word``, also of data workers. Zombies have no command line."""
    found = []
    for entry in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            line = entry.read_bytes().replace(b'\0', b' ').decode(errors='replace')
        except OSError:  # the process has ended
            continue
        if word in line:
            found.append(line)
    return found


def test_fsdp_on_a_cpu_is_refused_before_pytorch_2_14(monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.12.0+cu130')
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cpu')
    with pytest.raises(RuntimeError, match=r'FSDP on a CPU needs PyTorch 2.14, but this is 2.12.0'):
        distributed.AnyDeviceFullyShardedDataParallel(torch.nn.Linear(1, 1))


@pytest.mark.skipif(digit_version(torch.__version__) < digit_version('2.14'), reason='refused before PyTorch 2.14')
def test_fsdp_trains_and_saves_what_one_process_loads(processes, config, one_process, tmp_path):
    path = tmp_path / 'fsdp.py'
    path.write_text(f'_base_ = {str(config)!r}\n{FSDP}')
    options = ['randomness.seed=0', f'train_dataloader.batch_size={TOTAL_BATCH // 2}', 'train_cfg.max_epochs=1']
    assert run(processes, 2, path, tmp_path / 'run', *options) == [0, 0]
    expected = losses(one_process)[: IMAGES // TOTAL_BATCH]
    torch.testing.assert_close(losses(tmp_path / 'run', 2), expected, rtol=1e-5, atol=0)

    saved, alone = (load_safely(folder / 'epoch_1.pth') for folder in (tmp_path / 'run', one_process))
    assert saved['meta']['iter'] == alone['meta']['iter']
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.load_state_dict(saved['state_dict'], strict=True)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, alone['state_dict'][name], rtol=1e-3, atol=1e-5)
