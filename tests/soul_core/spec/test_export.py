"""The part `export` of a spec: what it accepts, and the sizes that follow from it."""

import pytest
from pydantic import ValidationError

from soul_core.spec import JobSpec
from soul_core.spec.export import Export, compute_output_bytes, count_export_parameters, get_export_dtype


@pytest.mark.parametrize(
    ("stored", "written"),
    [
        ("float64", "float32"),
        ("float32", "float32"),
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
        ("float8_e4m3", "bfloat16"),
        ("q4_1", "float16"),
        ("q8_0", "float16"),
    ],
)
def test_the_bases_dtype_is_kept_and_nothing_gets_fewer_than_16_bits(stored: str, written: str) -> None:
    assert get_export_dtype("base", stored) == written
    assert get_export_dtype("float32", stored) == "float32"


def test_sizes_follow_the_dtypes() -> None:
    stored = {"bfloat16": 90, "float32": 10}
    assert count_export_parameters(Export(), stored) == stored
    assert count_export_parameters(Export(dtype="float16"), stored) == {"float16": 100}
    assert compute_output_bytes(Export(), stored, num_parameters=100) == 90 * 2 + 10 * 4
    assert compute_output_bytes(Export(), {}, num_parameters=100) == 400


def test_a_mistyped_key_or_value_is_refused() -> None:
    with pytest.raises(ValidationError, match="dtype"):
        JobSpec.model_validate({"export": {"dtyp": "float32"}})
    with pytest.raises(ValidationError, match="'none', 'f16' or 'q8_0'"):
        JobSpec.model_validate({"export": {"gguf": "q4_k_m"}})
