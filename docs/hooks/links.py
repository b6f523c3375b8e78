"""Hook of `mkdocs build` for links from pages to files outside of docs/.

Pages link to files of the repository. On a code host these links work as they are. In the site, each such file is
copied as text, and the link leads to the copy. A link to a folder is replaced by its text. Some files that lie outside
of docs/, such as CHANGELOG.md and the model cards, become pages of the site.
"""

import logging
import os
import re
from pathlib import Path

from mkdocs.structure.files import File

LINK = re.compile(r'\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(?:#[^)\s]*)?\)')
PAGES = {
    'changes.md': 'CHANGELOG.md',
    'contributing.md': 'CONTRIBUTING.md',
    **{f'models/{task}.md': f'configs/{task}/README.md' for task in ('classification', 'detection', 'segmentation')},
}
# A link to another file of the repository
OWN = re.compile(r'(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)')
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
            copy(root / file, config, files)
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=as_page(root / source, page, config, files)))
    return files


def copy(file, config, files):
    """Add a file of the repository, as text, to the site, and return its name there; None for a folder."""
    name = f'source/{file.relative_to(Path(config.docs_dir).parent)}.txt'
    if not file.is_file():
        return None
    if name not in files.src_uris:
        files.append(File.generated(config, name, content=file.read_text('utf-8')))
    return name


def as_page(source, page, config, files):
    """Return the text of a file outside of docs/ with the links that it needs as a page of the site."""
    docs = Path(config.docs_dir)
    pages = {(docs.parent / file).resolve(): name for name, file in PAGES.items()}

    def rewrite(match):
        text, target, anchor = match.groups()
        file = (source.parent / target).resolve()
        if not file.exists():
            log.warning('%s links to %s, which does not exist', source, target)
        name = pages.get(file) or (file.relative_to(docs) if file.is_relative_to(docs) else copy(file, config, files))
        return text if name is None else f'[{text}]({os.path.relpath(name, Path(page).parent)}{anchor or ""})'

    return OWN.sub(rewrite, source.read_text('utf-8'))


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
        if page_name := {file: name for name, file in PAGES.items()}.get(str(targets[target])):
            return f'[{text}]({up}{page_name})'
        if (root / targets[target]).is_file():
            return f'[{text}]({up}source/{targets[target]}.txt)'
        if not (root / targets[target]).exists():
            log.warning('%s links to %s, which does not exist', page.file.src_uri, target)
        return text

    return LINK.sub(rewrite, markdown)
