"""The yield of a data set: how many studies were used, and which files were left out for which reason."""

from collections import Counter
from dataclasses import dataclass, field

from thinwire.shared.errors import BadConfiguration

_NAMES_SHOWN = 3


@dataclass
class Summary:
    """Counts by reason; a broken file by its path below the data set's folder."""

    source: str
    strict: bool = False
    """Stop at the first missing or malformed file."""
    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    """Studies that are sound and were not wanted, by reason: a lateral view, a second study of a patient."""
    faults: dict[str, list[str]] = field(default_factory=dict)
    """Files that are missing or malformed, by reason."""

    def skip(self, reason: str, count: int = 1) -> None:
        if count:
            self.skipped[reason] += count

    def fault(self, name: str, reason: str) -> None:
        """A file that should be readable and is not. Raises BadConfiguration under `strict`."""
        if self.strict:
            raise BadConfiguration(
                f"{self.source}: {name}: {reason}",
                "Mend or fetch the file again, or run without strict to go on past it.",
            )
        self.faults.setdefault(reason, []).append(name)

    @property
    def left_out(self) -> int:
        return self.skipped.total() + sum(map(len, self.faults.values()))

    @property
    def counts(self) -> str:
        """The same without the names of files, which may be a patient's."""
        lines = [f"{self.source}: {self.used} used, {self.left_out} left out"]
        reasons = self.skipped + Counter({reason: len(names) for reason, names in self.faults.items()})
        return "\n".join(lines + [f"  {count} {reason}" for reason, count in sorted(reasons.items())])

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.used} used, {self.left_out} left out"]
        lines += [f"  {count} {reason}" for reason, count in sorted(self.skipped.items())]
        for reason, names in sorted(self.faults.items()):
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            lines.append(f"  {len(names)} {reason}: {', '.join(names[:_NAMES_SHOWN])}{more}")
        return "\n".join(lines)
