"""
The course in doc/: its Python runs, its numbers come out, its quotations stand in the lesson.

A page is GitHub Markdown. Its Python is in fences of three kinds, which are taken in order, in one
namespace for the page:

    ```python         with prompts (>>>): run by doctest; what is shown must come out
    ```python         without prompts: a definition, executed
    ```python quote   lines that stand so, one after the other, in train_gpt2.py; indentation is up
                      to the page; a line with nothing but ... stands for lines left out. Lines of
                      another file have its name behind "quote": ```python quote tools/sampling.py

`python tests/test_doc.py` counts pages, numbers, and mutants: copies of a page, or of the lesson,
with one sign or number changed, each of which must make the page's test fail.
"""

import contextlib
import doctest
import io
import re
import sys
import textwrap
import tokenize
import types
import warnings
import xml.etree.ElementTree as ElementTree
from collections import namedtuple
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE))

import train_gpt2 as gpt2  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

DOC = HERE / "doc"
LESSON = (HERE / "train_gpt2.py").read_text(encoding="utf-8")
LAYERS = "embedding layernorm linear attention gelu head block model adamw".split()
COURSE = ["rules", *LAYERS]
COURSE += "schedule gradcheck accumulation sampling threads files step".split()
PAGES = [name for name in COURSE if (DOC / f"{name}.md").exists()]
EXERCISES = "product bias softmax crossentropy gelu layernorm embedding attention_head attention"
EXERCISES = [*EXERCISES.split(), "block", "tied", "adamw", "accumulate"]
HEADINGS = [  # of a layer's page, in this order
    "Formula", "By hand", "Derivation", "In plain NumPy", "In the file", "What goes wrong",
    "Exercises",
]  # fmt: skip

# Lines that mean the same with another sign or operator; part of the line -> why
EQUIVALENT = {
    "x.max(-1, keepdims=True))": "softmax is the same with any constant subtracted",
}

# kind: "prompts", "definition", "quote" or "other" (not Python); line: of its first line, from 0;
# file: that a quote is from
Block = namedtuple("Block", "kind line lines file")


def read(page):
    return (DOC / f"{page}.md").read_text(encoding="utf-8")


def fences(text):
    """Return the fenced blocks of a page. AssertionError: one is not closed, or of no kind."""
    blocks, opened = [], None
    for number, line in enumerate(text.splitlines()):
        if opened is None and line.startswith("```"):
            opened, info, lines = number + 1, line[3:].strip(), []
        elif opened is not None and line.strip() == "```":
            prompts, quote = any(each.startswith(">>>") for each in lines), info.split(" ")
            kind, file = "prompts" if prompts else "definition", None
            if quote[:2] == ["python", "quote"]:
                kind, (file,) = "quote", quote[2:] or ["train_gpt2.py"]
            elif info != "python":
                kind = "other"
                assert "py" not in info, f"line {opened}: a fence with {info!r}"
            blocks.append(Block(kind, opened, lines, file))
            opened = None
        elif opened is not None:
            lines.append(line)
    assert opened is None, f"line {opened}: the fence is not closed"
    return blocks


