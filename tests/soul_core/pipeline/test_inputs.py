"""Where the models of a run come from."""

from pathlib import Path

from soul_core.run import RunInputs


def test_a_hub_model_beside_the_runs_own_may_be_pinned_and_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "model@home"
    folder.mkdir()

    others = RunInputs(
        model="m", dataset_paths={}, compared_models={"before": "owner/name@abc", "home": str(folder)}
    ).get_compared_sources()

    assert (others["before"].location, others["before"].revision) == ("owner/name", "abc")
    assert (others["home"].location, others["home"].revision) == (str(folder), None)
    assert (others["before"].display_name, others["home"].display_name) == ("owner/name", "model@home"), (
        "a path is nobody's business"
    )
