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
PAGES = (  # in the order of the course, which is that of the exercises
    "start numpy rules linear softmax head gelu layernorm embedding attention block model adamw "
    "schedule gradcheck accumulation sampling threads files step "
    "flash_attention recompute lora bpe llama"  # of variants/, but for bpe
).split()
HEADINGS = [  # of a layer's page, in this order
    "Formula", "By hand", "Your turn", "By stages", "Derivation", "In plain NumPy", "In the file",
    "What goes wrong", "Exercises",
]  # fmt: skip
WORDS_A_MINUTE = {"start": 60}  # others: 20, with a pencil and a prompt

# A line that means the same with another sign: softmax is the same with any constant subtracted
EQUIVALENT = "x.max(-1, keepdims=True))"

# kind: "prompts", "definition", "quote" or "other" (not Python); line: of its first line, from 0;
# file: that a quote is from
Block = namedtuple("Block", "kind line lines file")
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)


def read(page):
    return (DOC / f"{page}.md").read_text(encoding="utf-8")


def fences(text):
    """Return the fenced blocks of a page. AssertionError: one is not closed, or of no kind."""
    assert "```" not in FENCE.sub("", text), "a fence is not closed"
    blocks = []
    for found in FENCE.finditer(text):
        info, lines = found[1].strip(), found[2].splitlines()
        quote = re.fullmatch(r"python quote ?(\S*)", info)
        if quote:
            kind = "quote"
        elif info == "python":
            kind = "prompts" if any(line.startswith(">>>") for line in lines) else "definition"
        else:
            kind = "other"
            assert "py" not in info, f"a fence with {info!r}"
        file = quote and (quote[1] or "train_gpt2.py")
        blocks.append(Block(kind, text.count("\n", 0, found.start(2)), lines, file))
    return blocks


def prose(text):
    """Return a page's words, without its fenced blocks."""
    return re.findall(r"\S*\w\S*", re.sub(r"\]\([^)]*\)", "]", FENCE.sub("", text)))


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
    """Run a page, or several -> None, or what is wrong with it, which ends the run."""
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


def changed(text, row, column, old, new):
    """Return the changed line, and the text with it."""
    lines = text.splitlines()
    assert lines[row].startswith(old, column)
    lines[row] = lines[row][:column] + new + lines[row][column + len(old) :]
    return lines[row], "\n".join([*lines, ""])


def flips(code, rows=None):
    """
    Yield (row, column, operator, another) for each + - * / of the code, in these rows or all of it.

    Left out: operators that cannot be the other one (*args), and the -1 that means the last axis or
    element, where +1 often means the same.
    """
    tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    for i, (_, text, (row, column), _, line) in enumerate(tokens):
        if text not in OTHER or EQUIVALENT in line or (rows and row - 1 not in rows):
            continue
        before, after = tokens[i - 1].string, tokens[i + 1].string
        opens = before in ("(", "[") and re.fullmatch(r"\w+|\)|\]", tokens[i - 2].string)
        last = text == "-" and after == "1" and (opens or before == "=")
        with contextlib.suppress(SyntaxError):
            compile(changed(code, row - 1, column, text, OTHER[text])[1], "mutant", "exec")
            if not last:
                yield row - 1, column, text, OTHER[text]


def other(token):
    """Return another operator, or another digit."""
    return OTHER.get(token) or str((int(token) + 1) % 10)


def other_numbers(code):
    """Yield (row, column, number, another) for each number but 1e-6 and the like."""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.NUMBER and "e" not in token.string:
            new = token.string[:-1] + other(token.string[-1])
            yield token.start[0] - 1, token.start[1], token.string, new


def page_mutants(text):
    """
    Yield (line, changed page): an operator in what is executed, a number in a definition, one
    number and one sign of each shown output, and the signs and numbers of the quotations.
    """
    for block in fences(text):
        edits, code = [], "\n".join(block.lines) + "\n"  # edits: row, column, old, new
        if block.kind == "quote":
            for row, line in enumerate(block.lines):
                for found in re.finditer(r"[-+*/]|[0-9]", line.split("#")[0]):
                    edits.append((row, found.start(), found[0], other(found[0])))
        if block.kind == "definition":
            edits = [*flips(code), *other_numbers(code)]
        if block.kind == "prompts":
            for example in doctest.DocTestParser().get_examples(code):
                for row, column, old, new in flips(example.source):
                    edits.append((example.lineno + row, column + 4, old, new))
                shown, start = [], example.lineno + example.source.count("\n")
                for row, line in enumerate(example.want.splitlines(), start):
                    for found in re.finditer(r"[0-9]|-(?=\d)", line):
                        new = " " if found[0] == "-" else other(found[0])
                        shown.append((row, found.start(), found[0], new))
                edits += [edit for edit in shown if edit[2] != "-"][-1:]
                edits += [edit for edit in shown if edit[2] == "-"][-1:]
        for row, column, old, new in edits:
            yield changed(text, block.line + row, column, old, new)


def sections():
    """Return {page: (first line, last line)} of the lesson's sections that name a page of doc/."""
    rule, lines, found = "# " + "-" * 76, LESSON.splitlines(), {}
    starts = [i for i, line in enumerate(lines) if line == rule] + [len(lines)]
    for start, end in zip(starts, starts[1:], strict=False):
        title = " ".join(line for line in lines[start + 1 : start + 6] if line.startswith("#"))
        for page in re.findall(r"doc/(\w+)\.md", title):
            found[page] = start, end
    return found


