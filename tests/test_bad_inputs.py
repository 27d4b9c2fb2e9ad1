"""What is refused: every input of the table, and every public function in it."""

import inspect

import pytest
from bad_inputs import BAD, Bad
from test_words import public_objects

# Records that tools make for each other, and functions without arguments.
MADE = {
    *("Explanation", "Finding", "ParameterRow", "Scaling", "budget.Factor", "parity.Comparison"),
    *(f"bridge.{n}" for n in ("Conversion", "Entry", "Layout", "MupParameter", "Place", "Plan")),
    *(f"bridge.{n}" for n in ("Source", "ParameterGroup", "Group")),
    *(f"coord_check.{n}" for n in ("CoordCheck", "Expected", "Slope", "Verdict")),
    *("coord_check.LineCheck", "coord_check.LineGrowth", "Correction"),
    *("data.Dataset", "data.Text", "data.digits", "manifest.Manifest", "nnx.Multiplier"),
    "functional.Factor",
    *(f"empirical.{n}" for n in ("Absorbed", "Calibration", "Exponents", "Exponent")),
    *(f"empirical.{n}" for n in ("ModuleStatistics", "ParameterExponents", "Report")),
    *("empirical.Scale", "empirical.Scaled"),
    *(f"fused.{n}" for n in ("GlobalNormClip", "LiveGradients", "Memory", "MemoryReport")),
    *(f"gauge.{n}" for n in ("Difference", "Equivalence", "Movement", "Regauged")),
    *(f"transfer.{n}" for n in ("Analysis", "Crossing", "Curve", "Interval", "Parabola")),
    *("transfer.Progress", "transfer.Result", "transfer.Trial"),
    *(f"transfer.{n}" for n in ("Limit", "Quality", "Robustness", "Tuning", "Wider")),
}


def is_alias(found: object) -> bool:
    """A name for a type, such as that of the choices of an argument."""
    return not inspect.isclass(found) and not inspect.isroutine(found)


@pytest.mark.parametrize("bad", BAD, ids=[f"{i} {bad.of}" for i, bad in enumerate(BAD)])
def test_it_is_refused_with_a_message(bad: Bad):
    if bad.of == "bridge.as_tensors":
        pytest.importorskip("torch")  # whose dtypes decide
    with pytest.raises(bad.error) as caught:
        bad.call()
    message = str(caught.value)
    assert bad.says in message
    for other in ("weights_only=False", "Traceback"):  # another library's words
        assert other not in message


def test_every_public_function_has_an_input_that_is_refused():
    names = {
        f"{module}.{name}".lstrip(".")
        for module, name, found in public_objects()
        if not is_alias(found)
    }
    assert names - MADE - {bad.of for bad in BAD} == set()
    assert {bad.of for bad in BAD} <= names
    assert len(BAD) >= 250
