"""Protocols: supervisors that are a game of a weak judge and stronger agents. Importing this registers them."""

from outgrow.protocols.nested import Nested

__all__ = ["Nested"]
