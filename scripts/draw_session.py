"""Draw the output of a command as a picture of a terminal.

bash scripts/realtime_cli.sh --play_speed inf < /dev/null | python scripts/draw_session.py --output docs/session.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

SIZE, MARGIN = 15, 18
BACKGROUND, PLAIN = (24, 26, 30), (214, 218, 224)
COLOURS = {"question:": (120, 190, 255), "answer:": (150, 220, 140)}


def draw(text: str, output: Path) -> None:
    """Write `text` to a PNG file; lines with a question or an answer in colour."""
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSansMono.ttf"), SIZE)
    lines = text.expandtabs().splitlines() or [""]
    width = round(max(font.getlength(line) for line in lines)) + 2 * MARGIN
    height = round(len(lines) * SIZE * 1.4) + 2 * MARGIN
    picture = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        colour = next((colour for word, colour in COLOURS.items() if word in line), PLAIN)
        pen.text((MARGIN, MARGIN + number * SIZE * 1.4), line, font=font, fill=colour)
    picture.save(output)


def main() -> None:
    """Read the text from standard input and draw it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, required=True, metavar="FILE", help="PNG file to write")
    draw(sys.stdin.read(), options.parse_args().output)


if __name__ == "__main__":
    main()
