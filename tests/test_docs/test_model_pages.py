"""The cards of the model zoo are what docs/make_model_pages.py writes, and they say what the metafiles say."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TOOL = runpy.run_path(str(ROOT / 'docs/make_model_pages.py'))


@pytest.mark.parametrize('task', ['classification', 'detection', 'segmentation'])
def test_pages_are_up_to_date_and_have_a_row_for_each_config(task):
    text = (ROOT / f'configs/{task}/README.md').read_text('utf-8')
    assert text == TOOL['page'](task), 'run python docs/make_model_pages.py'
    rows = re.findall(r'^\| \[\w+\]\((\w+\.py)\)', text, re.MULTILINE)
    assert sorted(rows) == sorted(path.name for path in (ROOT / 'configs' / task).glob('*.py'))
    cards = text.split('\n## ')[1:]
    assert all(
        re.findall(r'^- \*\*(.*?)\*\*', card, re.MULTILINE) == ['Measured', "The paper's", 'Exports', 'Not known']
        for card in cards
    )


def entry(name, **metadata):
    return {
        'Name': name,
        'Config': f'configs/detection/{name}.py',
        'Metadata': {'Training Data': 'COCO', 'Parameters': 1_234_567, 'Export': 'logits', **metadata},
    }


def test_a_card_says_what_is_measured_what_is_the_papers_and_what_is_unknown():
    scored = {
        **entry('mask_rcnn_defmamba_s_ms_1x', FLOPs=268_010_000_000, Measured='one run on 8 GPUs'),
        'Results': [{'Metrics': {'box AP': 46.9}}, {'Metrics': {'mask AP': 42.1}}],
    }
    text = TOOL['card']('Mask R-CNN on COCO', [entry('mask_rcnn_defmamba_t_1x'), scored])
    lines = text.splitlines()
    assert '| [mask_rcnn_defmamba_t_1x](mask_rcnn_defmamba_t_1x.py) | 1.23 M | unknown | - | - | unknown |' in lines
    # the scores of table 2 of the paper
    paper = 'box AP 47.5, mask AP 42.8'
    name = 'mask_rcnn_defmamba_s_ms_1x'
    row = f'| [{name}]({name}.py) | 1.23 M | 268.01 G | 268G | {paper} | box AP 46.9, mask AP 42.1 |'
    assert row in lines
    assert f'- **Measured**: the parameters and the FLOPs in the table. `{name}`: one run on 8 GPUs.' in lines
    # of table 2 it prints no parameters, so there is no column for them
    assert '| config | parameters | FLOPs | paper | scores: paper | scores: measured |' in lines
    assert "- **The paper's**: FLOPs, scores (table 2) and the recipe." in lines
    assert '- **Exports**: logits.' in lines
    unknown = (
        'the scores of 1 of 2 configs: no result on COCO is recorded yet; '
        'the FLOPs of 1 of 2 configs, which were not counted; the speed on a GPU.'
    )
    assert f'- **Not known**: {unknown}' in lines


def test_a_result_says_how_it_was_measured():
    for task in TOOL['SIZES']:
        for model in yaml.safe_load((ROOT / f'configs/{task}/metafile.yml').read_text('utf-8'))['Models']:
            assert ('Results' in model) == ('Measured' in model['Metadata']), model['Name']


def test_flops_name_the_size_where_it_is_not_the_papers():
    assert TOOL['counted']({'FLOPs': 1_714_208, 'FLOPs at': '32 x 32'}) == '1.7 M at 32 x 32'
    assert TOOL['counted']({'FLOPs': 1_171_253_568}) == '1.17 G'
