"""The contents of the documentation site; `mkdocs build --strict`, in .ci/run, checks the rest."""

import ast
import importlib
import pathlib
import re

import pytest
import yaml
from conftest import ROOT

import aae_jax as aae
from aae_jax import registry

DOCS = ROOT / "docs"
# What the API pages show: a module, with all of its public names, or one name of a module.
SHOWN = {
    name
    for page in sorted((DOCS / "api").glob("*.md"))
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
}


def _resolve(name):
    """The module and the attribute (None: all) that a dotted name stands for."""
    try:
        return importlib.import_module(name), None
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return importlib.import_module(module), attribute


def _public_names(module):
    """The names that a module defines, and those in its `__all__`."""
    names = set(getattr(module, "__all__", ()))
    for node in ast.parse(pathlib.Path(module.__file__).read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def _shown_values():
    values = []
    for name in SHOWN:
        module, attribute = _resolve(name)
        if attribute is None:
            values += [module, *(getattr(module, n) for n in _public_names(module))]
        else:
            values.append(getattr(module, attribute))
    return values


def test_every_public_name_is_on_an_api_page():
    shown = _shown_values()

    def is_shown(value):
        return any(value is other for other in shown)

    names = {f"aae_jax.{name}": getattr(aae, name) for name in aae.__all__}
    for module in (aae.parzen, aae.annealed):
        names |= {f"{module.__name__}.{n}": getattr(module, n) for n in module.__all__}
    for table in (
        registry.ALGORITHMS, registry.ENCODERS, registry.DECODERS, registry.DISCRIMINATORS,
        registry.POSTERIORS, registry.PRIORS, registry.RECONSTRUCTIONS,
    ):  # fmt: skip
        names |= {path: registry.import_path("", path) for path in table.values()}
    assert not [name for name, value in names.items() if not is_shown(value)]


def _pages_of(nav):
    if isinstance(nav, str):
        return {nav}
    return set().union(*(_pages_of(n) for n in (nav.values() if isinstance(nav, dict) else nav)))


def test_every_page_can_be_reached():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert _pages_of(config["nav"]) == pages | {"results.md"}  # made of RESULTS.md


def _anchors(path):
    """The anchors of a page's headings on GitHub."""
    page = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ["README.md", "RESULTS.md"])
def test_links_lead_somewhere(page):
    """The links of the two pages outside `docs`; mkdocs checks the others."""
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", (ROOT / page).read_text())
    assert links
    for path, anchor in links:
        target = ROOT / path if path else ROOT / page
        assert target.exists(), path
        assert not anchor or anchor in _anchors(target), f"{path}#{anchor}"


def test_readme_names_files_that_are_there():
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"(?:aae_jax|experiments|docs)/[\w/]+(?:\.py|\.md|/)", text)
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / name).exists()]
    assert len(text.splitlines()) <= 130
