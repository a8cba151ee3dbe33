"""What every page of results is made of: one HTML file that needs no network, no other file and no foreign script."""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from outgrow.runtime import cache_folder

__all__ = ["counted", "figure", "html_table", "is_current", "javascript", "replace_file", "rerun", "shell"]


def shell(title: str, body: str, inputs: str) -> str:
    """The page around ``body``, which is HTML; ``inputs`` says what it was made from, see :func:`is_current`.

    Its security policy lets no script run but its own.
    """
    script = javascript() + _START
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="outgrow-inputs" content="{inputs}">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""


def figure(name: str, spec: dict[str, Any], svg: str) -> str:
    """The static picture, which stays where scripts are off, and the chart that takes its place."""
    spec.pop("$schema")
    text = json.dumps(spec).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    picture = base64.b64encode(svg.encode()).decode()
    heading = escape(spec["title"]["text"])
    links = " ".join(f'<a href="{name}.{kind}">{kind.upper()}</a>' for kind in ("svg", "png"))
    return f"""<figure>
<div class="chart"><img alt="{heading}" src="data:image/svg+xml;base64,{picture}"></div>
<script type="application/json">{text}</script>
<figcaption>{links}</figcaption>
</figure>"""


def html_table(caption: str, heads: Sequence[str], body: str, names: int = 3) -> str:
    """A table that scrolls sideways where it must; ``body`` is HTML, the caption is escaped.

    The first ``names`` columns hold text, the others numbers.
    """
    head = "".join(f"<th>{h}</th>" if i < names else f'<th class="number">{h}</th>' for i, h in enumerate(heads))
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>\n"
    )


def rerun(provenance: Mapping[str, Any]) -> str:
    """The command and its options, to be copied."""
    blocks = []
    if command := provenance.get("command"):
        blocks.append(f"<pre>{escape(command)}</pre>")
    if config := provenance.get("config"):
        blocks.append(f"<p>The same as YAML:</p><pre>{escape(config)}</pre>")
    return "\n".join(blocks) or "<p>The command was not recorded.</p>"


def is_current(page: Path, inputs: str) -> bool:
    """Whether the page was made from the same inputs, as :func:`shell` wrote them into it."""
    if not page.is_file():
        return False
    with page.open(encoding="utf-8") as file:
        return f'<meta name="outgrow-inputs" content="{inputs}">' in file.read(4096)


def counted(number: int, what: str) -> str:
    """A number and what it counts: 1 task, 2 tasks."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def replace_file(path: Path, text: str) -> None:
    """Write all or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script. Bundling takes seconds, so the bundle is kept in the cache."""
    import vl_convert

    path = cache_folder() / "javascript" / f"vega-{version('vl-convert-python')}.js"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        replace_file(path, bundle.replace("</script", "<\\/script"))
    return path.read_text(encoding="utf-8")


_START = """
for (const spec of document.querySelectorAll('script[type="application/json"]')) {
  const chart = document.createElement("div");
  const place = spec.previousElementSibling;
  // ast: expressions are interpreted, not compiled, so that the page's security policy needs no eval.
  vegaEmbed(chart, JSON.parse(spec.textContent), {mode: "vega-lite", ast: true, renderer: "svg", actions: false})
    .then(() => place.replaceChildren(chart));
}
"""

_STYLE = """
:root { color-scheme: light dark; --text: #1d2329; --soft: #59636e; --line: #d5dae0; --back: #fff; --box: #f5f7f9;
  --link: #0b5cad; --warn: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ec; --soft: #a2acb6; --line: #3c444d; --back: #15191e;
  --box: #20262d; --link: #79b8ff; --warn: #43370f; } }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--text);
  background: var(--back); max-width: 1080px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.25; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; }
a { color: var(--link); }
p, dl, .note { max-width: 75ch; }
.headline { font-size: 1.15rem; }
.warnings { background: var(--warn); border-radius: 6px; padding: .7rem 1rem .7rem 2.2rem; }
.note, figcaption { color: var(--soft); font-size: .875rem; }
figure { margin: 1.5rem 0; }
figcaption a { margin-right: .5rem; }
.chart { overflow-x: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
.chart img, .chart svg { display: block; max-width: none; }
.scroll { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: .25rem 0; }
th, td { text-align: left; padding: .38rem .8rem .38rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; white-space: normal; line-height: 1.3; }
.number { text-align: right; }
th:last-child, td:last-child { padding-right: 0; }
td[title] { white-space: normal; overflow-wrap: anywhere; min-width: 5.5rem; }
abbr { cursor: help; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.25rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--box); border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; overflow-x: auto;
  font-size: .85rem; }
@media print { :root { --text: #000; --soft: #444; --line: #bbb; --back: #fff; --box: #fff; --warn: #fff;
  --link: #000; }
  body { max-width: none; padding: 0; font-size: 11pt; } figure, tr, pre { break-inside: avoid; }
  h2 { break-after: avoid; } pre { white-space: pre-wrap; } .chart svg, .chart img { max-width: 100%; height: auto; } }
"""
