"""Model cards, and the public form of a checkpoint."""

import hashlib

import pytest
import torch
import yaml

from mmdefmamba import get_model
from mmdefmamba.checkpoints.publishing import publish
from mmdefmamba.cli.publish_model import main
from mmdefmamba.compat import load_safely
from mmdefmamba.report.model_card import model_card

CONFIG = 'defmamba_pico_digits'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    file = tmp_path_factory.mktemp('run') / 'epoch_3.pth'
    meta = {'epoch': 3, 'iter': 9, 'cfg': 'work_dir = "/home/me"', 'dataset_meta': {'classes': list('0123456789')}}
    state = get_model(CONFIG).state_dict()
    torch.save({'meta': meta, 'state_dict': state, 'optimizer': {}, 'ema_state_dict': {}, 'message_hub': {}}, file)
    return file


def header_of(card):
    return yaml.safe_load(card.split('---\n')[1])


def test_card_says_what_is_known_and_that_the_rest_is_unknown(checkpoint):
    card = model_card(CONFIG, checkpoint)
    assert header_of(card) == {
        'library_name': 'mmdefmamba',
        'license': 'unknown',
        'pipeline_tag': 'image-classification',
        'tags': ['defmamba', 'mamba'],
    }
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    for row in ('parameters | 460,685', 'epochs | 3', 'classes | 10', f'SHA-256 | {digest}', 'training data | unknown'):
        assert f'| {row} |' in card
    assert '| exports to ONNX and torch.export | logits |' in card
    assert 'Unknown: nobody has given the results' in card and 'Unknown: the publisher has named none.' in card
    assert f"get_model('{CONFIG}', 'epoch_3.pth')" in card
    card = model_card(CONFIG, data=['digits: "8x8"'], metrics={'accuracy/top1': 98.5}, licence='apache-2.0')
    header = header_of(card)
    assert (header['license'], header['datasets'], header['metrics']) == (
        'apache-2.0',
        ['digits: "8x8"'],
        ['accuracy/top1'],
    )
    assert '| accuracy/top1 | 98.5 |' in card and 'SHA-256 | unknown' in card and 'epochs | unknown' in card


def test_card_of_the_authors_weights_names_no_licence(tmp_path):
    file = tmp_path / 'theirs.pth'
    torch.save({'meta': {'source': 'their|s.pth', 'source_sha256': 'ab'}, 'state_dict': {}}, file)
    card = model_card(CONFIG, file)
    assert r'their\|s.pth, SHA-256 ab' in card and 'no licence is given for their checkpoints' in card.replace(
        '\n', ' '
    )
    with pytest.raises(ValueError, match='for which no licence is given'):
        model_card(CONFIG, file, licence='mit')


def test_published_file_has_the_weights_and_no_state_of_the_training(checkpoint, tmp_path):
    written, left_out = publish(checkpoint, tmp_path / 'model.pth')
    assert written.name == f'model-{hashlib.sha256(written.read_bytes()).hexdigest()[:8]}.pth'
    assert left_out == ['optimizer', 'ema_state_dict', 'message_hub', 'meta.cfg']
    loaded = load_safely(str(written))
    assert sorted(loaded) == ['meta', 'state_dict'] and sorted(loaded['meta']) == ['dataset_meta', 'epoch', 'iter']
    before = load_safely(str(checkpoint))['state_dict']
    assert all(map(torch.equal, loaded['state_dict'].values(), before.values()))
    kept, _ = publish(checkpoint, tmp_path / 'ema.pth', keep_ema=True)
    assert 'ema_state_dict' in load_safely(str(kept))
    with pytest.raises(ValueError, match='cannot be kept'):
        publish(checkpoint, tmp_path / 'ema.safetensors', keep_ema=True)


def test_tool_writes_file_and_card(checkpoint, tmp_path, capsys):
    pytest.importorskip('safetensors')
    main([CONFIG, str(checkpoint), str(tmp_path / 'm.safetensors')])
    assert 'left out: optimizer' in capsys.readouterr().out
    [file], [card] = tmp_path.glob('*.safetensors'), tmp_path.glob('*.md')
    assert file.stem == card.stem and f"'{file.name}'" in card.read_text()
    assert len(get_model(CONFIG, file).dataset_meta['classes']) == 10
