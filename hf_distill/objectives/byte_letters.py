"""How byte-level vocabularies write bytes (GPT-2)."""

from __future__ import annotations


def _bytes() -> dict[str, int]:
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTES = _bytes()
"""The byte that each letter stands for: printable ones are themselves, the others, in their order, the letters from
U+0100 on."""
