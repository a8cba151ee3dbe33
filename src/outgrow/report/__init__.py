"""Tables of results as self-contained pages, pictures and terminal tables. Figures and analyses are open to anyone."""

from outgrow.report import analyses, forecasts, plots  # those that come with the package register here, before anyone's
from outgrow.report.figures import ANALYSES, FIGURES, analysis, figure

__all__ = ["ANALYSES", "FIGURES", "analyses", "analysis", "figure", "forecasts", "plots"]