def prose(text):
    """Return a page's words, without its fenced blocks."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return re.findall(r"\S*\w\S*", re.sub(r"\]\([^)]*\)", "]", outside))


def missing(lines, source):
    """Return the first run of quoted lines that is not in the source, dedented; None if all are."""
    runs = re.split(r"^\s*\.\.\.\s*$", "\n".join(lines), flags=re.M)
    source_lines = source.splitlines()
    for run in filter(str.strip, runs):
        quoted = textwrap.dedent(run.strip("\n")).splitlines()
        parts = ("\n".join(source_lines[i : i + len(quoted)]) for i in range(len(source_lines)))
        if "\n".join(quoted) not in map(textwrap.dedent, parts):
            return run.strip("\n")
    return None


def lesson(source):
    """Return a module made of the source of train_gpt2.py, perhaps a changed one."""
    module = types.ModuleType("train_gpt2")
    module.__file__ = gpt2.__file__
    exec(compile(source, gpt2.__file__, "exec"), vars(module))
    module.POOL.shutdown()
    module.POOL = gpt2.POOL
    return module


@contextlib.contextmanager
def imported(module):
    """Have `import train_gpt2` give the module; then undo what a page has set in it."""
    before = vars(module).copy()
    sys.modules["train_gpt2"] = module
    try:
        with np.printoptions():
            yield
    finally:
        sys.modules["train_gpt2"] = gpt2
        vars(module).clear()
        vars(module).update(before)


def failure(text, module=gpt2, source=LESSON, quotes=True):
    """Run a page -> None, or what is wrong with it, which ends the run."""
    namespace, parser = {"__name__": "page"}, doctest.DocTestParser()
    flags = doctest.NORMALIZE_WHITESPACE | doctest.FAIL_FAST
    runner = doctest.DocTestRunner(verbose=False, optionflags=flags)
    with imported(module):
        for block in fences(text):
            code = "\n".join(block.lines) + "\n"
            if block.kind == "quote" and quotes:
                ours = block.file == "train_gpt2.py"
                quoted = source if ours else (HERE / block.file).read_text(encoding="utf-8")
                if run := missing(block.lines, quoted):
                    return f"line {block.line + 1}: not in {block.file}:\n{run}"
            if block.kind == "definition":
                try:
                    exec(compile("\n" * block.line + code, "page", "exec"), namespace)
                except Exception as error:  # of any kind: the page is wrong
                    return f"line {block.line + 1}: {error!r}"
            if block.kind == "prompts":
                test = parser.get_doctest(code, {}, "page", "page", block.line)
                test.globs, said = namespace, io.StringIO()
                runner.run(test, out=said.write, clear_globs=False)
                if runner.failures:
                    return said.getvalue()
    return None


# ----------------------------------------------------------------------------
# Mutants

OTHER = {"+": "-", "-": "+", "*": "/", "/": "*", "+=": "-=", "-=": "+=", "*=": "/=", "/=": "*="}


def flips(code, rows=None):
    """
    Yield (row, column, operator, another) for each + - * / of the code, in these rows or all of it.

    Left out: operators that cannot be the other one (*args), and the -1 that means the last axis or
    element, where +1 often means the same.
    """
    tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    for i, (_, text, (row, column), _, line) in enumerate(tokens):
        if text not in OTHER or any(part in line for part in EQUIVALENT):
            continue
        if rows and row - 1 not in rows:
            continue
        before, after = tokens[i - 1].string, tokens[i + 1].string
        opens = before in ("(", "[") and re.fullmatch(r"\w+|\)|\]", tokens[i - 2].string)
        last = text == "-" and after == "1" and (opens or before == "=")
        rest = code.splitlines()
        rest[row - 1] = rest[row - 1][:column] + OTHER[text] + rest[row - 1][column + len(text) :]
        with contextlib.suppress(SyntaxError):
            compile("\n".join(rest), "mutant", "exec")
            if not last:
                yield row - 1, column, text, OTHER[text]


def other_numbers(code):
    """Yield (row, column, number, another) for each number but 1e-6 and the like."""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.NUMBER and "e" not in token.string:
            new = token.string[:-1] + str((int(token.string[-1]) + 1) % 10)
            yield token.start[0] - 1, token.start[1], token.string, new


def page_mutants(text):
    """
    Yield (line, changed page): an operator in what is executed, a number in a definition, one
    number and one sign of each shown output, and the signs and numbers of the quotations.
    """
    lines = text.splitlines()

    def changed(row, column, old, new):
        assert lines[row].startswith(old, column)
        line = lines[row][:column] + new + lines[row][column + len(old) :]
        return line, "\n".join([*lines[:row], line, *lines[row + 1 :]])

    for block in fences(text):
        code = "\n".join(block.lines) + "\n"
        if block.kind == "quote":
            for row, line in enumerate(block.lines):
                for found in re.finditer(r"[-+*/]|[0-9]", line.split("#")[0]):
                    new = OTHER.get(found[0]) or str((int(found[0]) + 1) % 10)
                    yield changed(block.line + row, found.start(), found[0], new)
        if block.kind == "definition":
            for row, column, old, new in [*flips(code), *other_numbers(code)]:
                yield changed(block.line + row, column, old, new)
        if block.kind == "prompts":
            for example in doctest.DocTestParser().get_examples(code):
                for row, column, old, new in flips(example.source):
                    yield changed(block.line + example.lineno + row, column + 4, old, new)
                start = block.line + example.lineno + example.source.count("\n")
                wanted = example.want.splitlines()
                digits = [(r, m) for r, w in enumerate(wanted) for m in re.finditer(r"[0-9]", w)]
                signs = [(r, m) for r, w in enumerate(wanted) for m in re.finditer(r"-(?=\d)", w)]
                for row, found in [*digits[-1:], *signs[-1:]]:
                    new = " " if found[0] == "-" else str((int(found[0]) + 1) % 10)
                    yield changed(start + row, found.start(), found[0], new)


def sections(source=LESSON):
    """Return {page: (first line, last line)} of the lesson's sections that name a page of doc/."""
    rule, lines, found = "# " + "-" * 76, source.splitlines(), {}
    starts = [i for i, line in enumerate(lines) if line == rule] + [len(lines)]
    for start, end in zip(starts, starts[1:], strict=False):
        title = " ".join(line for line in lines[start + 1 : start + 6] if line.startswith("#"))
        for page in re.findall(r"doc/(\w+)\.md", title):
            found[page] = start, end
    return found


