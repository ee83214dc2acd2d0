"""The waiting cap's figures, as docs/radiologist.md shows them."""

from benchmarks.bench_waiting_cap import FIFO
from benchmarks.evidence.markdown import commands, paragraphs, table
from benchmarks.evidence.results import Results, Row, one, values

COLUMNS = (
    ("immediate", "mean"),
    ("urgent", "mean"),
    ("urgent", "p95"),
    ("routine", "mean"),
    ("routine", "p95"),
    ("all", "longest"),
)
WORDS = {"mean": "mean", "p95": "95th percentile", "longest": "longest in {} days"}


def minutes(row: Row, key: str) -> str:
    return f"{row[key]:.0f} ({row[f'{key}_low']:.0f}-{row[f'{key}_high']:.0f})"


def waiting_cap(results: Results) -> str:
    found = results.result("waiting_cap")
    rows, days = found["rows"], found["days_of_each_seed"]
    head = ["minutes of waiting", *(f"{name}, {WORDS[key].format(days)}" for name, key in COLUMNS)]
    lines = [
        [policy, *(minutes(one(rows, policy=policy, urgency=name), key) for name, key in COLUMNS)]
        for policy in values(rows, "policy")
    ]
    default = f"cap of {found['default_cap_minutes']} minutes"
    urgent, longest = one(rows, policy=default, urgency="urgent"), one(rows, policy=default, urgency="all")
    immediate = one(rows, policy=default, urgency="immediate")
    unsorted = one(rows, policy=FIFO, urgency="urgent")
    added = f"{urgent['mean_to_no_cap']:.0f} ({urgent['mean_to_no_cap_low']:.0f}-{urgent['mean_to_no_cap_high']:.0f})"
    cost = (
        f"The hub's cap shortens the longest wait by {-longest['longest_to_no_cap']:.0f} minutes. It lengthens the "
        f"mean wait of urgent studies by {added} minutes, that of immediate ones by {immediate['mean_to_no_cap']:.1f}. "
        f"Urgent studies then wait {urgent['mean']:.0f} minutes on average; first come first served they wait "
        f"{unsorted['mean']:.0f}. A cap near the wait of first come first served undoes the sorting for all but the "
        "immediate studies."
    )
    about = (
        f"Simulated: {found['seeds']} times {days} days of arrivals after Baltruschat et al. (their mean turnaround "
        f"first come first served: 80 minutes), one reader; in brackets {found['interval']}. "
        f"{commands(results, 'waiting_cap')}"
    )
    return paragraphs(table(head, lines), cost, about)
