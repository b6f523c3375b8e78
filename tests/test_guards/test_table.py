"""docs/robustness.md promises nothing that no test looks at."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROWS = re.findall(r'^\| (?!input|promise|-)(.*) \|$', (TESTS.parent / 'docs/robustness.md').read_text(), re.MULTILINE)


def backing(row):
    """Path and function of each test that a row names."""
    names = row.split(' | ')[-1]
    assert re.fullmatch(r'`\S+\.py::\w+`(, `\S+\.py::\w+`)*', names), f'names no test: {row}'
    for path, function in re.findall(r'(\S+\.py)::(\w+)', names.replace('`', '')):
        yield TESTS / ('' if '/' in path else 'test_guards') / path, function


def test_every_row_names_a_test():
    assert len(ROWS) > 40
    for row in ROWS:
        for path, function in backing(row):
            names = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
            assert function in names, f'{path.name} has no {function}'


def test_every_test_of_bad_input_backs_a_row():
    named = {test for row in ROWS for test in backing(row)}
    for path in sorted((TESTS / 'test_guards').glob('test_*.py')):
        if path.name == Path(__file__).name:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith('test_'):
                assert (path, node.name) in named, f'{path.name}::{node.name} is in no row of docs/robustness.md'
