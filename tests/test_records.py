"""Readers of jaxmup's own records: whatever its writers cannot write is refused with its line."""

import contextlib
import itertools
import json
import math
from pathlib import Path

import pytest
from helpers import cases

from jaxmup import coord_check, transfer
from jaxmup._families import FAMILIES
from jaxmup._finding import Finding
from jaxmup._records import parse, read_lines
from jaxmup.coord_check._expected import Expected
from jaxmup.coord_check._slopes import Slope
from jaxmup.coord_check._verdict import Verdict
from jaxmup.transfer._measure import result_of
from jaxmup.transfer._store import open_store, trial_to_json

CONFIG = transfer.Config(
    widths=(8, 16),
    learning_rates=(0.25, 0.5),
    seeds=(0,),
    parametrizations=("mup",),
    base_width=8,
    sweep={"b2": (0.9,)},
)
TRIALS = tuple(
    transfer.Trial("mup", width, rate, 0, loss, (("b2", 0.9),), (2.0, None, loss))
    for (width, rate), loss in zip(
        itertools.product((8, 16), (0.25, 0.5)), (1.5, None, 1.25, 1.0), strict=True
    )
)
RESULT = result_of(CONFIG, TRIALS)


def replaced(old: str, new: str, count: int = 1):
    """An edit of a file's text."""

    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new, count)

    return edit


def trial(index: int, **changes: object):
    def edit(text: str) -> str:
        record = json.loads(text)
        record["trials"][index] |= changes
        return json.dumps(record, indent=2)

    return edit


def without(name: str):
    def edit(text: str) -> str:
        record = json.loads(text)
        del record[name]
        return json.dumps(record, indent=2)

    return edit


TRANSFER = {
    "empty": (lambda _: "", "line 1: It must be JSON"),
    "no JSON": (lambda text: text + "}", r"line \d{3}: It must be JSON. Extra data"),
    "truncated": (lambda text: text[:400], r"line \d+: It must be JSON"),
    "deep": (lambda _: "[" * 100_000, "line 1: It must be JSON. It is nested too deep"),
    "no text": (lambda text: "\udcff" + text, "line 1: It must be JSON. It is no text"),
    "a list": (lambda _: "[]", r"line 1: .*Got \(None, None\)"),
    "version true": (replaced('"version": 2', '"version": true'), r"line 1: .*Got \(.*, True\)"),
    "version 1": (replaced('"version": 2', '"version": 1'), r"line 1: .*version 2"),
    "no trials": (without("trials"), "at trials: A record must have the fields"),
    "no analysis": (without("analysis"), "at analysis: A record must have the fields"),
    "more": (replaced('"version": 2', '"version": 2, "more": 1'), "line 3, at more: A record"),
    "config null": (replaced('"config": {', '"config": null, "c": {'), "at c: A record must have"),
    "width -8": (replaced("      8,", "      -8,"), "at config: .*`widths` must be an integer"),
    "seeds 1": (
        lambda text: json.dumps({**(x := json.loads(text)), "config": x["config"] | {"seeds": 1}}),
        "at config: It must be a configuration. `seeds` must be a tuple",
    ),
    "unknown of config": (replaced('"depth": 3', '"deep": 3'), "at config: .*deep"),
    "steps 20.0": (replaced('"steps": 20', '"steps": 20.0'), "at config: .*`steps` must be"),
    "loss true": (trial(0, loss=True), r"line \d+, at trials/0: .*`loss` must be a real number"),
    "loss null": (trial(0, loss=None), "at trials/0: .*must be 'diverged'. Got null"),
    "loss of words": (trial(0, loss="1.0"), "at trials/0: .*`loss` must be a real number"),
    "loss NaN": (replaced('"loss": 1.5', '"loss": NaN'), r"line \d+: .*must be finite. Got NaN"),
    "loss 1e999": (replaced('"loss": 1.5', '"loss": 1e999'), "must be finite. Got 1e999"),
    "loss of digits": (replaced('"loss": 1.5', '"loss": ' + "9" * 5000), "line 1: .*digits"),
    "curve true": (trial(1, curve=[True]), "at trials/1: .*`curve` must be a real number"),
    "curve of text": (trial(1, curve="12"), "at trials/1: .*`curve` must be a real number"),
    "width 8.0": (trial(2, width=8.0), "at trials/2: .*`width` must be an integer"),
    "seed -1": (trial(2, seed=-1), "at trials/2: .*`seed` must be an integer"),
    "another width": (trial(2, width=32), "at trials/2/width: .*whose `width` is one of"),
    "another seed": (trial(2, seed=3), "at trials/2/seed: .*whose `seed` is one of"),
    "another rate": (trial(2, learning_rate=0.3), "at trials/2/learning_rate: "),
    "another name": (trial(2, parametrization="ntk"), "at trials/2/parametrization: "),
    "a name of numbers": (trial(2, parametrization=3), "at trials/2: .*names that are text"),
    "others a list": (trial(2, others=[]), "at trials/2: It must be a trial"),
    "more of a trial": (trial(2, more=1), "at trials/2: It must be a trial. .*more"),
    "a trial of numbers": (
        lambda text: json.dumps(json.loads(text) | {"trials": [1]}),
        "at trials/0: It must be a trial",
    ),
    "a contradiction": (trial(1, learning_rate=0.25), "at trials: It must be the trials of a"),
    "twice": (replaced('"seed": 0', '"seed": 1,\n"seed": 0'), "'seed' stands twice"),
    "analysis of another": (
        replaced('"analysis": [\n    {\n      "parametrization": "mup"',
                 '"analysis": [\n    {\n      "parametrization": "ntk"'),
        r"line \d+, at analysis: A record must analyze mup. Got \['ntk'\]",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), cases(TRANSFER))
