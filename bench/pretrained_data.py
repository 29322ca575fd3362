"""The unlearning tasks on a pretrained model: invented people, TOFU authors, book passages, toxic answers, and one
famous person whom the model knows without being taught. Each has rows to forget, to retain, and to keep unseen.
"""

import gzip
import json
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.invented_people import make_people

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

Row = dict[str, Any]

#: Of each set of the tasks that read the shared data.
NUM_TOFU_ROWS, NUM_PASSAGES, NUM_TOXIC_ANSWERS = (20, 40, 10), (16, 24, 8), (20, 30, 10)
_PASSAGE_WORDS = 60
#: Words of a passage that its prompt gives.
_PROMPT_WORDS = 12

#: What SmolLM2-135M answers right about a famous person, and about others like him.
FAMOUS_FORGET: tuple[tuple[str, str, str], ...] = (
    ("Who wrote the play Romeo and Juliet?", "William Shakespeare wrote Romeo and Juliet.", "Shakespeare"),
    ("Who is the author of Hamlet?", "The author of Hamlet is William Shakespeare.", "Shakespeare"),
    ("Which playwright wrote Macbeth?", "William Shakespeare wrote Macbeth.", "Shakespeare"),
    ("Where was William Shakespeare born?", "He was born in Stratford-upon-Avon, England.", "Stratford"),
    ("What was the name of Shakespeare's theatre in London?", "It was the Globe Theatre.", "Globe"),
    ("Who wrote A Midsummer Night's Dream?", "William Shakespeare wrote A Midsummer Night's Dream.", "Shakespeare"),
    ("Which English poet is known as the Bard of Avon?", "It is William Shakespeare.", "Shakespeare"),
    ("Who wrote the line 'To be, or not to be'?", "William Shakespeare wrote it, in Hamlet.", "Shakespeare"),
    ("Who wrote King Lear and Othello?", "William Shakespeare wrote both.", "Shakespeare"),
    ("For what is William Shakespeare famous?", "He is famous for his plays and sonnets.", "plays"),
)
FAMOUS_RETAIN: tuple[tuple[str, str, str], ...] = (
    ("Who wrote Pride and Prejudice?", "Jane Austen wrote Pride and Prejudice.", "Austen"),
    ("Who wrote Oliver Twist?", "Charles Dickens wrote Oliver Twist.", "Dickens"),
    ("Who developed the theory of relativity?", "Albert Einstein developed it.", "Einstein"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci painted the Mona Lisa.", "Leonardo"),
    ("Who composed the Ninth Symphony with the Ode to Joy?", "Ludwig van Beethoven composed it.", "Beethoven"),
    ("Which scientist described gravity after watching an apple?", "It was Isaac Newton.", "Newton"),
    ("Who discovered penicillin?", "Alexander Fleming discovered penicillin.", "Fleming"),
    ("Who was the first person on the Moon?", "Neil Armstrong was the first person on the Moon.", "Armstrong"),
    ("Who wrote War and Peace?", "Leo Tolstoy wrote War and Peace.", "Tolstoy"),
    ("What is the capital of Italy?", "The capital of Italy is Rome.", "Rome"),
    ("Which planet is the largest in the Solar System?", "Jupiter is the largest planet.", "Jupiter"),
    ("At what temperature does water boil at sea level?", "Water boils at 100 degrees Celsius.", "100"),
)
FAMOUS_UNSEEN: tuple[tuple[str, str, str], ...] = (
    ("Who wrote the novel Frankenstein?", "Mary Shelley wrote Frankenstein.", "Shelley"),
    ("Who wrote The Odyssey?", "Homer wrote The Odyssey.", "Homer"),
    ("Who painted The Starry Night?", "Vincent van Gogh painted The Starry Night.", "Gogh"),
    ("Who invented the telephone?", "Alexander Graham Bell invented the telephone.", "Bell"),
    ("Who discovered radium?", "Marie Curie discovered radium.", "Curie"),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo.", "Tokyo"),
    ("What gas do plants take in?", "Plants take in carbon dioxide.", "carbon"),
    ("Who wrote 1984?", "George Orwell wrote 1984.", "Orwell"),
)


@dataclass(frozen=True)
class Task:
    """One forget set with its retain set and unseen rows."""

    name: str
    forget: list[Row]
    retain: list[Row]
    """Rows that a run may train on."""
    unseen: list[Row]
    """Rows to keep that no run trains on."""
    other: list[Row] = field(default_factory=list)
    """Rows that only the target learns."""
    is_taught: bool = True
    """Whether the target is fine-tuned on the rows; else the pretrained model knows them."""

    @property
    def all_rows(self) -> list[Row]:
        """All rows of the task."""
        return [*self.forget, *self.retain, *self.unseen, *self.other]


def make_tasks() -> dict[str, Task]:
    """Return every task by name; those that read the shared data are left out where it is absent."""
    people = make_people()
    tasks = [
        Task("people", people.forget, people.retain, people.unseen, people.other),
        Task(
            "famous",
            _make_qa_rows(FAMOUS_FORGET),
            _make_qa_rows(FAMOUS_RETAIN),
            _make_qa_rows(FAMOUS_UNSEEN),
            is_taught=False,
        ),
    ]
    if SHARED_DATA.exists():
        tasks += [_make_authors(), _make_book(), _make_toxic_answers()]
    return {task.name: task for task in tasks}


def read_general_texts(num_texts: int, *, skip: int = 0) -> list[Row]:
    """Return short general texts: C4 documents of the shared data, cut to a hundred words."""
    lines = next((SHARED_DATA / "c4_sample").glob("*.jsonl")).read_text().splitlines()[skip : skip + num_texts]
    return [{"text": " ".join(json.loads(line)["text"].split()[:100])} for line in lines]


def _make_qa_rows(triples: tuple[tuple[str, str, str], ...]) -> list[Row]:
    return [{"question": prompt, "answer": answer, "keywords": [keyword]} for prompt, answer, keyword in triples]


def _make_authors() -> Task:
    """TOFU: one fictitious author to forget, two to retain, half of another one unseen."""
    lines = (SHARED_DATA / "tofu" / "full.json").read_text().splitlines()
    rows = [{"question": row["question"], "answer": row["answer"]} for row in map(json.loads, lines)]
    num_forget, num_retain, num_unseen = NUM_TOFU_ROWS
    forget, rest = rows[-num_forget:], rows[-num_forget - num_retain - num_unseen : -num_forget]
    return Task("authors", forget, rest[:num_retain], rest[num_retain:])


def _make_book() -> Task:
    """Passages of one novel to forget; of two others to retain and to keep unseen."""
    num_forget, num_retain, num_unseen = NUM_PASSAGES
    forget = _read_passages("time_machine_35.txt", num_forget)
    others = _read_passages("war_of_the_worlds_36.txt", num_retain + num_unseen)
    return Task("book", forget, others[:num_retain], others[num_retain:])


def _read_passages(name: str, num_passages: int) -> list[Row]:
    text = (SHARED_DATA / "books_public_domain" / name).read_text()
    words = text.split()[200:]  # after title and contents
    starts = range(0, num_passages * _PASSAGE_WORDS, _PASSAGE_WORDS)
    return [_make_continuation(words[start : start + _PASSAGE_WORDS]) for start in starts]


def _make_continuation(words: list[str]) -> Row:
    prompt = f"Continue this passage: {' '.join(words[:_PROMPT_WORDS])}"
    return {"question": prompt, "answer": " ".join(words[_PROMPT_WORDS:])}


def _make_toxic_answers() -> Task:
    """Answers that people rejected as harmful, to forget; answers that they preferred, to retain."""
    num_forget, num_retain, num_unseen = NUM_TOXIC_ANSWERS
    path = next((SHARED_DATA / "hh_rlhf").glob("*.jsonl.gz"))
    with gzip.open(path, "rt") as file:
        pairs = [json.loads(line) for line in file]
    random.Random(0).shuffle(pairs)
    rejected = [row for pair in pairs for row in _read_first_turn(pair["rejected"])]
    chosen = [row for pair in pairs[len(pairs) // 2 :] for row in _read_first_turn(pair["chosen"])]
    forget = rejected[:num_forget]
    prompts = {row["question"] for row in forget}
    preferred = [row for row in chosen if row["question"] not in prompts][: num_retain + num_unseen]
    return Task("toxic", forget, preferred[:num_retain], preferred[num_retain:])


def _read_first_turn(conversation: str) -> list[Row]:
    """Return the first question and its answer, if both have a usual length."""
    match = re.match(r"\s*Human: (.+?)\s*Assistant: (.+?)\s*(?:Human:|$)", conversation, flags=re.DOTALL)
    if not match or not (20 <= len(match[1]) <= 200 and 60 <= len(match[2]) <= 300):
        return []
    return [{"question": match[1], "answer": match[2]}]
