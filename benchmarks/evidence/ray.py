"""One big batch in docs/measured.md: the plain loop, processes and Ray, the course of a training, the sum on paper."""

from benchmarks.evidence.results import Results, Row

Line = tuple[str, str, str, str, str]
"""Figure, thinwire, beside it, on, file."""


def lines(results: Results) -> list[Line]:
    found = results.result("ray")
    arms, training, paper = found["arms"], found["training"], found["on_paper"]
    plain = f"plain loop {_rate(arms['plain loop'])}"
    load = found["load_average"]
    on = f"{found['graphs']:,} payloads of phantoms; load average {load['before']:.0f} to {load['after']:.0f}"
    told = [
        (f"archive predicted again, {name}", f"{_rate(row)}; {_ratio(row)} of the plain loop", plain, on, "ray")
        for name, row in arms.items()
        if name != "plain loop"
    ]
    hub, rows = found["hub_alone"], f"{found['hub_alone']['studies']:,} synthetic studies, SQLite"
    told.append(("archive predicted again, the hub's own part", _rate(hub), "", rows, "ray"))
    hours = paper["hours_by_workers"]
    few, many = list(hours)[1], list(hours)[-1]
    words = f"{hours[few]:,.1f} h with {few} workers, {hours[many]:,.1f} h with {many}"
    fed = f"one hub feeds {paper['workers_that_one_hub_feeds']:.0f}"
    told.append((f"archive of {paper['graphs']:,} graphs", words, fed, "computed from the rows above", "ray"))
    apart = f"losses apart by at most {100 * training['largest_difference']:.2g} %"
    size = f"{training['epochs']} epochs of {training['images']} phantoms, a tiny model"
    told.append(("training, two processes of Ray Train", apart, "plain torch", size, "ray"))
    return told


def _rate(row: Row) -> str:
    rate = row["graphs_per_second"]
    return f"{rate['median']:,.0f} graphs a second{_between(rate, ',.0f')}"


def _ratio(row: Row) -> str:
    ratio = row["of_plain_loop"]
    return f"{ratio['median']:.2f}{_between(ratio, '.2f')}"


def _between(values: Row, form: str) -> str:
    """The least and the most of several repeats."""
    return f" ({values['least']:{form}}-{values['most']:{form}})" if values["repeats"] > 1 else " (1 run)"
