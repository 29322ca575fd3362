"""Phrases that a professional reader stumbles over are found in prose, and only there."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.lint.__main__ import main
from tools.lint.language import check_language, check_subject, check_subjects, is_checked
from tools.lint.phrases import PHRASES

Check = Callable[..., list[str]]


@pytest.fixture
def check() -> Check:
    def lines_and_rules(text: str, path: str = "docs/page.md") -> list[str]:
        return [f"{finding.line}: {finding.rule}" for finding in check_language(path, text)]

    return lines_and_rules


@pytest.mark.parametrize(
    ("sentence", "phrase"),
    [
        ("It runs the whole road.", "whole road"),
        ("Nobody listens on this port.", "nobody"),
        ("A path is nobody's business.", "nobody"),
        ("The job is not to be had.", "to be had"),
        ("A resumed run goes on from its checkpoint.", "goes on"),
        ("A tie is no hit.", "is no"),
        ("Curve points are no events.", "is no"),
        ("Return what speaks against the job.", "speaks against"),
        ("It leaves without a word.", "without a word"),
        ("Raises with the server's last words.", "last words"),
        ("It stops when that is wished.", "wish"),
        ("It retries patiently.", "patience"),
        ("It waits, however long that takes.", "however long"),
        ("Models measured beside it.", "beside"),
        ("Only events behind this event.", "behind"),
        ("Mistakes are told.", "told"),
        ("The keeper sends it.", "keeper"),
        ("It knows the text by heart.", "by heart"),
        ("It wakes those who wait.", "those who wait"),
        ("The row says so.", "says so"),
        ("The folder is renamed when whole.", "is whole"),
        ("One value a step.", "one value a step"),
        ("Say whether it is alive.", "Say whether"),
        ("The docs tell of each.", "tells of"),
        ("The two are not told apart.", "tells apart"),
    ],
)
def test_a_phrase_is_found_in_a_sentence(check: Check, sentence: str, phrase: str) -> None:
    assert check(sentence) == [f"1: {phrase}"]


@pytest.mark.parametrize(
    "sentence",
    [
        "There is no model, and there are no rows.",
        "The job is no longer running, and it is no better.",
        "The server is behind a proxy.",
        "The two charts are side by side.",
        "The attack was told to stop.",
        "Accounts: `postgres`, `nobody` or `daemon`.",
        "The whole file is read in order.",
        "The interval lies between 0 and 1.",
        "It goes on the GPU.",
        "A run stands in for the model.",
        "100 operations a second.",
        "The tokens a model may see.",
    ],
)
def test_standard_english_that_is_near_a_phrase_is_left_alone(check: Check, sentence: str) -> None:
    assert check(sentence) == []


def test_a_finding_states_the_words_and_the_remedy() -> None:
    findings = check_language("README.md", "The job\ngoes on.\n")
    assert [str(finding) for finding in findings] == ["README.md:2: 'goes on': write resumes, or continues"]


def test_docstrings_comments_and_strings_are_read_and_code_is_not(check: Check) -> None:
    source = '"""Told."""\n\ntold = keeper(beside)  # the keeper\nprint("it is over", told.wish)\n'
    assert check(source, path="api/main.py") == ["1: told", "3: keeper", "4: is over"]


@pytest.mark.parametrize(
    "source",
    [
        '"""The job\n    goes\n    on.\n    """',
        'TEXT = (\n    "the job goes "\n    "on"\n)',
        "# the job goes\n# on",
        'TEXT = f"{job} goes on"',
        "TEXT = f\"the job {'goes on' if job else 'ends'}\"",
        'TEXT = "ends\\ngoes on"',
    ],
)
def test_a_phrase_is_found_across_lines_and_quotes(check: Check, source: str) -> None:
    rules = [finding.split(": ")[1] for finding in check(source, path="api/main.py")]
    assert rules == ["goes on"]


@pytest.mark.parametrize("source", ['call("it goes", "on")', 'A = "goes"\nB = "on"', '"""It goes\n\non."""'])
def test_a_phrase_ends_with_its_string_or_paragraph(check: Check, source: str) -> None:
    assert check(source, path="api/main.py") == []


def test_comments_of_configuration_are_read(check: Check) -> None:
    assert check("a: 1\n# the job goes\n# on\n", path="docker-compose.yml") == ["2: goes on"]


def test_a_quoted_line_is_left_alone(check: Check) -> None:
    assert check("It goes on. <!-- lint: quote -->\nIt goes on.\n") == ["2: goes on"]


@pytest.mark.parametrize(
    ("path", "is_read"),
    [
        ("docs/tasks.md", True),
        ("Makefile", True),
        ("soul_core/report/page.html.j2", True),
        ("docs/glossary.md", False),
        ("CHANGELOG.md", False),
        ("tools/lint/phrases.py", False),
        ("migrations/versions/0001_initial.py", False),
        ("examples/forget.jsonl", False),
    ],
)
def test_prose_and_configuration_are_checked_except_quotes_and_history(path: str, is_read: bool) -> None:
    assert is_checked(path) is is_read


def test_no_remedy_uses_a_banned_phrase(check: Check) -> None:
    remedies = [f"write {phrase.instead}" for phrase in PHRASES]
    assert [remedy for remedy in remedies if check(remedy)] == []


@pytest.mark.parametrize("subject", ["Fix the queue", "api: Fix the queue", "api fix", "Api: fix", f"api: {'a' * 68}"])
def test_a_subject_of_another_form_or_length_is_found(subject: str) -> None:
    findings = list(check_subject("abc1234", subject))
    assert [subject in finding.message for finding in findings] == [True]


@pytest.mark.parametrize("subject", ["api: fix the queue", "docs, bench_2: add a page", f"api: {'a' * 67}"])
def test_scope_and_imperative_in_72_characters_are_a_subject(subject: str) -> None:
    findings = list(check_subject("abc1234", subject))
    assert findings == []


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    for subject in ("tests: begin", "tests: add a file", "Second thoughts"):
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", subject], check=True)
    return tmp_path


def test_commits_of_a_range_are_checked(repository: Path) -> None:
    findings = check_subjects("HEAD~2..HEAD")
    assert [finding.message.split(": ")[-1] for finding in findings] == ["Second thoughts"]


@pytest.fixture
def worker_file(repository: Path) -> Path:
    path = repository / "worker" / "app.py"
    path.parent.mkdir()
    path.write_text('"""A file."""\n\nkeeper = "it goes on"\n')
    return path


@pytest.mark.usefixtures("worker_file")
@pytest.mark.parametrize("arguments", [[], ["."], ["worker"], ["worker/app.py"]])
def test_the_command_prints_findings_and_fails(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code = main(arguments)
    assert code == 1
    assert capsys.readouterr().out.splitlines() == [
        "worker/app.py:3: 'keeper' has the word 'keeper', which the glossary bans; use maintenance",
        "worker/app.py:3: 'goes on': write resumes, or continues",
    ]


@pytest.mark.usefixtures("worker_file")
def test_the_command_counts_findings_by_rule(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--count"])
    assert code == 1
    assert capsys.readouterr().out.splitlines() == ["    1 banned word", "    1 goes on"]


@pytest.fixture
def ignored_file(repository: Path) -> Path:
    (repository / ".gitignore").write_text("build.md\n")
    (repository / "README.md").write_text("The job resumes.\n")
    path = repository / "build.md"
    path.write_text("It goes on.\n")
    return path


@pytest.mark.usefixtures("ignored_file")
def test_the_command_is_silent_and_succeeds_where_only_ignored_files_have_findings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main([])
    assert (code, capsys.readouterr().out) == (0, "")


@pytest.mark.usefixtures("repository")
def test_the_command_checks_commits_in_place_of_files(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--commits", "HEAD~1..HEAD"])
    assert code == 1
    assert "not 'scope: imperative'" in capsys.readouterr().out


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize("arguments", [["no_such_folder"], ["--commits", "no_such_branch..HEAD"]])
def test_a_mistyped_path_or_range_is_an_error_and_does_not_pass(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
