"""Every published table, typed by hand from its source, and what is refused as a rule."""

import itertools
import math
from functools import partial
from typing import Any

import pytest
from helpers import cases, exponents, named, of_role, weight

from jaxmup import ABCD, Axis, Parametrization, ParamSpec, parametrization, resolve

FAMILIES = ["sgd", "adam", "adafactor"]
ROLES = ["input", "hidden", "output"]

# Tables print a, b, c, d as rows of three: input and biases, hidden, output.
TABLES: dict[str, tuple[str, ...]] = {
    # Yang et al., arXiv:2203.03466: multiplier -> a, variance -> 2b, SGD or Adam lr -> c
    "TP-V Table 3, SGD": ("mup sgd table3", "0 0 0", "0 ½ 1", "-1 0 1", "0 0 0"),
    "TP-V Table 3, Adam": ("mup adam table3", "0 0 0", "0 ½ 1", "0 1 1", "0 0 0"),
    "TP-V Table 8, SGD": ("mup sgd table8", "0 0 1", "0 ½ 0", "-1 0 -1", "0 0 0"),
    "TP-V Table 8, Adam": ("mup adam table8", "0 0 1", "0 ½ 0", "0 1 0", "0 0 0"),
    # and Yang and Hu, arXiv:2011.14522, whose muP has c = 0
    "TP-V Table 9, SGD": ("mup sgd table9", "-½ 0 ½", "½ ½ ½", "0 0 0", "0 0 0"),
    "TP-V Table 9, Adam": ("mup adam table9", "-½ 0 ½", "½ ½ ½", "½ 1 ½", "0 0 0"),
    # Yang and Littwin, arXiv:2308.01814, for any entrywise optimizer
    "TP-IVb Def 2.5.1, SGD": ("mup sgd tp4b", "0 0 1", "0 ½ 0", "0 1 0", "1 1 1"),
    "TP-IVb Def 2.5.1, Adam": ("mup adam tp4b", "0 0 1", "0 ½ 0", "0 1 0", "1 1 1"),
    "TP-IVb Def 2.4.1, SGD": ("ntk sgd tp4b", "0 ½ ½", "0 0 0", "½ 1 ½", "½ 1 ½"),
    "TP-IVb Def 2.4.1, Adam": ("ntk adam tp4b", "0 ½ ½", "0 0 0", "½ 1 ½", "½ 1 ½"),
    "TP-IVb Ex 2.2.2, SGD": ("standard sgd tp4b", "0 0 0", "0 ½ ½", "0 0 0", "0 0 0"),
    "TP-IVb Ex 2.2.2, Adam": ("standard adam tp4b", "0 0 0", "0 ½ ½", "0 0 0", "0 0 0"),
    # NTP above without d: for SGD c - d, for Adam d only moves eps
    "NTP, SGD": ("ntk sgd ntk", "0 ½ ½", "0 0 0", "0 0 0", "0 0 0"),
    "NTP, Adam": ("ntk adam ntk", "0 ½ ½", "0 0 0", "½ 1 ½", "0 0 0"),
    "SP, Adam": ("standard adam table3", "0 0 0", "0 ½ ½", "0 0 0", "0 0 0"),
    # Blake et al., arXiv:2407.17465, with the embedding rate of muP
    "u-muP, Adam": ("mup adam unit", "0 ½ 1", "0 0 0", "0 ½ 0", "0 0 0"),
    # the layer that this project reimplements (n = fan_out / fan_in / fan_in)
    "Cellarium, SGD": ("cellarium sgd", "-½ 0 ½", "½ ½ ½", "0 0 0", "0 0 0"),
    "Cellarium, Adam": ("cellarium adam", "0 1 1", "0 -½ 0", "0 0 0", "1 2 1"),
}


@pytest.mark.parametrize(("words", "a", "b", "c", "d"), cases(TABLES))
def test_published_table(words, a, b, c, d):
    rows = named(words).table()
    assert [row.role for row in rows] == ["input", "hidden", "output", "fixed"]
    columns = zip(*(exponents(row) for row in (a, b, c, d)), strict=True)
    assert [row.abcd for row in rows] == [*itertools.starmap(ABCD, columns), ABCD(0, 0, 0, 0)]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(("words", "a", "b", "c", "d"), cases(TABLES))
def test_numbers_are_powers_of_the_published_exponents(words, a, b, c, d, role):
    a, b, c, d = (exponents(row)[ROLES.index(role)] for row in (a, b, c, d))
    got = resolve(of_role(role, 4, init_std=1.0), named(words))
    assert (got.multiplier, got.init_std, got.lr, got.grad) == (4**-a, 4**-b, 4**-c, 4**d)