def test_a_record_of_a_transfer_that_was_edited(tmp_path, edit, message):
    path = tmp_path / "transfer.json"
    transfer.write_record(RESULT, path)
    assert transfer.read_record(path) == RESULT
    path.write_bytes(edit(path.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message) as refusal:
        transfer.read_record(path)
    assert str(refusal.value).startswith(f"{path}, line ")


def test_the_line_of_an_error_is_that_of_the_part(tmp_path):
    path = tmp_path / "transfer.json"
    transfer.write_record(RESULT, path)
    text = path.read_text().replace('"loss": 1.25', '"loss": true')
    path.write_text(text)
    line = text[: text.index("true")].count("\n") + 1
    opening = text[: text.index("true")].rindex("{")
    with pytest.raises(ValueError, match=rf"line {text.count(chr(10), 0, opening) + 1}, at tri"):
        transfer.read_record(path)
    assert line > 50


IDENTITY = {"config": {"steps": 3}}


def lines_of_trials(*changed: tuple[int, object]) -> list[str]:
    lines = [json.dumps(trial_to_json(one)) for one in TRIALS]
    for index, line in changed:
        lines[index] = line if isinstance(line, str) else json.dumps(line)
    return lines


def with_trial(**changes: object) -> list[str]:
    return lines_of_trials((1, trial_to_json(TRIALS[1]) | changes))


STORE = {
    "loss true": (with_trial(loss=True), "line 3: It must be a trial. `loss` must be a real"),
    "loss null": (with_trial(loss=None), "line 3: .*must be 'diverged'"),
    "a NaN curve": (
        lines_of_trials((1, json.dumps(trial_to_json(TRIALS[1])).replace("2.0", "NaN"))),
        "line 3: .*must be finite. Got NaN",
    ),
    "a contradiction": (
        [*lines_of_trials(), json.dumps(trial_to_json(TRIALS[0]) | {"loss": 9.0})],
        "line 6: A run must have one outcome. .*is 1.5, this one 9.0",
    ),
    "deep": (lines_of_trials((2, "[" * 100_000)), "line 4: .*nested too deep"),
    "a cut line amid others": (lines_of_trials((1, '{"parametri')), "line 3: It must be JSON"),
    "an empty line": (lines_of_trials((0, "")), "line 2: It must be JSON"),
    "more": (with_trial(more=1), "line 3: It must be a trial"),
    "curve null": (with_trial(curve=None), "line 3: It must be a trial"),
    "rate of text": (with_trial(learning_rate="0.5"), "line 3: .*`learning_rate` must be a real"),
    "order of others": (
        [*lines_of_trials()[:-1], lines_of_trials()[-1].replace('"others": {"b2": 0.9}',
                                                                '"others": 3')],
        "line 5: It must be a trial",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "message"), cases(STORE))
def test_trials_that_were_edited(tmp_path, lines, message):
    path = tmp_path / "trials.jsonl"
    with open_store(tmp_path, IDENTITY):
        pass
    with path.open("a") as file:
        file.write("\n".join(lines) + "\n")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message) as refusal, open_store(tmp_path, IDENTITY):
        pytest.fail("it was opened")
    assert str(refusal.value).startswith(f"{path}, line ")
    assert path.read_bytes() == before


