"""Files that are nearly what they were: bytes flipped, cut, swapped; entries deleted, renamed, of a foreign type."""

from __future__ import annotations

import copy
import json
import struct

FOREIGN = (
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    0.5,
    "",
    "x",
    "../x",
    "\x00",
    [],
    {},
    [[]],
    {"": {}},
    ["x"] * 3,
    "F32",
    "0" * 64,
)


def mutated_bytes(raw, chance):
    """Other bytes than `raw`."""
    data = bytearray(raw)
    first, second = sorted(chance.randrange(len(raw) + 1) for _ in range(2))
    kind = chance.choice(("flip", "flip", "flips", "cut", "delete", "insert", "swap", "zero", "repeat", "empty"))
    if kind in ("flip", "flips"):
        for _ in range(1 if kind == "flip" else chance.randint(2, 20)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[first:]
    elif kind == "delete":
        del data[first:second]
    elif kind == "insert":
        data[first:first] = chance.randbytes(chance.randint(1, 16))
    elif kind == "swap":
        middle = (first + second) // 2
        data[first:second] = data[middle:second] + data[first:middle]
    elif kind == "zero":
        data[first:second] = bytes(second - first)
    elif kind == "repeat":
        data[first:first] = data[first:second]
    else:
        data.clear()
    return bytes(data) if bytes(data) != raw else mutated_bytes(raw, chance)


def mutated_plain(value, chance):
    """Plain data that differs in one place: deleted, renamed, repeated, swapped with another, or of a foreign type."""
    root = [copy.deepcopy(value)]
    places = [(root, 0), *_places(root[0])]
    holder, key = chance.choice(places)
    kind = chance.choice(("foreign", "foreign", "delete", "rename", "swap", "deep"))
    if kind == "delete" and holder is not root:
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif kind == "swap":
        other, there = chance.choice(places)
        one, two = copy.deepcopy(holder[key]), copy.deepcopy(other[there])
        if holder is not root and other is not root:
            holder[key], other[there] = two, one
    elif kind == "deep":
        for _ in range(chance.choice((3, 300))):
            holder[key] = [holder[key]]
    else:
        holder[key] = copy.deepcopy(chance.choice(FOREIGN))
    return root[0] if not _same(root[0], value) else mutated_plain(value, chance)


def mutated_json(raw, chance):
    """A JSON file with one place changed."""
    return json.dumps(mutated_plain(json.loads(raw), chance)).encode()


def mutated_safetensors(raw, chance):
    """A safetensors file with one place of its header changed, and the header's length with it."""
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.dumps(mutated_plain(json.loads(raw[8 : 8 + length]), chance)).encode()
    return struct.pack("<Q", len(header)) + header + raw[8 + length :]


def mutated_file(file, chance):
    """A file's content, changed in its bytes or, one time in two, in its structure."""
    raw = file.read_bytes()
    if chance.random() < 0.5:
        return mutated_bytes(raw, chance)
    return mutated_structure(file, chance)


def mutated_structure(file, chance):
    """A file's content with one place changed; of an unknown kind, its bytes."""
    kinds = {".json": mutated_json, ".safetensors": mutated_safetensors}
    return kinds.get(file.suffix, mutated_bytes)(file.read_bytes(), chance)


def _places(value):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, item in items:
        found += [(value, key), *_places(item)]
    return found


def _same(left, right):
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
