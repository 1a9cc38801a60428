"""Ask about a picture and see the words come: python examples/see.py [PICTURE] [QUESTION]"""

import sys
from importlib.resources import files

from minicpm_o import ImagePart, Message, MiniCPMO, Reply, TextPart

picture = sys.argv[1] if len(sys.argv) > 1 else str(files("minicpm_o") / "assets" / "samples" / "photo.jpg")
question = sys.argv[2] if len(sys.argv) > 2 else "What is in this picture?"

model = MiniCPMO.from_pretrained("nano")
for event in model.chat([Message("user", (ImagePart(picture), TextPart(question)))], stream=True):
    if isinstance(event, Reply):
        print(f"\n{event.usage.image} picture tokens, first word after {event.timing.ttft_s:.2f} s")
    else:
        print(event.text, end="", flush=True)
