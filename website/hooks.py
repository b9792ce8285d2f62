"""What MkDocs calls: adds the generated pages, and leads links to where the site has the files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fontTools import subset  # noqa: E402
from mkdocs.config.defaults import MkDocsConfig  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402
from mkdocs.structure.pages import Page  # noqa: E402

import depthloss  # noqa: E402
from website import figures, pages  # noqa: E402

FLOWCHART = re.compile(r"^```mermaid\n(.*?)^```$", re.M | re.S)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the losses, the recipes and the API into the navigation."""
    sections = {
        "Losses": [f"losses/{name}.md" for name in depthloss.available_losses()],
        "Recipes": [f"recipes/{name}.md" for name in depthloss.available_recipes()],
        "API": [f"api/{name}.md" for name in pages.API],
    }
    for item in config.nav:
        for title in item.keys() & sections.keys():
            item[title] = [*item[title], *sections[title]]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    made: dict[str, str | bytes] = pages.outside() | pages.pictures()
    made |= {f"losses/{name}.md": pages.loss_page(name) for name in depthloss.available_losses()}
    made |= {f"recipes/{name}.md": pages.recipe_page(name) for name in depthloss.available_recipes()}
    made |= {f"api/{name}.md": pages.api_page(name) for name in pages.API}
    made["assets/math.ttf"] = _math_font()
    made["extra.css"] = Path(__file__).with_name("extra.css").read_text(encoding="utf-8")
    for place, content in made.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of the pages of docs/ out of it, draw flowcharts, and let folded parts be Markdown."""
    if page.file.generated_by is None:
        markdown = pages.relative(markdown, pages.DOCS / page.file.src_uri)
    if page.file.src_uri in ("use.md", "losses.md"):
        markdown = pages.with_pages(markdown, "losses", depthloss.available_losses())
    if page.file.src_uri == "recipes.md":
        markdown = pages.with_pages(markdown, "recipes", depthloss.available_recipes())
        markdown = markdown.replace("<!-- recipes -->", '<div class="prose" markdown="1">\n')
        markdown = markdown.replace("<!-- /recipes -->", "\n</div>")
    markdown = markdown.replace("<details>", '<details markdown="1">')
    return FLOWCHART.sub(
        lambda found: f'<div class="flowchart">{_inline(figures.flowchart(found[1]))}</div>', markdown
    )


def _inline(svg: str) -> str:
    return svg[svg.index("<svg") :]


def _math_font() -> bytes:
    """STIX Two Math, without the alphabets that no formula here has."""
    import io

    import ziamath

    options = subset.Options(layout_features=["*"], notdef_outline=True)
    font = subset.load_font(str(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"), options)
    chosen = subset.Subsetter(options)
    chosen.populate(
        unicodes=[
            *range(0x20, 0x17F),
            *range(0x370, 0x400),
            *range(0x2000, 0x2300),
            *range(0x1D434, 0x1D468),
            *range(0x1D6E2, 0x1D71C),
        ]
    )
    chosen.subset(font)
    out = io.BytesIO()
    subset.save_font(font, out, options)
    return out.getvalue()
