"""Damaged checkpoints, and what the format's definition makes of them."""

import json
import math
import random
import struct
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

Arrays = dict[str, np.ndarray]

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "I64": "<i8"}
DTYPES |= {"I32": "<i4", "U8": "u1", "BOOL": "?"}


def safetensors_file(header: dict[str, Any] | bytes, data: bytes) -> bytes:
    """A file of safetensors, written by its definition."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def good_header() -> tuple[dict[str, Any], bytes]:
    """Three tensors of three dtypes."""
    header = {
        "fc.weight": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]},
        "fc.bias": {"dtype": "BF16", "shape": [3], "data_offsets": [24, 30]},
        "steps": {"dtype": "I64", "shape": [], "data_offsets": [30, 38]},
    }
    return header, np.random.default_rng(0).bytes(38)


def read_by_definition(content: bytes) -> Arrays | None:
    """What a file of safetensors holds, or `None` if it is none; independent of any reader."""
    if len(content) < 8:
        return None
    (length,) = struct.unpack("<Q", content[:8])
    if length > len(content) - 8:
        return None
    try:
        pairs = json.loads(content[8 : 8 + length], object_pairs_hook=list)
        header = {name: dict(fields) for name, fields in pairs if name != "__metadata__"}
        if len(header) < len([name for name, _ in pairs if name != "__metadata__"]):
            return None
        data, arrays, spans = content[8 + length :], {}, []
        for name, fields in header.items():
            first, last = fields["data_offsets"]
            shape, dtype = fields["shape"], fields["dtype"]
            if any(type(n) is not int or n < 0 for n in (first, last, *shape)):
                return None
            if last - first != math.prod(shape) * SIZES[dtype] or last > len(data):
                return None
            spans.append((first, last))
            arrays[name] = np.frombuffer(data[first:last], DTYPES[dtype]).reshape(shape)
    except (KeyError, TypeError, ValueError):
        return None
    ends = sorted(spans)
    whole = [0, *(last for _, last in ends)] == [*(first for first, _ in ends), len(data)]
    return arrays if whole else None


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with one to four damages at random places."""
    for _ in range(rng.randint(1, 4)):
        content = _damaged(content, rng)
    return content


def _damaged(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    to = min(len(content), at + rng.choice((1, 2, 8, 64)))
    match rng.randrange(7):
        case 0 if at < len(content):  # one bit
            return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
        case 1:  # other bytes
            return content[:at] + rng.randbytes(to - at) + content[to:]
        case 2:  # bytes too many
            return content[:at] + rng.randbytes(rng.choice((1, 8, 64))) + content[at:]
        case 3:  # bytes too few
            return content[:at] + content[to:]
        case 4:  # the end is missing
            return content[:at]
        case 5:  # a part twice
            return content[:to] + content[at:]
    digits = [i for i, byte in enumerate(content) if 48 <= byte <= 57] or [0]
    at = rng.choice(digits)  # another number
    return content[:at] + str(rng.choice((0, 1, 9, 255, 2**31, 2**63))).encode() + content[at + 1 :]


def damaged_safetensors(count: int, seed: int) -> Iterator[bytes]:
    """Files of safetensors that are damaged in their bytes or in the meaning of their header."""
    rng = random.Random(seed)
    for i in range(count):
        header, data = good_header()
        if i % 2:
            yield mutated(safetensors_file(header, data), rng)
        else:
            yield safetensors_file(_other_meaning(header, rng), data)


def _other_meaning(header: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """A header that is well-formed and says something else."""
    for _ in range(rng.randint(1, 3)):
        fields = header[rng.choice(list(header))]
        match rng.randrange(5):
            case 0:
                fields["dtype"] = rng.choice((*SIZES, "F4", "", None, 7))
            case 1:
                fields["shape"] = [
                    rng.choice((0, 1, 2, 3, -1, 2**62)) for _ in range(rng.randrange(4))
                ]
            case 2:
                ends = (0, 24, 30, 38, -8, 2**63, 1.5)
                fields["data_offsets"] = [rng.choice(ends), rng.choice(ends)]
            case 3:
                fields[rng.choice(("shape", "data_offsets", "dtype"))] = rng.choice(
                    ([], {}, "x", None)
                )
            case 4:
                a, b = rng.sample(list(header), 2)
                header[a], header[b] = header[b], header[a]
    return header


# --- JSON, and trees of Python's

ODD: tuple[Any, ...] = (None, True, False, 0, -1, 1, 2, 1.5, -0.0, 1e300, 10**30, float("nan"))
ODD += (float("inf"), "", "x", "1", "\ud800", "\x1b[31m", [], {}, [[]], {"": None})


def mutated_tree(tree: Any, rng: random.Random, odd: tuple[Any, ...] = ODD) -> Any:
    """A tree of dicts and lists with one to three of its parts replaced, lost, or more."""
    for _ in range(rng.randint(1, 3)):
        tree = _changed(tree, rng, odd)
    return tree


def _changed(tree: Any, rng: random.Random, odd: tuple[Any, ...]) -> Any:
    """The tree with a change at a random depth."""
    if not isinstance(tree, dict | list) or not tree or rng.random() < 0.1:
        return rng.choice(odd)
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = rng.choice(keys)
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    match rng.randrange(8):
        case 0:
            del copy[key]
        case 1 if isinstance(copy, dict):
            copy[rng.choice(("more", "", *map(str, keys)))] = rng.choice(odd)
        case 1:
            copy.insert(key, rng.choice(odd))
        case 2:
            other = rng.choice(keys)
            copy[key], copy[other] = copy[other], copy[key]
        case 3:
            copy[key] = {"in": copy[key]} if rng.random() < 0.5 else [copy[key]]
        case _:
            copy[key] = _changed(copy[key], rng, odd)
    return copy


def json_text(tree: Any, rng: random.Random) -> bytes:
    """A tree as JSON, of which a name may stand twice, or a part be nested deep."""
    text = json.dumps(tree).encode()
    if rng.random() < 0.1 and b'": ' in text:
        places = [i for i in range(len(text)) if text[i : i + 3] == b'": ']
        at = rng.choice(places)
        start = text.rindex(b'"', 0, at)
        text = text[:start] + text[start : at + 3] + b"0, " + text[start:]
    if rng.random() < 0.02:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + b"[" * 100_000 + text[at:]
    return text


def damaged_json(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """A file of one JSON value, damaged in its meaning or in its bytes."""
    rng = random.Random(seed)
    record = json.loads(content)
    for i in range(count):
        yield mutated(content, rng) if i % 3 == 0 else json_text(mutated_tree(record, rng), rng)


def damaged_lines(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """A file of one JSON value a line, damaged in a line, in their order, or in its bytes."""
    rng = random.Random(seed)
    records = [json.loads(line) for line in content.splitlines()]
    for i in range(count):
        if i % 3 == 0:
            yield mutated(content, rng)
            continue
        lines = [json.dumps(record).encode() for record in records]
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                del lines[at]
            case 1:
                lines.insert(other, lines[at])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case _:
                lines[at] = json_text(mutated_tree(records[at], rng), rng)
        yield b"\n".join(lines) + (b"\n" if rng.random() < 0.9 else b"")
