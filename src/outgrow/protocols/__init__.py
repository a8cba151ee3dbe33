"""Protocols: supervisors of several parties, such as a debate before a weak judge. Importing this registers them."""

from outgrow.protocols.bands import Climb, OneBand
from outgrow.protocols.base import Dealt, deal
from outgrow.protocols.evidence import Consultancy, Debate, RandomEvidence
from outgrow.protocols.nested import Nested
from outgrow.supervisors import SUPERVISORS

__all__ = ["SUPERVISORS", "Climb", "Consultancy", "Dealt", "Debate", "Nested", "OneBand", "RandomEvidence", "deal"]
