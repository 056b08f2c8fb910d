"""When a token emerges: four questions on the rows, kept apart.

``first_top1``: first row where it ranks first. ``emergence``: first row from
which its probability stays at least tau. ``saturation``: first row from which
it ranks first at every later row (Geva et al. 2022). The first two may be "never".
``causal_commit`` asks the model instead of the lens: see ``analysis.commit``.
"""

from __future__ import annotations

import numpy as np

from analysis.capture import Trace
from analysis.commit import causal_commit
from analysis.models.handle import Model
from analysis.results import Emergence
from analysis.rows import first_row, follow, staying_row
from analysis.specs import EmergenceSpec


def compute(model: Model, trace: Trace, spec: EmergenceSpec) -> Emergence:
    """The rows at which the model's own final choice emerges at every position.

    Raises:
        CancelledError: If the caller's progress listener stops the work.
    """
    tokens = trace.logits.argmax(-1).astype(np.int64)
    probs, ranks = follow(model, trace, tokens, range(len(tokens)))
    return Emergence(
        tokens,
        spec.tau,
        tuple(first_row(ranks[:, i] == 0) for i in range(len(tokens))),
        tuple(staying_row(probs[:, i] >= spec.tau) for i in range(len(tokens))),
        tuple(staying_row(ranks[:, i] == 0) for i in range(len(tokens))),
        causal_commit(model, trace, range(len(tokens))) if spec.causal else None,
        probs,
        ranks,
    )
