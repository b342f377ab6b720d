"""The methods text of a page, with its references as a numbered list.

The text is the one ``logs/CITATION.md`` has (`bidsrep.bids.methods` writes it from the settings); to it
comes what only the results tell: the weights that were used.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bidsrep.bids.methods import MODEL_SENTENCES, bibliography
from bidsrep.reports.pages import data_file
from bidsrep.reports.results import ModelUse

CITATION = re.compile(r"\s*\[(@[\w-]+(?:;\s*@[\w-]+)*)\]")
EMPHASIS = re.compile(r"\*([^*]+)\*")
FIELD = re.compile(r"^\s*(\w+)\s*=\s*\{(.*)\},?\s*$", re.MULTILINE)
REPORT_SENTENCE = (
    "Reports were assembled with *nireports* [@nireports]; images were read with *nibabel* [@nibabel]."
)
NO_TEXT = "The text that describes the run (logs/CITATION.md) is not there."


@dataclass(frozen=True)
class Reference:
    """One entry of a bibliography; `fields` as in the file, without braces."""

    key: str
    fields: dict[str, str]
    source: str

    def to_html(self) -> str:
        """Write the reference as a list of references has it."""
        venue = self.fields.get("journal") or self.fields.get("booktitle") or ""
        place = self.fields.get("volume", "")
        if pages := self.fields.get("pages"):
            place = f"{place}:{pages}" if place else pages
        parts = [
            escape(_authors(self.fields.get("author", ""))),
            f"({escape(self.fields.get('year', 'n.d.'))}).",
            f"{escape(self.fields.get('title', self.key))}.",
            f"<i>{escape(venue)}</i> {escape(place)}.".replace(" .", ".") if venue else "",
            self._link(),
        ]
        return " ".join(part for part in parts if part)

    def _link(self) -> str:
        doi = self.fields.get("doi")
        address = self.fields.get("url") or self.fields.get("howpublished", "")
        if not doi and self.fields.get("eprint"):
            doi = f"10.48550/arXiv.{self.fields['eprint']}"
        if doi:
            address = f"https://doi.org/{doi}"
        if not address.startswith("https://"):
            return ""
        return f'<a href="{escape(address)}">{escape(doi or address)}</a>'


def methods_markdown(out_dir: Path, models: Iterable[ModelUse]) -> str:
    """Give the methods text (Markdown with ``[@key]`` citations) for the results in a folder."""
    try:
        text = (out_dir / "logs" / "CITATION.md").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        text = NO_TEXT
    used = [_weights_sentence(model) for model in models if model.weights]
    return "\n\n".join([text, " ".join([*used, REPORT_SENTENCE])]) + "\n"


def methods_bibtex(text: str) -> str:
    """Give the BibTeX entries that a methods text cites."""
    return "\n\n".join(reference.source for reference in _references(text)) + "\n"


def methods_html(text: str) -> str:
    """Turn a methods text into HTML: paragraphs, emphasis, numbered citations, and the references."""
    known = {reference.key: reference for reference in _references(text)}
    numbers: dict[str, int] = {}
    paragraphs = []
    for block in re.split(r"\n\s*\n", text.strip()):
        html = EMPHASIS.sub(r"<em>\1</em>", escape(" ".join(block.split())))
        html = CITATION.sub(lambda match: _cite(match[1], known, numbers), html)
        heading = re.fullmatch(r"#+ (.*)", html)
        paragraphs.append(f"<h3>{heading[1]}</h3>" if heading else f"<p>{html}</p>")
    items = [f'<li id="ref-{key}">{known[key].to_html()}</li>' for key in numbers]
    if items:
        paragraphs += ["<h3>References</h3>", '<ol class="refs">', *items, "</ol>"]
    return "\n".join(paragraphs)


def read_bibtex(text: str) -> Iterator[Reference]:
    """Read BibTeX entries that are parted by empty lines, one field a line."""
    for entry in re.split(r"\n\s*\n", text.strip()):
        head = re.match(r"@\w+\{([\w-]+),", entry)
        if head:
            fields = {name.lower(): _clean(value) for name, value in FIELD.findall(entry)}
            yield Reference(head[1], fields, entry.strip())


def _references(text: str) -> list[Reference]:
    """Find what a text cites, in the package's bibliography and in that of the reports."""
    own = read_bibtex(data_file("references.bib").read_text(encoding="utf-8"))
    cited = set(re.findall(r"@([\w-]+)", " ".join(CITATION.findall(text))))
    return [*read_bibtex(bibliography(text)), *(reference for reference in own if reference.key in cited)]


def _cite(keys: str, known: dict[str, Reference], numbers: dict[str, int]) -> str:
    """Number the citations of one bracket; a key that is in no bibliography is shown as it is."""
    marks = []
    for key in re.findall(r"@([\w-]+)", keys):
        if key not in known:
            marks.append(escape(key))
            continue
        number = numbers.setdefault(key, len(numbers) + 1)
        marks.append(f'<a href="#ref-{key}">{number}</a>')
    return f'<sup class="cite">[{", ".join(marks)}]</sup>'


def _weights_sentence(model: ModelUse) -> str:
    status = f", {model.status}" if model.status else ""
    licence = f", licence {model.licence}" if model.licence else ""
    cited = f" [@{model.name}]" if model.name in MODEL_SENTENCES else ""
    return f"*{model.name}*{cited} ran with the weights {model.weights} (SHA-256 {model.sha256[:12]}{status}{licence})."


def _authors(text: str) -> str:
    """Shorten the authors to the first three.

    >>> _authors("Liu, Peirong and Puonti, Oula and Hu, Xiaoling and Alexander, Daniel C.")
    'Liu P, Puonti O, Hu X, et al.'
    """
    names = []
    for person in text.split(" and "):
        last, _, first = person.partition(", ")
        initials = "".join(word[0] for word in first.replace("-", " ").split())
        names.append("et al." if person == "others" else f"{last} {initials}".strip())
    people = [name for name in names if name != "et al."]
    shown = people[:3]
    return ", ".join([*shown, "et al."]) if len(people) > 3 or "et al." in names else ", ".join(shown)


def _clean(value: str) -> str:
    return value.replace("{", "").replace("}", "").replace("--", "–")
