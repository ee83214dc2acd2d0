"""The result of an offline import as text and as JSON."""

from typing import Any

from thinwire.receiver.offline import ImportOutcome, ObjectImport


def imported_json(done: ObjectImport) -> dict[str, Any]:
    """The value of `import --json`."""
    return {
        "objects": [
            {
                "outcome": each.outcome,
                "site": each.site,
                "kind": None if each.kind is None else each.kind.name.lower(),
                "object": None if each.object is None else each.object.hex(),
                "error": None if each.error is None else type(each.error).__name__,
                "what": None if each.error is None else str(each.error),
            }
            for each in done.taken
        ],
        "graphs_read": done.predicted,
        "missing": dict(done.missing),
        "receipts_on_the_stick": dict(done.receipts),
    }


def imported_lines(done: ObjectImport) -> list[str]:
    """A few lines for a terminal."""
    lines = [
        ", ".join(f"{done.count(outcome)} {outcome}" for outcome in ImportOutcome)
        + f"; {done.predicted} graphs predicted"
    ]
    for each in done.taken:
        if each.error is not None:
            what = "epoch record or foreign file" if each.kind is None else each.kind.name.lower()
            lines.append(
                f"{each.outcome}: {what} of {each.site or 'an unknown site'}: {each.error}. {each.error.remedy}"
            )
    for site, count in sorted(done.missing.items()):
        if count:
            lines.append(f"{site}: {count} objects of the transfer are missing on the stick; the clinic still has them")
    lines += [f"{site}: {count} receipts are on the stick" for site, count in sorted(done.receipts.items())]
    return lines
