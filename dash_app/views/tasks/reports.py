"""The reports of the tasks view: what each asks, in words, and what can be chosen."""

from __future__ import annotations

from dataclasses import dataclass

from dash_app.views.tasks.ids import Option


@dataclass(frozen=True, slots=True)
class Report:
    """One report.

    Attributes:
        name: In ids.
        title: What a person reads.
        lead: What it answers, in a sentence.
        help: How it is computed, formula and source, and what its control means.
        button: What starts it.
        size: Label, default and most of its own size; None: it has the suite's.
        asks: Options that change what is computed.
        shows: Options that change only what is drawn.
        sheets: Its tables, for the CSV buttons (``analysis.tasks.export``).
    """

    name: str
    title: str
    lead: str
    help: tuple[str, ...]
    button: str
    size: tuple[str, int, int] | None
    asks: tuple[Option, ...] = ()
    shows: tuple[Option, ...] = ()
    sheets: tuple[str, ...] = ()


SUITE = Report(
    "suite",
    "Accuracy and emergence",
    "",
    (),
    "Run suite",
    None,
    sheets=("prompts", "accuracy", "emergence"),
)
REPORTS = (
    Report(
        "failure",
        "What happens when it fails",
        "Each wrong answer beside the likest right one: where their states, heads, MLPs and flows"
        " part ways.",
        (
            "The likest right prompt has the same number of tokens and the fewest different ones."
            " States are compared up to the one that predicts the first wrong token: distance over"
            " the larger norm, 0 the same, above 1 pointing apart.",
            "Flow is by proximity (Ferrando and Voita 2024), walked back from that state with"
            " nothing pruned; flows apart: half the sum of absolute differences over a row's"
            " states. A difference says where the runs differ, not what made the answer wrong.",
        ),
        "Compare right and wrong",
        ("Pairs", 3, 20),
        shows=(Option.PAIR,),
        sheets=("states", "parts", "flows"),
    ),
    Report(
        "contributions",
        "What writes each digit of a sum",
        "Which heads and MLPs write each digit, with and without a carry into it, and which digits"
        " each head reads.",
        (
            "Direct logit attribution: each part's output through the final norm (its scale frozen)"
            " and the unembedding, for the right digit less the digit that the other carry would"
            " give. Purple raises the right digit, orange the other. Means over sums. The"
            " difference is the control: what raises all digits alike cancels.",
            "Attention is the mean pattern from the state that writes the digit; it says where a"
            " head reads, not what it does with it.",
        ),
        "Attribute digits",
        ("Sums", 200, 2000),
        shows=(Option.HEAD,),
        sheets=("logits", "attention"),
    ),
    Report(
        "probes",
        "Where a carry can be read",
        "A linear probe of the carry into each column, and of each column's raw digit sum, at every"
        " component and position.",
        (
            "Ridge regression on standardised states, fitted on 70 % of the sums and judged on the"
            " others. Carries: balanced accuracy, 50 % is chance. Raw sums: the largest of nineteen"
            " outputs. The control has the labels shuffled among the sums: what it reads is chance"
            " and overfitting.",
            "What can be read need not be used: for that, patch. A large model is probed at its"
            " rows only.",
        ),
        "Fit probes",
        ("Sums", 800, 4000),
        shows=(Option.TARGET, Option.CONTROL),
        sheets=("probes",),
    ),
    Report(
        "projection",
        "The same states on two axes",
        "One component's states at one position, coloured by raw digit sum and by carry.",
        (
            "Principal components (PCA) of the states over the sums; axes say how much of the"
            " variance they hold. Each dot is a sum: click it to open it.",
        ),
        "Project",
        ("Sums", 400, 2000),
        asks=(Option.COMPONENT, Option.PLACE, Option.COLUMN),
        sheets=("points",),
    ),
    Report(
        "patching",
        "Which component carries it",
        "Take a component's output from a sum with a carry into one without: does the digit become"
        " one more?",
        (
            "Pairs agree in all digits from the column upwards; the donor has a carry into it. Only"
            " pairs that the model has right unpatched are counted. The control's donor differs"
            " below the column as much, but has no carry either: what changes there is damage.",
            "There: patched at the state that writes the digit. Everywhere: at all states up to it."
            " Through a nine: the column below adds up to 9 and hands the carry on.",
        ),
        "Patch",
        ("Pairs", 32, 500),
        asks=(Option.TRAVELS, Option.POSITIONS),
        shows=(Option.CONTROL, Option.COLUMN),
        sheets=("patches",),
    ),
)
EVERY = (SUITE, *REPORTS)
