"""Reads a QR code that was printed on a terminal."""

import re

from .net import run

ROWS = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}
"""Each character is two modules, one above the other; 1 is the terminal's foreground."""
SCALE = 4
BORDER = 4


def decode(text, directory):
    """The contents of the QR code in `text`. A terminal may be light on dark: both are tried."""
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in text.splitlines()]
    lines = [line for line in lines if line.strip() and set(line) <= set(ROWS)]
    width = max(map(len, lines))
    modules = []
    for line in lines:
        cells = [ROWS[character] for character in line.ljust(width)]
        modules += [[cell[half] for cell in cells] for half in (0, 1)]
    for foreground in (0, 255):
        picture = directory / f"qr-{foreground}.pgm"
        picture.write_bytes(_pgm(modules, foreground))
        found = run("zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", picture, check=False)
        if found.returncode == 0:
            return found.stdout.rstrip("\n") + "\n"
    raise AssertionError("no QR code can be read")


def _pgm(modules, foreground):
    """A grey picture of the modules, with a quiet zone of the background's grey."""
    background = 255 - foreground
    width = len(modules[0]) + 2 * BORDER
    side = [background] * BORDER
    empty = [[background] * width] * BORDER
    rows = empty + [side + [foreground if on else background for on in row] + side
                    for row in modules] + empty
    pixels = b"".join(
        bytes(value for value in row for _ in range(SCALE)) * SCALE for row in rows)
    return f"P5 {width * SCALE} {len(rows) * SCALE} 255\n".encode() + pixels
