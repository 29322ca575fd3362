"""The `soul` command: the list of its commands, each a function of another module."""

import typer

from soul_cli import (
    commands_actions,
    commands_backup,
    commands_doctor,
    commands_evaluate,
    commands_inputs,
    commands_jobs,
    commands_results,
    commands_submit,
    commands_verify,
)
from soul_cli.demo import demo
from soul_cli.options import SoulGroup, format_exit_code_help
from soul_cli.serve import serve
from soul_cli.tofu import tofu

INTRODUCTION = f"""\
Make language models forget, by second-order unlearning (SOUL).

\b
  soul demo            watch a real model forget, in a few minutes
  soul serve           run the complete service on this machine
  soul submit --help   a complete example of a job

\b
Server and key: --url and --key, else SOUL_URL and SOUL_API_KEY, else those of
the local `soul serve` (connection.json in SOUL_DATA, else in ./soul-data).

\b
Exit codes:
{format_exit_code_help()}
"""

app = typer.Typer(
    cls=SoulGroup,
    help=INTRODUCTION,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_show_locals=False,
)
app.command("serve")(serve)
app.command("demo")(demo)
app.add_typer(commands_inputs.models, name="models")
app.add_typer(commands_inputs.datasets, name="datasets")
app.command("methods")(commands_inputs.list_methods)
app.command("estimate")(commands_submit.estimate)
app.command("submit", epilog=commands_submit.SUBMIT_EXAMPLE)(commands_submit.submit)
app.command("finetune")(commands_submit.finetune)
app.command("evaluate", epilog=commands_evaluate.EVALUATE_EXAMPLE)(commands_evaluate.evaluate)
app.command("status")(commands_jobs.show_status)
app.command("watch")(commands_jobs.watch)
app.command("logs")(commands_jobs.show_log)
app.command("report")(commands_results.show_report)
app.command("download")(commands_results.download)
app.command("verify-export", epilog=commands_verify.VERIFY_EXAMPLE)(commands_verify.verify_export)
app.command("cancel")(commands_actions.cancel)
app.command("pause")(commands_actions.pause)
app.command("resume")(commands_actions.resume)
app.command("retry")(commands_actions.retry)
app.command("jobs")(commands_jobs.list_jobs)
app.command("workers")(commands_actions.list_workers)
app.command("doctor")(commands_doctor.doctor)
app.command("backup")(commands_backup.backup)
app.command("restore")(commands_backup.restore)
app.add_typer(tofu, name="tofu")

if __name__ == "__main__":
    app()