def lesson_mutants(page, source=LESSON):
    """Yield (line, changed source): one operator in the functions of the page's section."""
    lines, (start, end) = source.splitlines(), sections(source)[page]
    for row, column, old, new in flips(source, range(start, end)):
        if lines[row].startswith(" "):  # in a function
            line = lines[row][:column] + new + lines[row][column + len(old) :]
            yield line, "\n".join([*lines[:row], line, *lines[row + 1 :], ""])


def survivors(page):
    """Return the page's mutants, the lesson's for it, and which of them leave the page whole."""
    text, alive = read(page), []
    assert not failure(text)  # or else every mutant of it would fail
    pages = list(page_mutants(text))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alive += [f"{page}: {line}" for line, mutant in pages if not failure(mutant)]
    lessons = list(lesson_mutants(page)) if page in LAYERS and page in sections() else []
    for line, source in lessons:  # by what is computed; that quotations differ would be easy
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = lesson(source)
            texts = [text, read("schedule")] if page == "adamw" else [text]  # they share a section
            if not any(failure(each, module, source, quotes=False) for each in texts):
                alive.append(f"train_gpt2.py for {page}: {line}")
    return len(pages), len(lessons), alive


# ----------------------------------------------------------------------------
# Tests


@pytest.mark.parametrize("page", PAGES)
def test_page_runs(page):
    assert failure(read(page)) is None


@pytest.mark.parametrize("page", PAGES)
def test_mutants_are_red(page):
    pages, lessons, alive = survivors(page)
    assert not alive
    # rules and the pages behind the layers have few lines of the lesson; 30 is for all pages
    assert pages >= 5 and (lessons >= 1 or page not in LAYERS)


def test_course_is_whole():
    assert PAGES == COURSE
    listed = re.findall(r"\]\((\w+)\.md\)", read("README"))
    assert list(dict.fromkeys(name for name in listed if name in COURSE)) == COURSE


@pytest.mark.parametrize("page", sections())
def test_sections_and_pages_name_each_other(page):
    start, end = sections()[page]
    functions = re.findall(r"^def (\w+)", "\n".join(LESSON.splitlines()[start:end]), re.M)
    text = read(page)
    assert "](../train_gpt2.py)" in text
    assert any(f"`{name}`" in text for name in functions)


@pytest.mark.parametrize("page", PAGES)
def test_length_minutes_and_order(page):
    text = read(page)
    assert 600 <= len(prose(text)) <= 1500, f"{len(prose(text))} words outside of code"
    row = re.search(rf"^\|.*\]\({page}\.md\).*\| ([0-9]+) \|$", read("README"), re.M)
    assert abs(int(row[1]) - len(prose(text)) / 40) <= 5  # the start page says: 40 words a minute
    assert not [line for line in text.splitlines() if len(line) > 100 and line[0] not in "|!"]
    found = [name for name in re.findall(r"^## (.*)$", text, re.M) if name in HEADINGS]
    assert found == [name for name in HEADINGS if name in found]
    if page in LAYERS:
        assert {"Derivation", "In the file", "What goes wrong", "Exercises"} <= set(found)
    if page in LAYERS and page != "model":
        compared = [block for block in fences(text) if "atol=1e-12" in "\n".join(block.lines)]
        assert compared, "the plain backward is not compared with the file's"
        assert any(block.kind == "quote" for block in fences(text))


def test_exercises_have_their_names():
    named = [n for p in PAGES for n in re.findall(r"exercises/check\.py (\w+)", read(p))]
    assert named and set(named) <= set(EXERCISES)


