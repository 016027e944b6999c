"""
Pages with numbers in them: a template, HTML with a script of its own, and the data it is to show.

What may enter: what makes one file that needs nothing else. What a page shows is in its template.
"""

import json

from tools.formats import replacing

DATA = "{{data}}"  # its place in a template, in a <script type="application/json">


def write_page(path, template, data):
    """Write the page of a template and of data, which json knows and which is finite. UserError."""
    # All that could end the script is "</" or "<!--", so no "<" of the data stays one: a text of
    # the user's can't become markup (HTML Living Standard, 4.12.1.3).
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", r"\u003c")
    before, after = template.read_text(encoding="utf-8").split(DATA)
    with replacing(path) as f:
        f.write((before + text + after).encode())
