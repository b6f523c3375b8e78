"""A training that is resumed with another batch follows the schedule of its config, as one that always had it."""

import pytest
import torch

SCHEDULE = """
train_cfg.update(max_epochs=4, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-3, by_epoch=True, begin=1, end=4, T_max=3, convert_to_iter_based=True),
]
"""
BY_HAND = """
train_cfg.update(max_epochs=4, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end={warm_up}),
                   dict(type='PolyLR', power=1.0, by_epoch=False, begin={warm_up}, end={end})]
"""
HALF = 'train_dataloader.batch_size=1'


@pytest.fixture(scope='module')
def started(tiny_class, tools, tmp_path_factory):
    """Return ``start(text)``: a classification of 4 epochs with 2 iterations each, and its checkpoint of epoch 2."""

    def start(text):
        data = tiny_class('classification', tmp_path_factory.mktemp('started'), tools)
        data.config.write_text(data.config.read_text() + text)
        data.train('default_hooks.checkpoint.interval=1', 'default_hooks.checkpoint.max_keep_ckpts=-1')
        # later runs write and remove checkpoints of this name
        return data, str((data.work_dir / 'epoch_2.pth').rename(data.root / 'epoch_2.pth'))

    return start


@pytest.fixture(scope='module')
def converted(started):
    return started(SCHEDULE)


def rates(lines):
    return [line['lr'] for line in lines]


@pytest.mark.parametrize('options', [(HALF,), (HALF, 'train_cfg.max_epochs=6', 'param_scheduler.1.T_max=5'), ()])
def test_learning_rates_are_those_of_an_uninterrupted_run(converted, options):
    data, checkpoint = converted
    per_epoch = 4 if HALF in options else 2
    whole = rates(data.train(*options))
    resumed = data.train(*options, args=['--resume', checkpoint])
    assert rates(resumed) == pytest.approx(whole[2 * per_epoch :], rel=1e-6)
    assert [line['step'] for line in resumed] == list(range(2 * per_epoch + 1, len(whole) + 1))
    assert len(set(whole)) > per_epoch  # a rate that does not change would prove nothing


def test_without_the_guard_the_schedule_keeps_its_old_length(converted):
    data, checkpoint = converted
    whole = rates(data.train(HALF))
    left_out = 'custom_hooks.0.leave_out=[resumed_schedule]'
    assert rates(data.train(HALF, left_out, args=['--resume', checkpoint])) != pytest.approx(whole[8:], rel=0.1)


def test_a_resumed_run_says_what_differs_and_an_equal_one_says_nothing(converted, monkeypatch):
    from mmdefmamba.guards import resumed_schedule

    data, checkpoint = converted
    told = []
    monkeypatch.setattr(resumed_schedule, 'print_log', lambda text, *args: told.append(text))
    data.train(args=['--resume', checkpoint])
    assert told == []
    data.train(HALF, args=['--resume', checkpoint])
    schedule, steps = told
    assert 'CosineAnnealingLR.T_max is 6 in the checkpoint and 12 here' in schedule
    assert 'an epoch had 2 iterations and has 4 now; the training goes on at iteration 8' in steps


def test_a_warm_up_in_iterations_that_is_over_stays_over(started):
    data, checkpoint = started(BY_HAND.format(warm_up=3, end=100))
    both = 'train_dataloader.batch_size=4'  # one iteration per epoch: two epochs are shorter than the warm-up
    resumed = rates(data.train(both, 'param_scheduler.1.end=50', args=['--resume', checkpoint]))
    # by hand: PolyLR from 0.1 at step 3 to 0 at step 50, and the third and fourth iteration are steps 2 and 3
    assert resumed == pytest.approx([0.1, 0.1], rel=1e-6)


def test_a_schedule_that_was_made_for_the_old_length_is_refused(started):
    data, checkpoint = started(BY_HAND.format(warm_up=2, end=8))
    message = r'PolyLR ends at iteration 8, the end of a training of 4 epochs with 2 iterations .* Set end=16'
    with pytest.raises(ValueError, match=message):
        data.train(HALF, args=['--resume', checkpoint])
    # with the end that the error asks for, the rate is that of a run with this config
    whole = rates(data.train(HALF, 'param_scheduler.1.end=16'))
    resumed = rates(data.train(HALF, 'param_scheduler.1.end=16', args=['--resume', checkpoint]))
    assert resumed == pytest.approx(whole[8:], rel=1e-6)


def test_state_of_every_scheduler_counts_as_unchanged_when_it_is_resumed():
    """Each scheduler of MMEngine, after some steps: nothing but its position may have changed."""
    from mmengine.registry import PARAM_SCHEDULERS

    from mmdefmamba.guards.resumed_schedule import changes

    more = dict(
        CosineAnnealingLR=dict(T_max=5),
        CosineRestartLR=dict(periods=[5, 5], restart_weights=[1, 0.5], eta_min=0),
        ExponentialLR=dict(gamma=0.9),
        MultiStepLR=dict(milestones=[2, 4]),
        OneCycleLR=dict(eta_max=1.0, total_steps=20),
        ReduceOnPlateauLR=dict(monitor='loss'),
        StepLR=dict(step_size=2),
    )
    for name in ('ConstantLR', 'LinearLR', 'PolyLR', *more):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        fresh, used = (PARAM_SCHEDULERS.build(dict(more.get(name, {}), type=name, optimizer=optimizer)) for _ in 'ab')
        for _ in range(6):
            optimizer.step()
            used.step({'loss': 1.0}) if name == 'ReduceOnPlateauLR' else used.step()
        assert changes(fresh, used.state_dict()) == [], name
