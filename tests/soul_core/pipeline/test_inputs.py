"""Where the models of a run come from."""

from pathlib import Path

from soul_core.run import Inputs


def test_a_hub_model_beside_the_runs_own_may_be_pinned_and_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "model@home"
    folder.mkdir()

    others = Inputs(model="m", sets={}, models={"before": "owner/name@abc", "home": str(folder)}).others()

    assert (others["before"].location, others["before"].revision) == ("owner/name", "abc")
    assert (others["home"].location, others["home"].revision) == (str(folder), None)
    assert (others["before"].shown, others["home"].shown) == ("owner/name", "model@home"), "a path is nobody's business"
