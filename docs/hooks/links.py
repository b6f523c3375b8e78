"""Hook of `mkdocs build` for links from pages to files outside of docs/.

Pages link to files of the repository. On a code host these links work as they are. In the site, each such file is
copied as text, and the link leads to the copy. A link to a folder is replaced by its text. CHANGELOG.md and
CONTRIBUTING.md, which lie outside of docs/, become pages of the site.
"""

import logging
import re
from pathlib import Path

from mkdocs.structure.files import File

LINK = re.compile(r'\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)')
PAGES = {'changes.md': 'CHANGELOG.md', 'contributing.md': 'CONTRIBUTING.md'}
log = logging.getLogger('mkdocs.hooks')


def outside(path, config):
    """Return what a page links to outside of docs/: ``{link target: path below the repository}``."""
    docs = Path(config.docs_dir)
    targets = {target for _, target in LINK.findall(path.read_text('utf-8'))}
    resolved = {target: (path.parent / target).resolve() for target in targets}
    return {target: file.relative_to(docs.parent) for target, file in resolved.items() if not file.is_relative_to(docs)}


def on_files(files, config):
    root = Path(config.docs_dir).parent
    for page in list(files.documentation_pages()):
        for file in outside(Path(page.abs_src_path), config).values():
            name = f'source/{file}.txt'
            if (root / file).is_file() and name not in files.src_uris:
                files.append(File.generated(config, name, content=(root / file).read_text('utf-8')))
    for page, source in PAGES.items():
        text = (root / source).read_text('utf-8')
        files.append(File.generated(config, page, content=text.replace('](docs/', '](')))
    return files


def on_page_markdown(markdown, page, config, files):
    if page.file.abs_src_path is None:
        return markdown
    root = Path(config.docs_dir).parent
    targets = outside(Path(page.file.abs_src_path), config)
    up = '../' * page.file.src_uri.count('/')

    def rewrite(match):
        text, target = match.groups()
        if target not in targets:
            return match[0]
        if (root / targets[target]).is_file():
            return f'[{text}]({up}source/{targets[target]}.txt)'
        if not (root / targets[target]).exists():
            log.warning('%s links to %s, which does not exist', page.file.src_uri, target)
        return text

    return LINK.sub(rewrite, markdown)
