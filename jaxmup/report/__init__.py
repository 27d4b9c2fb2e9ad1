"""A transfer measurement as a page to read, and as Markdown to paste.

`html` makes one self-contained page: no network, no script, light and dark, wide and narrow::

    result = transfer.read_record("transfer.json")
    Path("transfer.html").write_text(report.html(result))
"""

from jaxmup.report._html import html as html
from jaxmup.report._markdown import markdown as markdown
