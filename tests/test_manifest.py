"""Manifests: what was written is what is read, and what differs is named."""

import dataclasses
import json
import math
import re

import jax
import pytest
from helpers import cases
from hypothesis import given
from hypothesis import strategies as st

import jaxmup
from jaxmup import Axis, Family, ParamSpec, manifest, parametrization, shampoo
from jaxmup._spec import Applied
from jaxmup._tree import leaves_by_path

FULL = ParamSpec(
    (Axis("batch", 3), Axis("input", 96, base=7), Axis("output", 10)),
    init_std=1 / 3,
    lr_scale=0.1,
    applied=Applied(math.pi, 2 / 7),
    depth_ratio=1.5,
    forward_gain=math.sqrt(1 / 3),
)
PLAIN = ParamSpec((Axis("output", 96, base=7),), applied=Applied(1.0, None))
SPECS = {"blocks": [{"kernel": FULL}, {"bias": PLAIN}], "scale": ParamSpec(())}
RULES = {
    "mup": parametrization("mup", "adam", gauge="table9"),
    "unit": parametrization("mup", "sgd", gauge="unit"),
    "depth": parametrization("mup", "adamw", depth_alpha=1.0),
    "alignment": parametrization("standard", "adam", alignment="full"),
    "cellarium": parametrization("cellarium", "sgd"),
    "muon": parametrization("mup", "muon", gauge="table3"),
    "own family": parametrization("mup", shampoo(0.5, 0.25)),
    "own family without eps": parametrization("mup", Family("signs", 0, 0, eps=None)),
}
RULE = RULES["mup"]


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_what_is_read_is_what_was_written(rule, tmp_path):
    path = tmp_path / "manifest.json"
    manifest.write(path, SPECS, rule)
    found = manifest.read(path)
    assert found.specs == leaves_by_path(SPECS)
    assert found.parametrization == rule
    assert found.jaxmup_version == jaxmup.__version__
    manifest.check(path, SPECS, rule)


@given(number=st.floats(min_value=5e-324, allow_infinity=False, allow_nan=False))
def test_every_number_is_exact(number, tmp_path_factory):
    path = tmp_path_factory.mktemp("manifest") / "manifest.json"
    spec = dataclasses.replace(FULL, init_std=number, lr_scale=number, forward_gain=number)
    manifest.write(path, {"w": spec}, RULE)
    assert manifest.read(path).specs == {"w": spec}


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "manifest.json"
    manifest.write(path, SPECS, RULE)
    before = path.read_bytes()
    for specs, rule in ((SPECS, "mup"), ({"w": 1}, RULE)):
        with pytest.raises(TypeError):
            manifest.write(path, specs, rule)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


WIDER = {
    "kernel": dataclasses.replace(FULL, axes=(*FULL.axes[:1], Axis("input", 96, 8), FULL.axes[2]))
}
DIFFERENT = {  # a model that the manifest is not for, and what the error names
    "missing": (SPECS | {"more": PLAIN}, RULE, r"\n  more: only in the model\n"),
    "extra": ({"blocks": SPECS["blocks"]}, RULE, r"\n  scale: only in the manifest\n"),
    "another base": (
        SPECS | {"blocks": [WIDER, SPECS["blocks"][1]]},
        RULE,
        r"\n  blocks/0/kernel, axes: .*base=7.* in the manifest, .*base=8.* in the model\n",
    ),
    "another gain": (
        SPECS | {"scale": ParamSpec((), forward_gain=0.5)},
        RULE,
        r"\n  scale, forward_gain: 1.0 in the manifest, 0.5 in the model\n",
    ),
    "another gauge": (
        SPECS,
        parametrization("mup", "adam", gauge="table8"),
        r"\n  parametrization, gauge: table9 in the manifest, table8 in the model\n",
    ),
    "another family": (
        SPECS,
        parametrization("mup", "sgd", gauge="table9"),
        r"\n  parametrization, family: adam in the manifest, sgd in the model\n",
    ),
}


@pytest.mark.parametrize(("specs", "rule", "message"), cases(DIFFERENT))
def test_another_model_is_an_error_with_every_difference(specs, rule, message, tmp_path):
    path = tmp_path / "manifest.json"
    manifest.write(path, SPECS, RULE)
    with pytest.raises(ValueError, match=message):
        manifest.check(path, specs, rule)


