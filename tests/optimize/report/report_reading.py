"""Reads a page as a browser's parser does: its elements in order, and its words."""

from html.parser import HTMLParser


class Reading(HTMLParser):
    """``elements``: (name, attributes) in order; ``words``: all text that is shown."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self._quiet = [], [], False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._quiet = tag in {"script", "style"}

    def handle_endtag(self, tag):
        self._quiet = False

    def handle_data(self, data):
        if not self._quiet:
            self.texts.append(data)

    @property
    def words(self):
        return " ".join("".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def shape(self):
        """Names of elements and attributes; not the plot's labels, which go where there is room."""
        return [(name, tuple(attributes)) for name, attributes in self.elements if name != "text"]