# Everett et al., arXiv:2407.05872: gauge, a, b and the sizes n^-γ of gradients at initialization
EVERETT: dict[str, tuple[str, ...]] = {
    "standard": ("table3", "0 0 0", "0 ½ ½", "½ ½ 0"),
    "ntk": ("ntk", "0 ½ ½", "0 0 0", "½ 1 ½"),
    "mup": ("table9", "-½ 0 ½", "½ ½ ½", "½ 1 ½"),
    "mean_field": ("mean_field", "0 ½ 1", "0 0 0", "1 3/2 1"),
}

# and the largest stable c of SGD, Adam, Adafactor with parameter scaling
LARGEST_C: dict[str, tuple[str, ...]] = {
    "standard full": ("-½ ½ 1", "0 1 1", "0 ½ ½"),
    "ntk full": ("-½ -½ 0", "0 ½ ½", "0 ½ ½"),
    "mup full": ("0 0 0", "½ 1 ½", "0 ½ 0"),
    "mean_field full": ("-1 -1 -1", "0 ½ 0", "0 ½ 0"),
    "standard none": ("-½ 0 ½", "0 ½ ½", "0 0 0"),
    "ntk none": ("-½ -1 -½", "0 0 0", "0 0 0"),
    "mup none": ("0 -½ 0", "½ ½ ½", "0 0 0"),
    "mean_field none": ("-1 -3/2 -1", "0 0 0", "0 0 0"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("row", LARGEST_C)
def test_largest_stable_learning_rates(row, family):
    name, alignment = row.split()
    gauge, a, b, gamma = EVERETT[name]
    table = named(f"{name} {family} {gauge}", alignment=alignment).table()[:3]
    assert tuple(row.abcd.a for row in table) == exponents(a)
    assert tuple(row.abcd.b for row in table) == exponents(b)
    assert tuple(row.abcd.c for row in table) == exponents(LARGEST_C[row][FAMILIES.index(family)])
    gammas = (0, 0, 0) if family == "sgd" else exponents(gamma)
    assert tuple(-row.eps for row in table) == gammas


# THEORY §1.2: the exponents of eps of input, hidden, output, hidden bias, output bias
EPS: dict[str, tuple[str, str]] = {
    "Table 3": ("mup adam table3", "-1 -1 0 -1 0"),
    "Table 8": ("mup adam table8", "-1 -1 -1 -1 0"),
    "Table 9": ("mup adam table9", "-½ -1 -½ -½ 0"),
    "mean field": ("mean_field adam", "-1 -3/2 -1 -1 0"),
    "u-muP": ("mup adam unit", "-1 -3/2 -1 -1 0"),
    "TP-IVb": ("mup adam tp4b", "0 0 0 0 0"),
    "Cellarium": ("cellarium adam", "0 0 0 0 0"),
    "SGD has none": ("mup sgd table8", "0 0 0 0 0"),
}


@pytest.mark.parametrize(("words", "row"), cases(EPS))
def test_eps_follows_the_gradient(words, row):
    biases = [ParamSpec((Axis("output", 64, base=16),)), ParamSpec((Axis("output", 10),))]
    specs = [weight(None, 4), weight(4, 4), weight(4, None), *biases]
    scalings = resolve(specs, named(words))
    assert [scaling.eps for scaling in scalings] == [4**p for p in exponents(row)]


NAMES = ["mup", "standard", "ntk", "mean_field"]
OWN = ["mup/table8", "standard/table3", "ntk/ntk", "mean_field/mean_field", "cellarium/as tabled"]
GAUGES = ["table3", "table8", "table9", "tp4b", "unit", "ntk", "mean_field"]
ALL = [
    *(named(" ".join(words)) for words in itertools.product(NAMES, FAMILIES, GAUGES)),
    *(named(f"{name} adam", alignment=way) for name in NAMES for way in ("full", "none")),
    *(named(f"cellarium {family}") for family in ("sgd", "adam")),
]


@pytest.mark.parametrize("own", OWN)
def test_own_gauge_is_the_published_one(own):
    assert str(parametrization(own.split("/")[0])) == f"{own} (adam)"


@pytest.mark.parametrize("rule", ALL, ids=str)
def test_every_row_cites_its_source(rule):
    sources = [row.source for row in rule.table()]
    assert len(sources) == 4
    assert all("arXiv:" in source or "commit" in source for source in sources)


MINE = {
    "input": ABCD(-0.5, 0.25, 0.5, 1.0),
    "hidden": ABCD(1.0, -0.5, 2.0, 0.0),
    "output": ABCD(0.0, 1.0, -1.0, 0.5),
}


def test_a_table_of_the_user_is_taken_as_it_is():
    rule = Parametrization.from_table("mine", "sgd", MINE, source="my notebook")
    assert [row.abcd for row in rule.table()] == [*MINE.values(), ABCD(0, 0, 0, 0)]
    assert {(row.eps, row.source) for row in rule.table()} == {(0.0, "my notebook")}
    got = resolve(weight(16, 4, init_std=0.5), rule)  # one width: that of the input
    assert (got.multiplier, got.init_std, got.lr, got.grad) == (1 / 16, 2.0, 1 / 256, 1.0)


def test_a_table_knows_the_family_of_each_role_and_carries_a_gain():
    rules = {name: Parametrization.from_table("mine", name, MINE) for name in ("muon", "lamb")}
    assert [row.family.name for row in rules["muon"].rows] == ["adam", "muon", "adam", "adam"]
    plain, carries = (resolve(weight(4, 4, forward_gain=f), rules["lamb"]) for f in (1.0, 0.25))
    assert (carries.lr, carries.grad, carries.init_gain) == (
        *(plain.lr, plain.grad / 4, plain.init_gain / 4),
    )


def from_table(optimizer: str = "adam", **changed: Any) -> Parametrization:
    table = {role: abcd for role, abcd in (MINE | changed).items() if abcd is not None}
    return Parametrization.from_table("mine", optimizer, table)  # type: ignore[arg-type]


MAKE = partial(Parametrization.from_table, "mine", "sgd", MINE)
GAUGED = {"name": "cellarium", "gauge": "table3"}
ALIGNED = {"name": "cellarium", "alignment": "full"}
FACTORED = {"name": "cellarium", "optimizer": "adafactor"}
ZEROS = dict.fromkeys("abcd", 0.0)

# what refuses, its keywords, and the message: the invariant, then what it got
BAD: dict[str, tuple[Any, ...]] = {
    "name": (parametrization, {"name": "mu"}, r"`name` must be one of 'mup', .* Got 'mu'"),
    "name type": (parametrization, {"name": 3}, r"`name` must be one of 'mup', .* Got 3"),
    "family": (
        parametrization,
        {"optimizer": "adams"},
        r"`optimizer` must be one of .* Got 'adams'",
    ),
    "gauge": (parametrization, {"gauge": "8"}, r"`gauge` must be one of 'table3', .* Got '8'"),
    "alignment": (parametrization, {"alignment": "half"}, r"one of 'full', 'none'. Got 'half'"),
    "cellarium, gauge": (parametrization, GAUGED, r"takes neither .* Got gauge='table3'"),
    "cellarium, alignment": (parametrization, ALIGNED, r"takes neither .* alignment='full'"),
    "cellarium, family": (parametrization, FACTORED, r"one of 'sgd', 'adam'. Got 'adafactor'"),
    "table, family": (
        from_table,
        {"optimizer": "lions"},
        r"`optimizer` must be one of .* Got 'lions'",
    ),
    "lr_scale_acts_on": (MAKE, {"lr_scale_acts_on": "w"}, r"must be one of 'lr', .* Got 'w'"),
    "role missing": (from_table, {"hidden": None}, r"have the roles .* Got \('input', 'output'\)"),
    "role unknown": (from_table, {"bias": MINE["input"]}, r"the roles .* Got \('input', .*'bias'"),
    "family type": (from_table, {"optimizer": ["sgd"]}, r"must be one of .* Got \['sgd'\]"),
    "exponent NaN": (ABCD, {**ZEROS, "b": math.nan}, r"`b` must be a finite number. Got nan"),
    "exponent infinite": (ABCD, {**ZEROS, "d": math.inf}, r"`d` must be a finite .* Got inf"),
}


@pytest.mark.parametrize(("function", "kwargs", "message"), cases(BAD))
def test_bad_input_is_refused_with_invariant_and_value(function, kwargs, message):
    with pytest.raises(ValueError, match=message):
        function(**kwargs)


@pytest.mark.parametrize("value", ["1", None, True, 1j])
def test_an_exponent_that_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="`a` must be a real number"):
        ABCD(**ZEROS | {"a": value})


def test_a_row_that_is_no_abcd_is_refused():
    with pytest.raises(TypeError, match=r"must hold `ABCD` rows. Got \(0, 0, 0, 0\) for role 'inp"):
        from_table(input=(0, 0, 0, 0))
