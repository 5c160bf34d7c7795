"""Code of an app that feeds an exported file: what it is fed, the call, and what the outputs mean."""

from edgekd.snippets.facts import Facts, facts_of
from edgekd.snippets.render import LANGUAGES, snippet

__all__ = ["LANGUAGES", "Facts", "facts_of", "snippet"]
