"""Teachers: anything that maps a batch of model inputs to outputs; and the cache of what they say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# Model inputs (B, *shape), float32, to outputs (B, K), float32.
Teacher = Callable[[NDArray[np.float32]], NDArray[np.float32]]
