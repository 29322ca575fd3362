"""Public classes of one name in two files are found, with both places."""

from tools.lint.classes import check_class_names

OUTCOME = "import os\n\n\nclass Outcome(Base):\n    class Inner: ...\n"


def test_a_class_name_in_two_files_is_found_in_both() -> None:
    findings = check_class_names({"api/jobs.py": OUTCOME, "worker/run.py": "class Outcome: ...\n"})

    assert [str(finding) for finding in findings] == [
        "api/jobs.py:4: the class 'Outcome' is also in worker/run.py:1; one name has one meaning: rename one of them",
        "worker/run.py:1: the class 'Outcome' is also in api/jobs.py:4; one name has one meaning: rename one of them",
    ]


def test_private_nested_shared_quoted_and_mirrored_classes_are_left_alone() -> None:
    other = "class _Row: ...\nclass Sophia: ...\nclass Model: ...  # lint: quote\n"
    sources = {"api/a.py": OUTCOME + other, "worker/b.py": other, "soul_cli/resources.py": OUTCOME}

    assert check_class_names(sources) == []
