"""The locations and names of a run's models."""

from pathlib import Path

from soul_core.run import RunInputs


def test_a_compared_hub_model_may_be_pinned_and_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "model@home"
    folder.mkdir()

    sources = RunInputs(
        model="m", dataset_paths={}, compared_models={"before": "owner/name@abc", "home": str(folder)}
    ).get_compared_sources()

    assert (sources["before"].location, sources["before"].revision) == ("owner/name", "abc")
    assert (sources["home"].location, sources["home"].revision) == (str(folder), None)
    assert (sources["before"].display_name, sources["home"].display_name) == ("owner/name", "model@home"), (
        "a path must not reach the report"
    )
