"""Links that hold on GitHub and on the site, and the page that is made of RESULTS.md."""

import pathlib

from mkdocs.structure.files import File

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def on_files(files, config):
    """Adds RESULTS.md, which lies beside README.md, as the page results.md."""
    text = (_ROOT / "RESULTS.md").read_text().replace("](docs/", "](")
    files.append(File.generated(config, "results.md", content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to RESULTS.md lead to its page."""
    return markdown.replace("](../RESULTS.md", "](results.md")


def on_serve(server, config, builder):
    """`mkdocs serve` builds anew when RESULTS.md changes."""
    server.watch(str(_ROOT / "RESULTS.md"))
    return server