def edited(**changes: object):
    def edit(text: bytes) -> bytes:
        return json.dumps(json.loads(text) | changes).encode()

    return edit


SPEC = json.loads(json.dumps(dataclasses.asdict(ParamSpec(()))))


def of_axis(**changes: object) -> dict[str, object]:
    axis = {"kind": "input", "size": 8, "base": None} | changes
    return {"w": SPEC | {"axes": [axis]}}


BROKEN = {
    "unknown version": (edited(version=2), r"line 1: .*version 1. Got \('jaxmup.manifest', 2\)"),
    "another format": (edited(format="jaxmup.transfer"), r"Got \('jaxmup.transfer', 1\)"),
    "no record": (lambda _: b"[1]", r"line 1: .*Got \(None, None\)"),
    "no JSON": (lambda text: text[:-20], r"line \d+: It must be JSON"),
    "no text": (lambda _: b"\xff\x00", "line 1: It must be JSON. It is no text"),
    "no specs": (edited(specs=None), "at specs: Here must be an object. Got null"),
    "unknown field": (edited(specs={"w": {**SPEC, "x": 1}}), "at specs/w/x: .*It has x too"),
    "missing field": (edited(specs={"w": {"axes": []}}), "at specs/w: .*It lacks init_std, lr_sc"),
    "size 0": (edited(specs=of_axis(size=0)), "at specs/w/axes/0: `size` must be"),
    "size true": (edited(specs=of_axis(size=True)), "at specs/w/axes/0/size: Here must be an int"),
    "size 8.0": (edited(specs=of_axis(size=8.0)), "at specs/w/axes/0/size: Here must be an int"),
    "kind": (edited(specs=of_axis(kind="x")), "at specs/w/axes/0/kind: `kind` must be one of"),
    "lr 1 as text": (edited(specs={"w": {**SPEC, "lr_scale": "1"}}), "at specs/w/lr_scale: Here"),
    "NaN": (lambda text: text.replace(b"7", b"NaN"), r"line \d+: .*Numbers must be finite"),
    "infinity": (lambda text: text.replace(b'"base": 7', b'"base": 1e999'), "must be finite"),
    "twice": (lambda text: text.replace(b'"init_std"', b'"axes"', 1), "line .*'axes' stands twice"),
    "deep": (lambda _: b"[" * 100_000, "line 1: It must be JSON. It is nested too deep"),
    "digits": (lambda text: text.replace(b'"base": 7', b'"base": ' + b"9" * 5000), "digits"),
    "truncated": (lambda text: text[: len(text) // 2], r"line \d+: It must be JSON"),
    "exponent": (
        lambda text: re.sub(rb'"r_in": [-.0-9]+', b'"r_in": "evil"', text, count=1),
        r"line \d+, at parametrization/rows/\d/\w+/r_in: Here must be a number. Got \"evil\"",
    ),
    "three rows": (
        lambda text: edited(
            parametrization={**(p := json.loads(text)["parametrization"]), "rows": p["rows"][:3]}
        )(text),
        "at parametrization: `rows` must be of the roles",
    ),
    "no such family": (
        lambda text: text.replace(b'"family": "adam"', b'"family": "eve"', 1),
        "at parametrization/.*family: 'eve' is missing or unknown",
    ),
}


@pytest.mark.parametrize(("edit", "message"), cases(BROKEN))
def test_a_file_that_is_no_manifest_is_an_error(edit, message, tmp_path):
    path = tmp_path / "manifest.json"
    manifest.write(path, SPECS, RULE)
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        manifest.read(path)
    with pytest.raises(OSError, match="missing"):
        manifest.read(tmp_path / "missing")


def test_specs_of_a_model(tmp_path):
    make = lambda n: {"w": jax.numpy.zeros((n, 2))}  # noqa: E731
    sizes = {"base": 4, "delta": 8, "rules": {"w": ("input", "output")}}
    rule = parametrization("mup", "adam", gauge="table3")
    manifest.write(tmp_path / "m", jaxmup.infer(make, target=16, **sizes), rule)
    manifest.check(tmp_path / "m", jaxmup.infer(make, target=16, **sizes), rule)
    with pytest.raises(ValueError, match=r"w, axes: .*size=16.*size=32"):
        manifest.check(tmp_path / "m", jaxmup.infer(make, target=32, **sizes), rule)
