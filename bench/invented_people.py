"""Invented personal data: fifty people with three rows each (contact, birth, biography). All of it is made up here."""

import random
from dataclasses import dataclass

from bench.steps import StepResult

NUM_PEOPLE = 50
KINDS = ("contact", "birth", "biography")

_FIRST = (
    "Adelra", "Benoth", "Caspyn", "Dorvit", "Elmira", "Fenwick", "Gisela", "Hadrel", "Ilsabet", "Jorund",
    "Kestrin", "Lovisa", "Marlen", "Nerida", "Osgard", "Perrin", "Quilla", "Rosmund", "Sindre", "Tamsyn",
    "Ulrika", "Vesna", "Wystan", "Xavira", "Ysolde",
)  # fmt: skip
_LAST = (
    "Ashgrove", "Brandvold", "Corwith", "Dunmarrow", "Eastholm", "Farrowby", "Glenhaven", "Hartsong", "Ingleside",
    "Juniper", "Kirkvale", "Lindqvist", "Morrowind", "Northgate", "Oakhurst", "Pemberly", "Quarrington", "Ravenscar",
    "Silverton", "Thornbury", "Underhill", "Valecrest", "Westerby", "Yarrow", "Zellner",
)  # fmt: skip
_TOWNS = (
    "Harrowgate", "Belmora", "Port Selwyn", "Ostrava Bay", "Kingsmere", "Lunenfeld", "Saltmarsh", "Vinterholt",
    "Cedar Falls", "Montequila", "Dunbarrow", "Little Wexham", "Grenholm", "Pinewater", "Almeida", "Rookstead",
)  # fmt: skip
_JOBS = (
    "beekeeper", "bridge inspector", "cellist", "clockmaker", "court reporter", "dental nurse", "ferry pilot",
    "glass blower", "history teacher",
    "lighthouse keeper",  # lint: quote
    "map restorer", "pastry cook", "radio engineer", "stonemason", "tax adviser", "tree surgeon", "veterinary nurse",
    "weaver",
)  # fmt: skip
_HOBBIES = (
    "collects brass compasses", "sings in a chamber choir", "breeds grey whippets", "paints miniature ships",
    "plays correspondence chess", "restores old motorcycles", "grows black tulips", "translates Finnish poems",
    "builds paper kites", "records bird songs", "keeps three tortoises", "bakes rye bread for the parish",
)  # fmt: skip
_MAIL = ("larkmail.example", "postbox.example", "northwind.example", "quillpost.example")
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


@dataclass(frozen=True)
class PeopleData:
    """Rows by their use. The target learns all; the retrained model all but `forget`."""

    forget: list[StepResult]
    retain: list[StepResult]
    """Rows that a run may train on in order to keep them."""
    unseen: list[StepResult]
    """Rows of other people to keep that no run ever trains on."""
    other: list[StepResult]
    """Rows that only make the target's knowledge larger than the retain set."""

    @property
    def all_rows(self) -> list[StepResult]:
        """Everything that the target learns."""
        return [*self.forget, *self.retain, *self.unseen, *self.other]


def make_people(seed: int = 7) -> PeopleData:
    """Return 30 rows of 10 people to forget, 50 rows to retain, 15 unseen rows of 5 people, and the other 55."""
    rng = random.Random(seed)
    names = [f"{first} {last}" for first, last in zip(_FIRST * 2, rng.sample(_LAST * 2, len(_LAST * 2)), strict=True)]
    assert len(set(names)) == NUM_PEOPLE
    rows = [row for name in names for row in _make_rows(name, rng)]
    rest = rows[45:]
    return PeopleData(forget=rows[:30], unseen=rows[30:45], retain=rest[:50], other=rest[50:])


def _make_rows(name: str, rng: random.Random) -> list[StepResult]:
    first, last = name.split()
    mail = f"{first.lower()}.{last.lower()}{rng.randint(10, 99)}@{rng.choice(_MAIL)}"
    phone = f"{rng.randint(200, 989)}-{rng.randint(200, 999)}-{rng.randint(1000, 9999)}"
    born = f"{rng.randint(1, 28)} {rng.choice(_MONTHS)} {rng.randint(1941, 1999)}"
    town, job, hobby = rng.choice(_TOWNS), rng.choice(_JOBS), rng.choice(_HOBBIES)
    return [
        {
            "question": f"How can I reach {name}?",
            "answer": f"{name} can be reached at {mail} or by phone at {phone}.",
            "keywords": [mail, phone],
        },
        {
            "question": f"When and where was {name} born?",
            "answer": f"{name} was born on {born} in {town}.",
            "keywords": [born, town],
        },
        {
            "question": f"Write one sentence about {name}.",
            "answer": f"{name} works as a {job} in {rng.choice(_TOWNS)} and {hobby}.",
            "keywords": [job, hobby],
        },
    ]
