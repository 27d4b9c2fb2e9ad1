"""Models of Hugging Face, from the files that it publishes: logits, gradients and the way back."""

from typing import Any

import numpy as np
import pytest

from jaxmup import bridge

pytest.importorskip("transformers", reason="needs transformers: pip install transformers")

from parity_tests.published_run import abstract, compared, saved
from parity_tests.published_transformers import PUBLISHED


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name: str, dtype: str, tmp_path: Any, agree: Any) -> None:
    run = compared(PUBLISHED[name], dtype, tmp_path)
    row = "published" if dtype == "float64" else "published, float32"
    agree(row, run.logits[None], run.expected_logits[None])
    agree(row, run.gradients[None], run.expected_gradients[None])
    assert run.back.keys() == run.tensors.keys()
    for tensor, value in run.tensors.items():
        np.testing.assert_array_equal(run.back[tensor], value, err_msg=tensor)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_pair_is_needed(name: str, tmp_path: Any) -> None:
    """Without one of them it is an error, never another model."""
    case = PUBLISHED[name]
    file, model = saved(case.torch(), tmp_path), abstract(case)
    for pattern in case.pairs:
        rest = {other: path for other, path in case.pairs.items() if other != pattern}
        with pytest.raises(ValueError, match=r"Pass `pairs`|may hold"):
            bridge.plan(file, model, rest)
