"""The table of what language models write on held-out prompts."""

from limbeck.report.charts import Table
from limbeck.report.reading import Run
from limbeck.report.statistics import mean
from limbeck.report.wording import number, percent

HEAD = (
    "Arm",
    "ROUGE-L",
    "Exact match",
    "Same as the teacher's",
    "Copied errors",
    "Agreement on own text",
    "KL on own text, nats",
)


def written(run: Run) -> Table | None:
    """A row for each arm that completed prompts; None where none did."""
    rows = []
    for name, arm in run.result.arms.items():
        found = arm.per_seed
        if not found.rouge_l:
            continue
        shares = (found.exact_match, found.same_completion, found.copied_errors, found.own_agreement)
        rows.append(
            (
                run.result.title(name),
                number(mean(found.rouge_l)),
                *(percent(mean(share)) for share in shares),
                number(mean(found.own_kl)),
            )
        )
    return Table("Greedy completions, mean over seeds", HEAD, tuple(rows)) if rows else None