def anchors(text):
    """Return the anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", ["README", *PAGES])
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"", text)
    for link in map("".join, links):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (DOC / path).resolve() if path else DOC / f"{page}.md"
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("path", sorted(DOC.glob("*.svg")), ids=lambda path: path.name)
def test_pictures_are_plain_and_have_both_colours(path):
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    names = {element.tag.split("}")[-1] for element in root.iter()}
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "viewBox" in root.attrib
    assert "title" in names and not names & {"script", "image", "foreignObject", "use", "a"}
    for element in root.iter():
        for key, value in element.attrib.items():
            key = key.split("}")[-1].lower()
            assert key != "href" and not key.startswith("on") and "//" not in value
    assert "@import" not in text and text.count("//") == 1  # the name space of SVG
    assert "prefers-color-scheme: dark" in text  # and a panel of its own behind the text
    assert any(f"]({path.name})" in read(page) for page in PAGES)


def test_figures_of_the_start_page():
    pages = sum(len(list(page_mutants(read(page)))) for page in PAGES)
    lessons = sum(len(list(lesson_mutants(page))) for page in LAYERS if page in sections())
    counts = f"{pages} mutants of them, {lessons} of the lesson, 0 not seen"
    if sys.version_info < (3, 12):  # later ones see into f-strings, and make some more
        assert f"{len(PAGES)} pages, {counts}" in read("README")
    else:
        stated = re.search(
            r"(\d+) pages, (\d+) mutants of them, (\d+) of the lesson", read("README")
        )
        assert int(stated[1]) == len(PAGES) and int(stated[2]) <= pages and lessons


def test_harness_sees_what_is_wrong():
    start = "```python\n>>> import train_gpt2 as gpt2\n>>> gpt2.TILE = 3\n"
    assert failure(start + "```\n```python\ndef f():\n    return gpt2.TILE\n```\n") is None
    assert gpt2.TILE == 128  # set back
    assert "Expected" in failure(start + ">>> gpt2.TILE + 1\n5\n```\n")
    assert "NameError" in failure(start + ">>> f()\n5\n```\n")
    assert "ZeroDivisionError" in failure("```python\n1 / 0\n```\n")
    quote = "```python quote\n    t, HS = q.shape[2:]\n...\n    return att @ v, att\n```\n"
    assert failure(quote) is None
    assert "not in train_gpt2.py" in failure(quote.replace("t, HS", "T, HS"))
    assert "not in train_gpt2.py" in failure(quote.replace("att\n```", "(att)\n```"))
    assert "not in tests/test_doc.py" in failure(quote.replace("quote", "quote tests/test_doc.py"))
    quote = '```python quote tests/test_doc.py\nDOC = HERE / "doc"\n```\n'
    assert failure(quote) is None
    assert "not in train_gpt2.py" in failure(quote.replace(" tests/test_doc.py", ""))
    with pytest.raises(AssertionError):
        fences("```pycon\n>>> 1\n1\n```\n")
    assert len(prose("# One two\n\n```python\n>>> 1\n```\n\n[three](four.md) = 5\n")) == 4


def test_flips():
    code = "def f(x, *rest):\n    y = -x.sum(-1) * 2 - 1e-3\n    y += [-1, 1][0]\n    return y[-1]"
    found = [(row, old, new) for row, _, old, new in flips(code)]
    assert found == [(1, "-", "+"), (1, "*", "/"), (1, "-", "+"), (2, "+=", "-="), (2, "-", "+")]


def test_page_mutants_change_one_thing():
    text = "```python\n>>> 1 - 3\n-2\n```\n```python quote\nx = y + 1\n```\n"
    mutants = [line for line, _ in page_mutants(text)]
    assert mutants == [">>> 1 + 3", "-3", " 2", "x = y - 1", "x = y + 2"]


if __name__ == "__main__":
    totals = [0, 0, 0]
    for page in PAGES:
        pages, lessons, alive = survivors(page)
        counts = f"{pages} mutants of the page, {lessons} of the lesson, {len(alive)} not seen"
        print("\n".join([f"{page}: {len(prose(read(page)))} words, {counts}", *alive]))
        totals = [a + b for a, b in zip(totals, (pages, lessons, len(alive)), strict=True)]
    counts = "{} mutants of them, {} of the lesson, {} not seen".format(*totals)
    print(f"{len(PAGES)} pages, {counts}")
    sys.exit(bool(totals[2]))
