"""What a check has found."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is not as it was recorded.

    Parameters
    ----------
    file : str
        Where: a path below the dataset, a BIDS URI, or the name of weights.
    check : str
        Which check: ``changed``, ``missing``, ``swapped``, ``unaccounted``, ``source``, ``link``, ``weights``,
        ``sidecar``, ``record`` or ``rerun``.
    problem, remedy : str
        What is wrong, and what to do, as sentences without the full stop.
    """

    file: str
    check: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return printable(f"{self.file}: {self.check}: {self.problem}. {self.remedy}.")

    def to_dict(self) -> dict[str, str]:
        """Give the fields, each as it can be printed and encoded."""
        return {name: printable(text) for name, text in asdict(self).items()}


def printable(text: str) -> str:
    r"""Escape what a terminal would not show: file names may hold anything.

    >>> printable("a\nb")
    'a\\x0ab'
    """
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
