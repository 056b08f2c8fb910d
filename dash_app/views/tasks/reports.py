"""The reports of the tasks view: their texts, their options, and the ids of their components."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TasksId(StrEnum):
    """Ids of this view's components, except those of the reports."""

    SUITE = "tasks-suite"
    SIZE = "tasks-size"
    DIGITS = "tasks-digits"
    SUM = "tasks-sum"
    UPLOAD = "tasks-upload"
    LIST = "tasks-list"
    MESSAGE = "tasks-upload-said"
    WANTED = "tasks-wanted"
    DOWNLOAD = "tasks-download"


class Part(StrEnum):
    """The components that every report has."""

    BUTTON = "run"
    CANCEL = "cancel"
    BAR = "progress"
    LAST = "last"
    READY = "ready"
    SUMMARY = "summary"
    FIGURES = "figures"
    TOOLS = "tools"
    SIZE = "size"


class ReportOption(StrEnum):
    """Further controls; ``REPORTS`` says which report has which."""

    HEAD = "head"
    TARGET = "target"
    CONTROL = "control"
    COMPONENT = "component"
    PLACE = "place"
    COLUMN = "column"
    TRAVELS = "travels"
    POSITIONS = "positions"
    PAIR = "pair"


def of(report: str, part: str) -> str:
    """The id of a component of a report; those of the suite have no name: ``tasks-run``."""
    return f"tasks-{part}" if report == "suite" and part != Part.SIZE else f"tasks-{report}-{part}"


@dataclass(frozen=True, slots=True)
class Report:
    """One report.

    Attributes:
        name: Its name in ids.
        title: Its title in the page.
        lead: The question that it answers, in a sentence.
        help: How it is computed, with formula and source, and the meaning of its control.
        button: Text of the button that starts it.
        size: Label, default and maximum of its own size; None: it uses the suite's.
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
    asks: tuple[ReportOption, ...] = ()
    shows: tuple[ReportOption, ...] = ()
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
        "Compares each wrong answer with the most similar right one: where their states, heads,"
        " MLPs and flows diverge.",
        (
            "The most similar right prompt has the same number of tokens and the fewest different"
            " ones. States are compared up to the one that predicts the first wrong token. Their"
            " difference is the distance divided by the larger norm: 0 means equal, above 1 means"
            " that they point in different directions.",
            "The flow is by proximity (Ferrando and Voita, 2024), from that state back to the"
            " tokens, without pruning. The difference of two flows is half the sum of absolute"
            " differences over the states after one layer. It shows where the runs differ, not why"
            " the answer is wrong.",
        ),
        "Compare right and wrong",
        ("Pairs", 3, 20),
        shows=(ReportOption.PAIR,),
        sheets=("states", "parts", "flows"),
    ),
    Report(
        "effects",
        "Which links carry the answer",
        "Cuts links of each prompt's flow graph, and measures what that does to the right answer:"
        " by role in the prompt, and how well each method predicts it.",
        (
            "In each prompt the 20 strongest links of each method are cut on their own: an"
            " attention edge is knocked out before the softmax, an MLP is set to zero. The effect"
            " is how much"
            " the logit of the answer's first token falls, minus the foil's where the suite has"
            " foils. Effects of links with the same roles are summed in a prompt.",
            "Dots are medians over prompts. Bars are 95 % intervals of the median, taken from the"
            " order of the values; they need six prompts. A method's agreement is the rank"
            " correlation (Spearman, 1904) of drawn flow and absolute effect.",
        ),
        "Check links",
        None,
        sheets=("roles", "methods"),
    ),
    Report(
        "contributions",
        "What writes each digit of a sum",
        "Shows which heads and MLPs write each digit, with and without a carry into it, and which"
        " digits each head reads.",
        (
            "Direct logit attribution: each component's output through the final norm (with frozen"
            " scale) and the unembedding, for the right digit minus the digit that the other carry"
            " would give. Purple raises the right digit, orange the other one. Values are means"
            " over sums. The difference is the control: what raises all digits equally cancels.",
            "Attention is the mean pattern of the state that writes the digit. It shows where a"
            " head reads, not how it uses what it reads.",
        ),
        "Attribute digits",
        ("Sums", 200, 2000),
        shows=(ReportOption.HEAD,),
        sheets=("logits", "attention"),
    ),
    Report(
        "probes",
        "Where a probe can decode a carry",
        "Fits a linear probe for the carry into each column, and for each column's raw digit sum,"
        " at every component and position.",
        (
            "Ridge regression on standardised states, fitted on 70 % of the sums and tested on the"
            " others. For carries: balanced accuracy, where chance is 50 %. For raw sums: the"
            " largest of nineteen outputs. The control shuffles the labels among the sums; its "
            "accuracy shows chance and overfitting.",
            "A model need not use what a probe can decode. To test that, use patching. A large"
            " model is probed at its residual states only.",
        ),
        "Fit probes",
        ("Sums", 800, 4000),
        shows=(ReportOption.TARGET, ReportOption.CONTROL),
        sheets=("probes",),
    ),
    Report(
        "projection",
        "The same states on two axes",
        "Shows one component's states at one position, coloured by raw digit sum and by carry.",
        (
            "The two main principal components (PCA) of the states over the sums, with their share"
            " of the variance. Each dot is a sum. Click a dot to open its sum.",
        ),
        "Project",
        ("Sums", 400, 2000),
        asks=(ReportOption.COMPONENT, ReportOption.PLACE, ReportOption.COLUMN),
        sheets=("points",),
    ),
    Report(
        "circuits",
        "Which head makes carries, by its weights",
        "Reads the QK and OV circuits of every head without running the model: does it read the"
        " two digits of the column below, and does it write whether they carry?",
        (
            "Reads below: the attention weight on the two digits of the column below, from the"
            " state that writes the column. It is the softmax of q · k for embeddings at their"
            " positions; the digits of all other positions are averaged out.",
            "Carry: over the 100 pairs of these two digits, the share of the variance of the head's"
            " output (OV) that the carry explains. At 100 % the output is one bit. A head's score"
            " is the mean over columns of the two shares, multiplied.",
            "Heads of later layers also read what earlier layers write. This is left out here."
            " Patching, below, measures the effect in runs of the model.",
        ),
        "Read circuits",
        None,
        shows=(ReportOption.HEAD,),
        sheets=("heads", "reads", "outputs"),
    ),
    Report(
        "patching",
        "Which component carries it",
        "Patches a component's output from a sum with a carry into a sum without one, and tests"
        " whether the digit increases by one.",
        (
            "The two sums of a pair agree in all digits from the column upwards, and only the donor"
            " has a carry into it. Only pairs that the model answers correctly without a patch are"
            " counted. The control's donor has as many different digits below the column, but no"
            " carry; changes there show the damage of a patch.",
            "There: patched at the state that writes the digit. Everywhere: patched at all states"
            " up to it. Through a nine: the digits of the column below add up to 9 and pass the"
            " carry on.",
        ),
        "Patch",
        ("Pairs", 32, 500),
        asks=(ReportOption.TRAVELS, ReportOption.POSITIONS),
        shows=(ReportOption.CONTROL, ReportOption.COLUMN),
        sheets=("patches",),
    ),
)
EVERY = (SUITE, *REPORTS)