def lesson_mutants(page):
    """Yield (line, changed source): one operator in the functions of the page's section."""
    if page in LAYERS and page in sections():
        for row, *edit in flips(LESSON, range(*sections()[page])):
            if LESSON.splitlines()[row].startswith(" "):  # in a function
                yield changed(LESSON, row, *edit)


def survivors(page):
    """Return how many mutants the page has, and the lesson for it, and which are not seen."""
    text = read(page)
    assert not failure(text)  # or else every mutant of it would fail
    pages, lessons = list(page_mutants(text)), list(lesson_mutants(page))
    texts = [text, read("schedule")] if page == "adamw" else [text]  # they share a section

    def seen(source):  # by what is computed; that quotations differ would be easy
        module = lesson(source)
        return any(failure(each, module, source, quotes=False) for each in texts)

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alive = [f"{page}: {line}" for line, mutant in pages if not failure(mutant)]
        alive += [f"train_gpt2.py for {page}: {line}" for line, s in lessons if not seen(s)]
    return len(pages), len(lessons), alive


# ----------------------------------------------------------------------------
# Tests


@pytest.mark.parametrize("page", [*PAGES, "loss", "answers"])  # with whole runs: no mutants
def test_page_runs(page):
    assert failure(read(page)) is None


def test_pages_run_in_one_session():
    """As for a reader who leaves Python open: no page leaves a setting that another would meet."""
    names = "LAYERNORM_EPS TILE CHUNK THREADS".split()
    asked = ", ".join(f"train_gpt2.{name}" for name in names)
    values = " ".join(str(getattr(gpt2, name)) for name in names)
    check = f"\n```python\n>>> import train_gpt2\n>>> print({asked})\n{values}\n```\n"
    assert failure("".join(read(page) + check for page in PAGES)) is None


def test_mutants_are_red():
    """Each of them, and there are as many as the start page says."""
    counts = np.zeros(3, int)
    for page in PAGES:
        pages, lessons, alive = survivors(page)
        assert not alive
        # rules and the pages behind the layers have few lines of the lesson
        assert pages >= 5 and (lessons >= 1 or page not in LAYERS)
        counts += 1, pages, lessons
    stated = r"(\d+) pages, (\d+) mutants of them, (\d+) of the lesson, 0 not seen"
    stated = np.array(re.search(stated, read("README")).groups(), int)
    if sys.version_info >= (3, 12):  # it sees into f-strings, and makes some more
        counts[1:] = np.minimum(counts[1:], stated[1:])
    assert stated.tolist() == counts.tolist()


def test_course_is_whole():
    listed = re.findall(r"\]\((\w+)\.md\)", read("README"))
    assert list(dict.fromkeys(name for name in listed if name in PAGES)) == PAGES


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
    assert 550 <= len(prose(text)) <= 1500, f"{len(prose(text))} words outside of code"
    row = re.search(rf"^\|.*\]\({page}\.md\).*\| ([0-9]+) \|$", read("README"), re.M)
    assert abs(int(row[1]) - len(prose(text)) / WORDS_A_MINUTE.get(page, 20)) <= 5, len(prose(text))
    assert not [line for line in text.splitlines() if len(line) > 100 and line[0] not in "|!"]
    following = dict(zip(PAGES, PAGES[1:], strict=False)).get(page)
    last = re.search(r"^Next: \[[^]]*\]\((\w+)\.md\)[^\n]*\n?[^\n]*\Z", text, re.M)
    assert (last and last[1]) == following
    if "## Exercises" in text:
        assert re.search(
            r"^<details><summary>Answers</summary>\n\n1?.*?^</details>$", text, re.M | re.S
        )
    found = [name for name in re.findall(r"^## (.*)$", text, re.M) if name in HEADINGS]
    assert found == [name for name in HEADINGS if name in found]
    if page in ("softmax", "head", "layernorm"):  # from the rules to a formula
        assert found.index("By stages") < found.index("Derivation")
    if page in LAYERS:
        assert {"Derivation", "In the file", "What goes wrong", "Exercises"} <= set(found)
    if page in LAYERS and page != "model":
        assert any("atol=1e-12" in "\n".join(block.lines) for block in fences(text))
        assert any(block.kind == "quote" for block in fences(text))


def test_exercises_have_their_names():
    """Each page asks for its exercises, in their order, before it derives what they ask for."""
    there = [path.stem[3:] for path in sorted(HERE.glob("exercises/[0-9]*.py"))]
    asked = [
        n
        for p in PAGES
        for n in re.findall(r"^ {4}python exercises/check\.py (\w+)$", read(p), re.M)
    ]
    assert asked == there
    for page in PAGES:
        text, asks = read(page), "    python exercises/check.py"
        shown = re.search(r"^## (?:By stages|Derivation|Rule 4)", text, re.M)
        assert asks not in text or text.index("## Your turn") < text.index(asks) < shown.start()


def crooked(lines):
    """Yield formulas whose = was aligned, with spaces, with one that has moved."""
    for above, line in zip(lines, lines[1:], strict=False):
        columns = [found.start() for found in re.finditer(r"(?<= )[=≈](?= )", above)]
        column = re.match(r"\S[^=≈]*  [=≈] | +[=≈] ", line)
        if column and columns and column.end() - 2 not in columns:
            yield line


@pytest.mark.parametrize("page", PAGES)
def test_formulas_are_in_line(page):
    blocks = [block.lines for block in fences(read(page)) if block.kind == "other"]
    assert not [line for lines in blocks for line in crooked(lines)]


def anchors(text):
    """Return the anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", ["README", "loss", *PAGES])
def test_links_lead_somewhere(page):
    links = r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\""
    links = re.findall(links, FENCE.sub("", read(page)))
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
