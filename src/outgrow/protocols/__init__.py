"""Protocols: supervisors of several parties, such as a debate before a weak judge. Importing this registers them."""

from outgrow.protocols.base import Dealt, deal
from outgrow.protocols.nested import Nested
from outgrow.supervisors import SUPERVISORS

__all__ = ["SUPERVISORS", "Dealt", "Nested", "deal"]
