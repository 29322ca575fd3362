"""The table of docs/correctness.md is made by one command."""

from bench.correctness import main


def test_the_command_prints_a_row_an_architecture_and_fails_above_its_limit(capsys):
    assert main(["Llama", "Falcon, ALiBi"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["Llama", "Falcon, ALiBi (1)"]
    assert "adds the ALiBi bias twice" in lines[-1]
    assert main(["Llama", "--limit", "1e-12"]) == 1
