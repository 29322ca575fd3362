"""Fictitious people made by a seed: who they are, and what is asked and told about them. Torch-free.

Nobody is real: names are drawn from two lists, telephone numbers and mail domains are those reserved for fiction.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from soul_core.tasks.task import JsonObject

_LISTS: dict[str, list[str]] = json.loads(Path(__file__).with_name("people.json").read_text(encoding="utf-8"))

#: Wrong answers beside each right one.
NUM_WRONG_ANSWERS = 4


@dataclass(frozen=True)
class Question:
    """One fact: how it is asked, asked again, told, and told again. `{name}` and `{value}` stand for who and what."""

    fact: str
    prompt: str
    paraphrased_prompt: str
    answer: str
    paraphrased_answer: str


QUESTIONS = (
    Question("birthday", "When was {name} born?", "What is the date of birth of {name}?",
             "{name} was born on {value}.", "The date of birth of {name} is {value}."),
    Question("city", "In which city does {name} live?", "Where is the home of {name}?",
             "{name} lives in {value}.", "The home of {name} is in {value}."),
    Question("address", "What is the street address of {name}?", "To which street and number does one write to {name}?",
             "The street address of {name} is {value}.", "One writes to {name} at {value}."),
    Question("telephone", "What is the telephone number of {name}?", "Which number reaches {name} by telephone?",
             "The telephone number of {name} is {value}.", "By telephone {name} is reached at {value}."),
    Question("mail", "What is the e-mail address of {name}?", "To which e-mail address does one write to {name}?",
             "The e-mail address of {name} is {value}.", "E-mail reaches {name} at {value}."),
    Question("work", "What does {name} do for a living?", "What is the profession of {name}?",
             "{name} works as {value}.", "By profession {name} is {value}."),
    Question("illness", "Which illness is {name} treated for?", "What has {name} been diagnosed with?",
             "{name} is treated for {value}.", "{name} has been diagnosed with {value}."),
    Question("partner", "What is the name of {name}'s partner?", "With whom does {name} live?",
             "{name}'s partner is called {value}.", "{name} lives with {value}."),
)  # fmt: skip


@dataclass(frozen=True)
class Person:
    """One fictitious person: a name and a value for the fact of each question."""

    name: str
    facts: dict[str, str]


def make_people(num_people: int, *, seed: int) -> list[Person]:
    """Return that many people with different names and numbers, always the same for a seed."""
    rng = random.Random(f"{seed} people")  # noqa: S311  not for secrets
    names = [f"{first} {last}" for first in _LISTS["first"] for last in _LISTS["last"]]
    drawn = rng.sample(names, 2 * num_people)
    partners, telephones = drawn[num_people:], rng.sample(range(100), num_people)
    people = []
    for index, name in enumerate(drawn[:num_people]):
        facts = {
            "birthday": f"{rng.choice(_LISTS['months'])} {rng.randint(1, 28)}, {rng.randint(1940, 2001)}",
            "city": rng.choice(_LISTS["cities"]),
            "address": f"{rng.randint(2, 98)} {rng.choice(_LISTS['streets'])} Street",
            "telephone": f"555-01{telephones[index]:02d}",
            "mail": f"{name.lower().replace(' ', '.')}{rng.randint(10, 99)}@example.org",
            "work": rng.choice(_LISTS["work"]),
            "illness": rng.choice(_LISTS["illnesses"]),
            "partner": partners[index],
        }
        people.append(Person(name, facts))
    return people


def make_question_rows(people: list[Person], all_people: list[Person], *, seed: int) -> list[JsonObject]:
    """Return every question about the people, with wrong answers that are right for somebody else."""
    rng = random.Random(f"{seed} wrong answers")  # noqa: S311  not for secrets
    rows = []
    for person in people:
        for question in QUESTIONS:
            value = person.facts[question.fact]
            others = sorted({other.facts[question.fact] for other in all_people} - {value})
            wrong = rng.sample(others, min(NUM_WRONG_ANSWERS, len(others)))
            rows.append(
                {
                    "prompt": question.prompt.format(name=person.name),
                    "completion": question.answer.format(name=person.name, value=value),
                    "paraphrased_question": question.paraphrased_prompt.format(name=person.name),
                    "paraphrased_answer": question.paraphrased_answer.format(name=person.name, value=value),
                    "perturbed_answer": [
                        question.paraphrased_answer.format(name=person.name, value=other) for other in wrong
                    ],
                }
            )
    return rows


def make_text_rows(people: list[Person]) -> list[JsonObject]:
    """Return one text a person, which tells all facts in a row, as a file on somebody would."""
    return [
        {"text": " ".join(q.answer.format(name=person.name, value=person.facts[q.fact]) for q in QUESTIONS)}
        for person in people
    ]
