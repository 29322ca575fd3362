"""The names of all files and folders in a run's output folder. Standard library only.

    report.json          the report: what was measured, and the verdict
    report.html          the same as a page that works offline
    logs/MODEL.json      everything measured on one model, row by row
    checkpoint/          the judged model's weights, config and tokenizer, with its model card and load probe
    adapter/             the same for an adapter alone, in place of checkpoint/
    gguf/                the weights as one GGUF file, where the spec asks for it
    manifest.json        size and sha256 of each file, written last: a folder without it is incomplete

Paths of a job's artifacts are relative to this folder, with `/` on every platform.
"""

REPORT = "report.json"
REPORT_PAGE = "report.html"
MANIFEST = "manifest.json"

LOGS = "logs"
CHECKPOINT = "checkpoint"
ADAPTER = "adapter"
GGUF = "gguf"

#: Inside `checkpoint/` and `adapter/`.
MODEL_CARD = "README.md"
LOAD_PROBE = "export_check.json"

WEIGHT_FOLDERS = (CHECKPOINT, ADAPTER)
FOLDERS = (CHECKPOINT, ADAPTER, GGUF, LOGS)


def make_log_path(model_name: str) -> str:
    """Return the path of one model's log: logs/retrained.json."""
    return f"{LOGS}/{model_name}.json"


def make_gguf_path(kind: str) -> str:
    """Return the path of the GGUF file of a kind, such as q8_0."""
    return f"{GGUF}/model-{kind}.gguf"


def is_log(path: str) -> bool:
    """Return whether an artifact is the log of a model."""
    return path.startswith(f"{LOGS}/") and path.endswith(".json")


def is_in_folder(path: str, folder: str) -> bool:
    """Return whether an artifact is in one of the folders above."""
    return path.startswith(f"{folder}/")
