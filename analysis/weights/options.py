"""Kinds of attention heads, as a table of choices."""

from __future__ import annotations

from analysis.contract.choices import Choice, Choices

KINDS = Choices(
    "kind of head",
    Choice(
        "previous", "Previous token", "mean w[q, q − 1]",
        "The mean weight on the token before the query.",
    ),
    Choice(
        "duplicate", "Duplicate token", "mean w[q, q − n]",
        "In the second copy of the sequence: the mean weight on the same token in the first copy.",
    ),
    Choice(
        "induction", "Induction", "mean w[q, q − n + 1]",
        "In the second copy: the mean weight on the token after the same token in the first copy.",
        "Olsson et al. 2022, arXiv 2209.11895",
    ),
    Choice(
        "copy", "Copy", "share of tokens t with t = argmax of x_t · W_OV · U",
        "The copying score: the share of sampled tokens that the head, when it reads them, promotes"
        " most among all sampled tokens. It comes from the weights alone.",
        "Elhage et al. 2021, copying heads",
    ),
    Choice(
        "sink", "Sink", "mean w[q, 0]",
        "The mean weight on the first token, and on no token, from the third token on.",
        "Xiao et al. 2023, arXiv 2309.17453",
    ),
    help="What a head does on a seeded random sequence that is repeated once.",
)  # fmt: skip
