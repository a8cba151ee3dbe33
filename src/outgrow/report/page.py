"""What every page of results is made of: one HTML file that needs no network, no other file and no foreign script."""

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2

from outgrow.report.rows import grouped, measured
from outgrow.runtime import beside, cache_folder

__all__ = ["code_files", "fingerprint", "is_current", "javascript", "write_page"]

_REPORT = Path(__file__).parent
_TEMPLATES = _REPORT / "templates"
_OF_ONE_RUN = ("seconds", "steps_run", "steps_reused")
"""What differs between a run and its repetition although no result is new."""


def write_page(page: Path, template: str, inputs: str, **shown: Any) -> Path:
    """Render a template as ``page``, all or nothing; ``inputs`` is the :func:`fingerprint` of what it shows.

    The page's security policy lets no script run but its own. All that a template shows is escaped.
    """
    script = javascript() + (_TEMPLATES / "start.js").read_text(encoding="utf-8")
    digest = _base64(hashlib.sha256(script.encode()).digest())
    text = _templates().get_template(template).render(inputs=inputs, script=script, digest=digest, **shown)
    with beside(page) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return page


@functools.cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {}  # a chart's keys in their own order
    made.filters |= {"base64": _base64, "grouped": grouped, "measured": measured}
    return made


def _base64(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def fingerprint(provenance: Mapping[str, Any], *inputs: Any) -> str:
    """Changes if and only if the page would: what it shows, what made that, and the code and templates that draw it."""
    kept = {k: v for k, v in provenance.items() if k not in _OF_ONE_RUN}
    texts = [json.dumps([kept, inputs], default=str).encode(), *(file.read_bytes() for file in code_files())]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def code_files() -> list[Path]:
    """The modules and templates that the pages are made by."""
    folders = ((_REPORT, "*.py"), (_TEMPLATES, "*"), (_REPORT.parent / "board", "*.py"))
    return [file for folder, kind in folders for file in sorted(folder.glob(kind))]


def is_current(page: Path, inputs: str) -> bool:
    """Whether the page was made from the same inputs, as :func:`write_page` wrote them into it."""
    if not page.is_file():
        return False
    with page.open(encoding="utf-8") as file:
        return f'<meta name="outgrow-inputs" content="{inputs}">' in file.read(4096)


def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script. Bundling takes seconds, so the bundle is kept in the cache."""
    import vl_convert

    path = cache_folder() / "javascript" / f"vega-{version('vl-convert-python')}.js"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        with beside(path) as unfinished:
            unfinished.write_text(bundle.replace("</script", "<\\/script"), encoding="utf-8")
    return path.read_text(encoding="utf-8")
