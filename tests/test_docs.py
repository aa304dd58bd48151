"""What the documentation says is what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from msip_cli.main import app

from msip.sources import Corpus, Source, load_corpus, load_source

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def count(number: int | str) -> str:
    return f"{number:,}" if isinstance(number, int) else number


def row(source: Source, corpus: Corpus) -> str:
    access = source.access_class if source.size_text == "unknown" else f"{source.access_class}, {source.size_text}"
    cells = [f"[`{source.name}`]({source.homepage})", count(corpus.sources[source.name]), access]
    cells += [source.licence.name, source.licence.commercial, source.provenance.status]
    return "| " + " | ".join(cells) + " |"


@pytest.mark.parametrize("name", ["msip-plus", "evaluation"])
def test_the_page_of_sources_is_the_yaml(name):
    corpus = load_corpus(name)
    page = (ROOT / "docs/sources.md").read_text()
    rows = [row(load_source(source), corpus) for source in corpus.sources]
    assert [line for line in rows if line not in page] == []


def test_the_readme_counts_are_the_corpus():
    readme = (ROOT / "README.md").read_text()
    corpus = load_corpus("msip")
    for name, number in corpus.sources.items():
        assert re.search(rf"\| {count(number)} \|", readme), name
    assert f"**{count(corpus.images)}**" in readme


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_local_link_leads_somewhere(page):
    """Of the README too, which the site's own strict build does not see."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = [target for target, _ in LINK.findall(text) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_section_of_the_commands_is_a_command():
    names = {command.callback.__name__.replace("_", "-") for command in app.registered_commands}
    sections = re.findall(r"^## `msip ([a-z-]+)`", (ROOT / "docs/commands.md").read_text(), re.MULTILINE)
    assert len(sections) == len(set(sections)) >= 13
    assert set(sections) - names == set()


def test_the_example_method_of_the_docs_learns():
    page = (ROOT / "docs/adding-a-method.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    scope: dict = {}
    exec(code, scope)
    torch.manual_seed(0)
    encoder = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=0)
    method, images = scope["MeanGrey"](encoder), torch.randn(4, 3, 32, 32)
    optimizer = torch.optim.Adam(method.parameters(), 1e-3)
    losses = []
    for _ in range(20):
        output = method(images)
        assert output.prediction.shape == (4, 4, 1) and output.mask.shape == (4, 4)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.loss.item())
    assert losses[-1] < 0.5 * losses[0]
