"""Figures and analyses by name: what a page shows of a table of runs. Any file of Python can register more.

A figure is a function from the data frame of :func:`outgrow.results` to an Altair chart, an analysis one to another
polars data frame. Both return None for a table that they do not apply to.
"""

import inspect
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import altair as alt
from altair.utils.schemapi import debug_mode

from outgrow.errors import UserError
from outgrow.identity import is_inside, source_digest
from outgrow.registry import Registry
from outgrow.report.rows import TextTable, as_text

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "ANALYSES",
    "FIGURES",
    "Chart",
    "Picture",
    "analysis",
    "digests",
    "figure",
    "render",
    "save",
    "show",
    "write_picture",
]

Chart: TypeAlias = alt.TopLevelMixin
"""Any chart of Altair."""
Figure: TypeAlias = Callable[["pl.DataFrame"], "Chart | None"]
Analysis: TypeAlias = Callable[["pl.DataFrame"], "pl.DataFrame | None"]

FIGURES: Registry[Figure] = Registry("figure", "figures")
ANALYSES: Registry[Analysis] = Registry("analysis", "analyses")


def figure(name: str) -> Callable[[Figure], Figure]:
    """Register a function as a figure: the page shows its chart, and ``<name>.svg`` and ``<name>.png`` lie beside it.

    Raises:
        UserError: if another figure has that name.
    """
    return partial(FIGURES.add, name)


def analysis(name: str) -> Callable[[Analysis], Analysis]:
    """Register a function as an analysis: the page shows its table, and ``<name>.csv`` lies beside it.

    A column ``x`` with two more, ``x_low`` and ``x_high``, is shown as a number with its interval.

    Raises:
        UserError: if another analysis has that name, or it is ``results``, the file that holds every number.
    """
    if name == "results":
        raise UserError("an analysis cannot be called results: results.csv holds the table itself; take another name")
    return partial(ANALYSES.add, name)


def digests() -> list[tuple[str, str, str | None]]:
    """Kind and name of every figure and analysis, and the digest of the source of those from outside the package."""
    return [(r.kind, name, source_digest(fn)) for r in (FIGURES, ANALYSES) for name, fn in r.items()]


class Picture(NamedTuple):
    """A chart as its Vega-Lite specification and as static pictures."""

    spec: dict[str, Any]
    svg: str
    png: bytes

    @property
    def title(self) -> str:
        """Empty if it has none."""
        title = self.spec.get("title", "")
        return str(title["text"] if isinstance(title, dict) else title)


def render(chart: Chart) -> Picture:
    """The chart as SVG and as PNG at twice the size, without a browser."""
    import vl_convert

    spec = chart.to_dict(validate=False)
    svg: str = vl_convert.vegalite_to_svg(spec)
    return Picture(spec, svg, vl_convert.svg_to_png(svg, scale=2))


def save(chart: Chart, path: str | Path) -> Path:
    """Write the chart to ``path``, whose ending decides the format: ``.svg``, or ``.png`` at twice the size.

    Raises:
        UserError: for any other ending.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise UserError(f"cannot save a chart as {path.name}; end the name in .svg or .png")
    picture = render(chart)
    path.write_bytes(picture.png if path.suffix == ".png" else picture.svg.encode())
    return path


def write_picture(name: str, chart: Chart, folder: Path) -> Picture:
    """Write ``<name>.svg`` and ``<name>.png`` into ``folder``; returns what the page shows."""
    picture = render(chart)
    (folder / f"{name}.svg").write_text(picture.svg, encoding="utf-8")
    (folder / f"{name}.png").write_bytes(picture.png)
    picture.spec.pop("$schema")  # an address on the network, of no use to the page
    return picture


class Shown(NamedTuple):
    """What the figures and analyses made of a table."""

    pictures: dict[str, Picture]
    tables: dict[str, TextTable]
    failures: dict[str, Exception]
    """What failed, where and why in one line, and the exception itself."""


def show(table: "pl.DataFrame", folder: Path) -> Shown:
    """Draw every figure and run every analysis that applies to the table; write their files into ``folder``.

    If one fails, the others are still shown: the caller writes the page, then raises.
    """
    import polars as pl

    shown = Shown({}, {}, {})
    for registry in (FIGURES, ANALYSES):
        for name, fn in registry.items():
            try:
                with debug_mode(not is_inside(fn)):
                    made: Any = fn(table)
                if isinstance(made, Chart) and registry is FIGURES:
                    if not is_inside(fn):
                        made.to_dict()  # checks every part, which takes longer than all else: ours are checked by tests
                    shown.pictures[name] = write_picture(name, made, folder)
                elif isinstance(made, pl.DataFrame) and registry is ANALYSES:
                    shown.tables[name] = as_text(made)
                    made.write_csv(folder / f"{name}.csv")
                elif made is not None:
                    wanted = "an Altair chart" if registry is FIGURES else "a polars DataFrame"
                    raise TypeError(f"it returned a {type(made).__name__}; return {wanted}, or None")
            except Exception as error:
                shown.failures[f"the {registry.kind} {name} failed{_place(fn, error)}: {_reason(error)}"] = error
    return shown


def _place(fn: Any, error: Exception) -> str:
    """File and line of the function at which the error arose."""
    file = inspect.getsourcefile(inspect.unwrap(fn))
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" in {Path(file).name}" + (f" line {lines[-1]}" if lines else "") if file else ""


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
