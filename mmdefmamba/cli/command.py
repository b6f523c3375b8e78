"""The command ``mmdefmamba``, which is also ``python -m mmdefmamba``: the tools, in a clone and outside of one."""

import importlib
import sys

from ..files import say, shown
from ..names import near_name
from ..project import project_folder
from ..version import __version__
from .program import run

#: The subcommands: module of this package, and what it does.
COMMANDS = {
    'train': ('train', 'train a model'),
    'test': ('test', 'test a checkpoint'),
    'infer': ('infer', 'predict images with a trained model'),
    'export': ('export', 'write a trained model as a file that runs without this package'),
    'app': ('app', 'look at what a trained model does, in a browser'),
    'quickstart': ('quickstart', 'train and test a small model on data that needs no download'),
    'doctor': ('doctor', 'say whether this environment is complete and fast'),
    'check-data': ('check_data', 'read the data of a config without training, and report problems'),
    'get-flops': ('get_flops', 'count parameters and FLOPs of a config'),
    'convert-released': ('convert_released', "convert a checkpoint of the authors' code"),
    'convert-safetensors': ('convert_safetensors', 'convert a checkpoint from .pth to .safetensors, or back'),
    'publish-model': ('publish_model', 'write the public form of a checkpoint, with a model card'),
    'openmmlab': ('openmmlab', 'run a tool of mmpretrain, mmdet or mmseg'),
}
USAGE = 2


def main(argv=None):
    """Run a subcommand with the arguments after its name, and exit with its exit code.

    Only the module of the subcommand is imported.

    Args:
        argv: list of arguments; None takes those of the process.

    Returns:
        The exit code for ``--help``, ``--version``, and a subcommand that is missing or unknown (2).

    Raises:
        SystemExit: a subcommand has ended.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (['--help'], ['-h'], ['help']):
        say(*help_text().split('\n'))
        return 0
    if argv[:1] == ['--version']:
        say(f'mmdefmamba {__version__}')
        return 0
    if not argv or argv[0] not in COMMANDS:
        problem = f'there is no command {argv[0]!r}{near_name(argv[0], COMMANDS)}' if argv else 'a command is missing'
        say(f'error: {problem}', '', *help_text().split('\n'), file=sys.stderr)
        return USAGE
    name, *arguments = argv
    sys.argv = [f'mmdefmamba {name}', *arguments]  # argparse prints the first as the name of the program
    return run(lambda: importlib.import_module(f'.{COMMANDS[name][0]}', __package__).main(arguments))


def help_text():
    """Return the text of ``mmdefmamba --help``."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f'  {name:<{width}}{what}' for name, (_, what) in COMMANDS.items()]
    folder = project_folder()
    return '\n'.join(
        [
            'usage: mmdefmamba COMMAND [arguments]',
            '',
            *lines,
            '',
            'mmdefmamba COMMAND --help explains a command. mmdefmamba --version prints the version.',
            'A config is a path, a name such as defmamba_t_in1k, or mmdefmamba::classification/defmamba_t_in1k.py.',
            f'Configs: {shown(folder / "configs")}',
            f'More tools, for python: {shown(folder / "tools")}',
        ]
    )
