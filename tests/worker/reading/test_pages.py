"""HTML pages as Markdown."""

from __future__ import annotations

import pytest

from tabagent.paper import Link
from tabagent.worker.reading.limits import CannotRead
from tabagent.worker.reading.pages import read_page

URL = "https://docs.example.org/lib/index.html"
LONG = "These are words enough that what stands here is meant to be the content of the page. " * 5


def read(body: str, url: str = URL, charset: str = "") -> tuple[str, str, list[Link]]:
    return read_page(body.encode(), url, charset)


def text(body: str) -> str:
    return read(f"<html><body>{body}</body></html>")[1]


SPHINX = f"""<!DOCTYPE html>
<html><head><title>Demo functions &#8212; Demo</title><style>p {{}}</style></head><body>
<div class="related" role="navigation"><ul><li><a href="genindex.html">index</a></li></ul></div>
<div class="body" role="main">
<section id="demo"><h1>Demo functions<a class="headerlink" href="#demo">¶</a></h1>
<p>Intro with <code class="docutils"><span class="pre">code</span></code> and
<a class="reference" href="../other.html#x"><code>frob()</code></a>. {LONG}</p>
<dl class="py function">
<dt class="sig sig-object py" id="frob"><span class="sig-name">frob</span><span>(</span><em>a</em>,
 <em>**kwargs</em><span>)</span><a class="headerlink" href="#frob">¶</a></dt>
<dd><p>Frob the thing.</p>
<dl class="field-list"><dt class="field-odd">Parameters<span class="colon">:</span></dt>
<dd><p><strong>a</strong> – what to frob</p></dd></dl>
<div class="highlight-python3 notranslate"><div class="highlight"><pre><span></span><span class="linenos">1</span><span class="c1"># not a heading</span>
<span class="linenos">2</span><span class="k">if</span> a:
<span class="linenos">3</span>    <span class="n">frob</span>(1)
</pre></div></div>
<div class="admonition note"><p class="admonition-title">Note</p><p>Take care.</p></div></dd></dl>
<section id="s"><h2>Glossary</h2><dl class="simple"><dt>term one</dt><dd><p>its definition</p></dd></dl>
<table class="docutils"><thead><tr><th>Name</th><th>Meaning</th></tr></thead>
<tbody><tr><td><p>a|b</p></td><td><p>pipe</p><p>more</p></td></tr></tbody></table></section></section>
<script>alert(1)</script></div>
<div class="sphinxsidebar" role="navigation"><h3>Navigation</h3><a href="mailto:x@y.z">mail</a></div>
<div class="footer">Copyright</div></body></html>"""


def test_a_documentation_page_comes_out_whole() -> None:
    title, markdown, links = read(SPHINX)
    assert title == "Demo functions — Demo"
    assert markdown == (
        "# Demo functions\n\n"
        "Intro with `code` and [`frob()`](https://docs.example.org/other.html#x). "
        f"{LONG.strip()}\n\n"
        "`frob(a, **kwargs)`\n\n"
        "Frob the thing.\n\n"
        "Parameters:\n\n"
        "a – what to frob\n\n"
        "```python3\n# not a heading\nif a:\n    frob(1)\n```\n\n"
        "Note\n\nTake care.\n\n"
        "## Glossary\n\n"
        "term one\n\nits definition\n\n"
        "| Name | Meaning |\n| --- | --- |\n| a\\|b | pipe more |"
    )
    assert links == [
        Link("https://docs.example.org/other.html", "frob()"),
        Link("https://docs.example.org/lib/genindex.html", "index"),
    ]


@pytest.mark.parametrize("frame", ["div", "main"])
def test_nothing_that_is_hidden_or_runs_gets_into_the_text(frame: str) -> None:
    page = text(
        f"<{frame}><p onclick='evil()'>{LONG}</p><script>evil()</script><style>evil</style>"
        "<template>evil</template><noscript>evil</noscript><p hidden>evil</p>"
        "<p style='color: red; display : none'>evil</p><iframe srcdoc='evil'>evil</iframe>"
        "<svg><title>evil</title></svg><!-- evil --><select><option>evil</select>"
        "<a href='javascript:evil()'>go</a><div role=navigation>evil</div><nav>evil</nav>"
        f"<p style='visibility:hidden'>evil</p>{LONG}</{frame}>"
        "<aside>evil</aside><header><nav>evil</nav></header><footer>evil</footer>"
    )
    assert "evil" not in page
    assert page.count(LONG.strip()) == 2


def test_an_article_of_the_open_web_shows_nothing_that_its_page_hides() -> None:
    paragraphs = [f"<p>{LONG}</p>", f"<p hidden>evil {LONG}</p>"] * 4
    page = text(f"<div>{''.join(paragraphs)}<p style='display:none'>evil {LONG}</p></div>")
    assert page.count(LONG.strip()) == 4
    assert "evil" not in page


def test_lists_nest_and_count() -> None:
    page = text(
        "<ul><li>one</li><li><p>two</p><p>more</p><ol start=3><li>three<li>four</ol></li>"
        "<li><pre>a\n  b</pre></li></ul><p>after</p><blockquote><p>said</p></blockquote>"
    )
    assert page == (
        "- one\n- two\n\n  more\n  3. three\n  4. four\n- ```\n  a\n    b\n  ```\n\nafter\n\n> said"
    )


def test_code_keeps_its_lines_and_is_never_mistaken_for_markup() -> None:
    page = text(
        "<pre><code class='language-rust'>fn a() {\n\n    b();\n}\n</code></pre>"
        "<pre>x ``` y</pre><p>use <code>a`b</code> or <code>**</code></p>"
        "<pre><div>one</div><div>two</div></pre><p># no heading</p><p>---</p>"
    )
    assert page == (
        "```rust\nfn a() {\n\n    b();\n}\n```\n\n````\nx ``` y\n````\n\nuse ``a`b`` or `**`\n\n"
        "```\none\ntwo\n```\n\n\\# no heading\n\n\\---"
    )


