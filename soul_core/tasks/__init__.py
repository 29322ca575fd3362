"""The table of tasks: published benchmarks with their data sets and specs. Torch-free; see docs/reference/tasks.md."""

from soul_core.tasks import book, detox, general_text, personal_data, tofu
from soul_core.tasks.task import Task

TASKS: dict[str, Task] = {
    "tofu": tofu.TASK,
    "book": book.TASK,
    "detox": detox.TASK,
    "personal_data": personal_data.TASK,
    "general_text": general_text.TASK,
}
