"""The command mmdefmamba: which function runs, with which arguments, and with which exit code the process ends."""

import re
import runpy
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mmdefmamba.cli import command, program, torchrun

ROOT = Path(__file__).parents[2]
TOOLS = command.project_folder() / 'tools'
#: The commands whose tools exist.
NAMES = [name for name, (module, _) in command.COMMANDS.items() if [*TOOLS.rglob(f'{module}.py')]]


@pytest.mark.parametrize('name', NAMES)
def test_each_command_has_a_help_with_its_own_name(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['pytest'])
    with pytest.raises(SystemExit) as ended:
        command.main([name, '--help'])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: mmdefmamba {name} ')


@pytest.mark.parametrize('name', NAMES)
def test_each_command_is_the_function_of_a_tool(name):
    module = command.COMMANDS[name][0]
    (tool,) = TOOLS.rglob(f'{module}.py')
    assert runpy.run_path(str(tool))['main'] is import_module(f'mmdefmamba.cli.{module}').main


def test_documentation_names_commands_that_exist():
    pages = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *(ROOT / 'docs').rglob('*.md')]
    pattern = r'(?m)(?:^    |`|bin/|-m )mmdefmamba ([a-z][a-z-]*)'
    found = {name for page in pages for name in re.findall(pattern, page.read_text())}
    assert {'train', 'quickstart', 'infer', 'openmmlab'} <= found <= {*command.COMMANDS}


@pytest.mark.parametrize('code', [0, 1, 2, None])
def test_exit_code_of_the_tool_is_that_of_the_process(code, monkeypatch):
    given = []
    monkeypatch.setattr(sys, 'argv', ['pytest'])
    monkeypatch.setattr(import_module('mmdefmamba.cli.infer'), 'main', lambda argv: given.append(argv) or code)
    with pytest.raises(SystemExit) as ended:
        command.main(['infer', '--config', 'x', '--help'])
    assert ended.value.code == code
    assert given == [['--config', 'x', '--help']] and sys.argv == ['mmdefmamba infer', '--config', 'x', '--help']


def test_unknown_command_is_refused_with_the_nearest_and_the_list(capsys):
    assert command.main(['trian']) == 2
    assert command.main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ''
    assert "there is no command 'trian', did you mean 'train'?" in printed.err and 'a command is missing' in printed.err
    assert len(re.findall('check-data +read the data', printed.err)) == 2


def test_config_that_does_not_exist_ends_the_command_with_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['pytest'])
    with pytest.raises(SystemExit) as ended:
        command.main(['train', 'defmamba_s_in1kk'])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(
        "error: unknown model 'defmamba_s_in1kk', did you mean 'defmamba_s_in1k'?"
    )


def test_functions_that_read_what_a_user_gives_exist():
    for name in program.READING:
        module, _, function = name.rpartition('.')
        module = import_module(module)
        classes = [kind for kind in vars(module).values() if isinstance(kind, type)]
        assert any(function in vars(owner) for owner in (module, *classes)), name


def test_names_and_explanations_are_apart():
    lines = command.help_text().split('\n')[2 : 2 + len(command.COMMANDS)]
    columns = [re.fullmatch(r'  ([a-z-]+)( {2,})(\S.*)', line) for line in lines]
    assert [column[1] for column in columns] == list(command.COMMANDS)
    assert len({column.start(3) for column in columns}) == 1


def test_an_interpreter_without_pytorch_is_named(monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(SystemExit, match='has no PyTorch') as error:
        torchrun.main(['tools/train.py', 'CONFIG'])
    assert sys.executable in str(error.value)


def test_help_imports_no_library(run_python):
    code = 'import sys; from mmdefmamba.cli.command import main; main(["--help"]); main(["--version"]); '
    printed, _ = run_python(code + 'print(*sorted({"torch", "numpy", "mmengine"} & set(sys.modules)), "end")')
    assert printed.splitlines()[-1].split() == ['end']
