"""From which checkpoint a training is resumed, whatever the note of the last one says."""

import os

import pytest
import torch

from mmdefmamba.checkpoints.resuming import find_resumable_checkpoint


@pytest.fixture
def runs(tmp_path):
    """Two work dirs with the checkpoints of three epochs each."""
    for name in ('run', 'other'):
        (tmp_path / name).mkdir()
        for epoch in (1, 2, 3):
            torch.save({'meta': {'epoch': epoch}, 'state_dict': {}}, tmp_path / name / f'epoch_{epoch}.pth')
    return tmp_path


@pytest.mark.parametrize(
    ('note', 'resumed', 'said'),
    [
        ('{}/run/epoch_2.pth', 'run/epoch_2.pth', None),
        ('{}/run/epoch_9.pth', 'run/epoch_3.pth', 'run/epoch_9.pth, which is no file that exists'),
        ('{}/other/epoch_3.pth', 'other/epoch_3.pth', 'other/epoch_3.pth, which is outside of the work dir'),
        ('/etc/passwd', 'run/epoch_3.pth', '/etc/passwd is damaged'),
        ('/dev/zero', 'run/epoch_3.pth', '/dev/zero, which is no file that exists'),
        ('http://127.0.0.1:1/a.pth', 'run/epoch_3.pth', 'a.pth, which is no file that exists'),
        ('\x1b[2J.pth', 'run/epoch_3.pth', r'\x1b[2J.pth, which is no file that exists'),
        ('a\0b', 'run/epoch_3.pth', 'its last_checkpoint cannot be read'),
        ('x' * 10**5, 'run/epoch_3.pth', 'its last_checkpoint cannot be read'),
        ('', 'run/epoch_3.pth', None),
    ],
)
def test_a_note_of_the_last_checkpoint_that_is_not_followed_is_said(note, resumed, said, runs, told):
    (runs / 'run/last_checkpoint').write_text(note.format(runs))
    assert find_resumable_checkpoint(runs / 'run') == str(runs / resumed)
    texts = '\n'.join(text for _, text in told)
    assert said in texts if said else not texts
    assert len(texts) < 2000 and '\x1b' not in texts


def test_what_is_no_regular_file_is_no_checkpoint(runs, told):
    """Reading from a pipe waits for ever for somebody who writes."""
    os.mkfifo(runs / 'run/epoch_4.pth')
    (runs / 'run/epoch_5.pth').symlink_to(runs / 'run/epoch_5.pth')
    assert find_resumable_checkpoint(runs / 'run') == str(runs / 'run/epoch_3.pth')
    texts = '\n'.join(text for _, text in told)
    assert 'epoch_4.pth is damaged (it is no regular file)' in texts and 'epoch_5.pth is damaged' in texts
