"""The names of an output folder: every file of a result has one, and the service reads them without torch."""

import subprocess
import sys

from soul_core.outputs.layout import CHECKPOINT, LOGS, REPORT, is_in_folder, is_log, make_gguf_path, make_log_path


def test_a_log_is_recognized_by_its_path() -> None:
    assert make_log_path("retrained") == "logs/retrained.json"
    assert is_log(make_log_path("retrained"))
    assert not any(map(is_log, (REPORT, "logs/retrained.txt", "checkpoint/logs/a.json")))


def test_a_path_is_in_a_folder_only_below_its_slash() -> None:
    assert is_in_folder("checkpoint/config.json", CHECKPOINT)
    assert not is_in_folder("checkpoint-2/config.json", CHECKPOINT)
    assert not is_in_folder("logs", LOGS)
    assert make_gguf_path("q8_0") == "gguf/model-q8_0.gguf"


def test_the_layout_imports_the_standard_library_only() -> None:
    code = "import sys, soul_core.outputs.layout; assert not {'torch', 'pydantic'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