FOREIGN = {
    "a foreign line without an end": '{"precious": "no sweep"}',
    "a foreign line": '{"precious": "no sweep"}\n',
    "text": "notes of mine",
    "another sweep and a whole trial without an end": '{"format": "jaxmup.transfer.trials", '
    '"version": 2, "config": {"steps": 4}}\n' + json.dumps(trial_to_json(TRIALS[0])),
    "another version": '{"format": "jaxmup.transfer.trials", "version": 1, "config": {"steps": 3}}',
    "a note at the end": '{"format": "jaxmup.transfer.trials", "version": 2, "config": '
    '{"steps": 3}}\nrun this again',
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_file_is_known_before_it_is_cut(tmp_path, content):
    path = tmp_path / "trials.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"trials\.jsonl"), open_store(tmp_path, IDENTITY):
        pytest.fail("it was opened")
    assert path.read_text() == content


def test_a_trial_that_lacks_nothing_but_its_end_is_kept(tmp_path):
    path = tmp_path / "trials.jsonl"
    with open_store(tmp_path, IDENTITY) as store:
        store.append(TRIALS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with open_store(tmp_path, IDENTITY) as store:
        assert list(store.known.values()) == list(TRIALS)
    assert path.read_bytes() == whole
    for cut in (whole[:-2], whole[:-2] + b"\0" * 8, whole[:-40]):
        path.write_bytes(cut)
        with open_store(tmp_path, IDENTITY) as store:
            assert list(store.known.values()) == list(TRIALS[:-1])
            store.append(TRIALS[-1:])
        assert path.read_bytes() == whole


def test_a_refused_measurement_leaves_no_file(tmp_path):
    directory = tmp_path / "new"
    with pytest.raises(ZeroDivisionError), open_store(directory, IDENTITY):
        _ = 1 / 0
    assert list(directory.iterdir()) == []
    with contextlib.suppress(ZeroDivisionError), open_store(directory, IDENTITY) as store:
        store.append(TRIALS)
        _ = 1 / 0
    with open_store(directory, IDENTITY) as store:
        assert list(store.known.values()) == list(TRIALS)


CHECK = coord_check.CoordCheck(
    over="width",
    sizes=(8, 16),
    seeds=(0, 1),
    steps=2,
    parametrization="mup/table3 (adam)",
    family=FAMILIES["adam"],
    follows_parametrization=False,
    verdicts=(
        Verdict("weight", "a", None, 0, Slope(0.5, math.inf), Expected(0, 0.0), "pass", (1.0, 2.0)),
        Verdict("weight", "b", 1, 1, None, Expected(-0.5, 0.0), "fail", (1.0, math.inf)),
    ),
    rows=tuple(
        {"quantity": "weight", "name": "a", "layer": None, "size": size, "seed": seed, "step": 0,
         "rms": 0.5, "mean_abs": None}
        for size in (8, 16) for seed in (0, 1)
    ),
    findings=(Finding("eps", "One eps for all.", ("a", "b"), "Steps shrink.", "Scale it."),),
)  # fmt: skip


def line(index: int, **changes: object):
    def edit(text: str) -> str:
        lines = text.splitlines()
        lines[index] = json.dumps(json.loads(lines[index]) | changes)
        return "\n".join(lines) + "\n"

    return edit


COORD_CHECK = {
    "empty": (lambda _: "", "line 1: The file ends within a line"),
    "cut": (lambda text: text[:-1], "line 7: The file ends within a line: it was cut off"),
    "deep": (lambda text: text + "[" * 100_000 + "\n", "line 8: .*nested too deep"),
    "kind": (lambda text: text + '{"kind": "x"}\n', "line 8: It must have the fields"),
    "a list": (lambda text: text + "[1]\n", "line 8: It must be a verdict or a measurement"),
    "more": (line(0, foo=2), "line 1, at foo: It must have the fields"),
    "another format": (line(0, format="x"), r"line 1: .*Got \('x', 3\)"),
    "version 2.0": (line(0, version=2.0), r"line 1: A record must be of format"),
    "over": (line(0, over="time"), "line 1, at over: `over` must be one of"),
    "sizes of text": (line(0, sizes=["8", 16]), 'line 1, at sizes/0: Here must be an integer'),
    "no family": (line(0, family="eve"), "line 1, at family: 'eve' is missing or unknown"),
    "follows 1": (line(0, follows_parametrization=1), "Here must be true or false. Got 1"),
    "outcome": (line(1, outcome="passed"), "line 2, at outcome: `outcome` must be one of"),
    "slope true": (line(1, slope={"value": True, "half_width": None}), "line 2, at slope/value"),
    "values of one size": (line(1, values=[1.0]), "line 2: .*a value for each of the sizes"),
    "values of text": (line(1, values=["1", 2]), "line 2, at values/0: Here must be a number"),
    "NaN": (lambda text: text.replace("[1.0", "[NaN", 1), "line 2: .*must be finite. Got NaN"),
    "another size": (line(3, size=9), "line 4: .*Got size 9"),
    "step 2": (line(3, step=2), "line 4: .*step 2"),
    "rms of text": (line(3, rms="0.5"), "line 4, at rms: Here must be a number"),
    "a contradiction": (line(4, seed=0), "line 5: .*A line before it is of"),
    "quantity": (line(4, quantity="mass"), "line 5, at quantity: `quantity` must be one of"),
    "order": (
        lambda text: "\n".join([*(x := text.splitlines())[:2], x[3], x[2], *x[4:], ""]),
        "line 3: It holds|line 3, at kind: It holds",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), cases(COORD_CHECK))
def test_a_record_of_a_coordinate_check_that_was_edited(tmp_path, edit, message):
    path = tmp_path / "coord_check.jsonl"
    coord_check.write_record(CHECK, path)
    read = coord_check.read_record(path)
    assert coord_check.to_lines(read) == coord_check.to_lines(CHECK)
    path.write_text(edit(path.read_text()))
    with pytest.raises(ValueError, match=message) as refusal:
        coord_check.read_record(path)
    assert str(refusal.value).startswith(f"{path}, line ")


def test_every_cut_of_a_record_is_refused(tmp_path):
    path = tmp_path / "coord_check.jsonl"
    coord_check.write_record(CHECK, path)
    content = path.read_bytes()
    for size in range(0, len(content) - 1, 97):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="line"):
            read_lines(path)


@pytest.mark.parametrize("text", ["1", "1.5", "true", "null", '"é"', "[]", '{"a": [1, {"b": 2}]}'])
def test_strict_json_is_what_python_reads(text):
    assert parse(text.encode(), Path("x")).value == json.loads(text)