def test_a_table_for_layout_is_no_table() -> None:
    page = text(
        "<table><tr><td><h2>A</h2><p>left</p></td><td><table><tr><th>x<th>y<tr><td>1<td>2</table>"
        "</td></tr></table><table><caption>Alone</caption><tr><td>cell</td></tr></table>"
    )
    assert page == "## A\n\nleft\n\n| x | y |\n| --- | --- |\n| 1 | 2 |\n\nAlone\n\ncell"


def test_an_article_of_the_open_web_is_found_without_what_is_around_it() -> None:
    around = "<div class='menu'>" + "<a href='/m'>Menu entry</a> " * 30 + "</div>"
    paragraphs = "".join(f"<p>Paragraph {n} of the story. {LONG}</p>" for n in range(6))
    html = (
        f"<html><head><title>Story</title></head><body>{around}<div class='content'><h1>Story</h1>"
        f"{paragraphs}</div><div class='cookie-banner'>Accept all cookies</div></body></html>"
    )
    title, page, links = read(html)
    assert title == "Story"
    assert all(f"Paragraph {n} of" in page for n in range(6))
    assert "Menu entry" not in page
    assert links == [Link("https://docs.example.org/m", "Menu entry")]


def test_definitions_outside_a_main_element_are_kept() -> None:
    page = text("<div><dl>" + f"<dt>term</dt><dd>{LONG}</dd>" * 4 + "</dl></div>")
    assert page.count("term") == 4


@pytest.mark.parametrize(
    ("html", "title"),
    [
        ("<title> A\n b </title><meta property=og:title content=o><h1>h</h1>", "A b"),
        ("<head><title></title><meta property=og:title content=' o '></head><h1>h</h1>", "o"),
        ("<body><svg><title>icon</title></svg><h1>The <b>h</b>¶</h1>", "The h"),
        ("<body><p>none", ""),
    ],
)
def test_the_title_is_where_there_is_one(html: str, title: str) -> None:
    assert read(html + "<p>text")[0] == title


def test_links_are_absolute_web_addresses_each_once() -> None:
    hrefs = (
        "a.html", "a.html#part", "#here", "", "//other.org/x", "HTTP://Other.org/y?q=1", "?page=2",
        "javascript:alert(1)", "data:text/html,x", "mailto:a@b", "ftp://x/y", "http://[", "file:///etc",
        "index.html", "http:", "x" * 3000,
    )  # fmt: skip
    links = read("".join(f"<a href='{href}'>t</a>" for href in hrefs))[2]
    assert [link.url for link in links] == [
        "https://docs.example.org/lib/a.html",
        "https://other.org/x",
        "http://Other.org/y?q=1",
        "https://docs.example.org/lib/index.html?page=2",
    ]


def test_a_base_element_moves_links_and_a_page_from_nowhere_has_only_whole_ones() -> None:
    body = "<a href='a'>relative</a> <a href='https://b.org/'>whole</a>"
    assert read("<base href='/up/'>" + body)[2][0].url == "https://docs.example.org/up/a"
    _, page, links = read(body, url="")
    assert page == "relative [whole](https://b.org/)"
    assert [link.url for link in links] == ["https://b.org/"]


def test_at_most_a_thousand_links_are_kept() -> None:
    assert len(read("".join(f"<a href='/{n}'>x</a>" for n in range(1500)))[2]) == 1000


def test_a_page_in_latin1_says_so_itself() -> None:
    html = "<html><head><meta charset='iso-8859-1'></head><body>Bär aß süß</body></html>"
    assert read_page(html.encode("latin-1"), "", "")[1] == "Bär aß süß"
    assert read_page(html.encode("utf-8"), "", "utf-8")[1] == "Bär aß süß"


@pytest.mark.parametrize(
    "html", ["", " ", "<html></html>", "<div id=root></div><script>x</script>"]
)
def test_a_page_without_text_is_refused(html: str) -> None:
    with pytest.raises(CannotRead, match=r"empty|no text"):
        read(html)


@pytest.mark.parametrize("tag", ["div", "b", "span", "section", "blockquote", "table", "ul"])
@pytest.mark.timeout(20)
def test_a_page_may_nest_as_deeply_as_it_likes(tag: str) -> None:
    html = f"<p>before</p>{f'<{tag}>' * 100_000}deep text{f'</{tag}>' * 100_000}<p>after</p>"
    page = text(html)
    assert all(word in page for word in ("before", "deep text", "after"))


def test_nesting_that_means_something_is_refused_when_it_is_too_deep() -> None:
    with pytest.raises(CannotRead, match="too deeply"):
        text("<x-y>" * 100_000 + LONG)


def test_an_attribute_may_be_as_long_as_it_likes() -> None:
    assert text(f"<p title='{'x' * 20_000_000}' class='{'y ' * 1_000_000}'>short</p>") == "short"


@pytest.mark.parametrize(
    "html",
    [
        "<title>T</title><main><h1>Cats</h1><p>Cats sleep.</p></main>",
        "<!doctype html><meta charset=utf-8><title>T</title><article><p>Cats sleep.</p></article>",
        "<html><head><title>T</title></head><main><p>Cats sleep.</p></main></html>",
    ],
)
def test_a_page_may_leave_out_its_body_tag(html: str) -> None:
    title, text, _ = read_page(html.encode(), "", "")
    assert title == "T"
    assert "Cats sleep." in text
