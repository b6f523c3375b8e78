"""Hook of `mkdocs build` that marks short and long texts, so that css/site.css can break lines where it helps.

When a column or a screen is narrow, a browser breaks a number such as 5.6e-04, or an option such as --inline, at its
hyphen.
"""

import re

SHORT_CELL, LONG_CELL, SHORT_CODE = 14, 30, 24  # characters
CODE = re.compile(r'<code>([^<]+)</code>')
CELL = re.compile(r'<td([^>]*)>(.*?)</td>', re.DOTALL)


def length(html):
    """Return the number of characters that a browser shows of HTML."""
    return len(re.sub(r'&\w+;|&#\d+;', '.', re.sub(r'<[^>]*>', '', html)))


def mark_code(match):
    return f'<code class="short">{match[1]}</code>' if length(match[1]) <= SHORT_CODE else match[0]


def mark_cell(match):
    attributes, text = match.groups()
    size = length(text)
    kind = 'short' if size <= SHORT_CELL else 'long' if size > LONG_CELL else ''
    return f'<td{attributes} class="{kind}">{text}</td>' if kind and 'class=' not in attributes else match[0]


def on_page_content(html, **_):
    return CELL.sub(mark_cell, CODE.sub(mark_code, html))
