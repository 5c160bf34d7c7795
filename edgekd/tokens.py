"""What readers of texts and encoders of them agree on: the id of padding, and which vocabulary it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

# Stands behind the last word of a text; networks take it for the text's end.
PADDING = 0
PADDING_WORD = "[PAD]"
UNKNOWN_WORD = "[UNK]"


def vocabulary_sha256(vocabulary: Mapping[str, int]) -> str:
    """Of words and their ids: equal for equal vocabularies alone."""
    return hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode()).hexdigest()
