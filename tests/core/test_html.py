"""Pages ask nobody for anything, and their titles are text."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.html import document


class Read(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.title, self.policy, self._open = [], "", "", ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self._open = tag
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"]

    def handle_data(self, data):
        self.title += data if self._open == "title" else ""

    def handle_endtag(self, _):
        self._open = ""


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40))
def test_any_title_is_text_and_the_policy_lets_nothing_be_loaded(title):
    read = Read()
    read.feed(document(title, ["<p>a</p>", "<p>b</p>"], style="p { color: red }"))
    read.close()
    assert read.title == title
    assert read.policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert read.tags == ["html", "head", "meta", "meta", "meta", "title", "style", "body", "p", "p"]
