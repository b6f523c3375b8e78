"""Run a tool of mmpretrain, mmdet or mmseg with our backbone registered and our mends applied.

python tools/openmmlab.py mmdet                                       lists the tools
python tools/openmmlab.py mmdet analysis_tools/browse_dataset CONFIG  runs one, with its own options
"""

import argparse
import importlib.util
import runpy
import sys
from pathlib import Path

from ..files import say
from .program import Parser

LIBRARIES = ('mmpretrain', 'mmdet', 'mmseg')


def tool_paths(library):
    """Return the tools of an installed library, {name: path}; for an installation from sources, those beside it.

    Raises:
        ModuleNotFoundError: the library is not installed.
    """
    spec = importlib.util.find_spec(library)
    if spec is None:
        raise ModuleNotFoundError(f'{library} is not installed')
    package = Path(spec.submodule_search_locations[0])
    folder = next((folder for folder in (package / '.mim/tools', package.parent / 'tools') if folder.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f'{library} in {package} has no folder of tools')
    return {str(path.relative_to(folder).with_suffix('')): path for path in sorted(folder.rglob('*.py'))}


def main(argv=None):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('library', choices=LIBRARIES)
    parser.add_argument('tool', nargs='?', help='path of the tool in the tools folder, without .py; default: list all')
    parser.add_argument('args', nargs=argparse.REMAINDER, help='arguments of the tool')
    args = parser.parse_args(argv)
    tools = tool_paths(args.library)
    if args.tool is None:
        say(*tools)
        return
    if args.tool not in tools:
        parser.error(f'{args.library} has no tool {args.tool!r}. Leave out the name to list all tools')
    path = tools[args.tool]
    sys.argv = [str(path), *args.args]
    sys.path.insert(0, str(path.parent))  # a tool can import the files beside it, as when it is run by its path
    runpy.run_path(str(path), run_name='__main__')
