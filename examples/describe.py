"""One line of JSON for each picture: python examples/describe.py PICTURE... > captions.jsonl"""

import json
import sys
from importlib.resources import files

from minicpm_o import MiniCPMO, MiniCPMOError

pictures = sys.argv[1:] or [str(files("minicpm_o") / "assets" / "samples" / "photo.jpg")]

model = MiniCPMO.from_pretrained("nano")
for picture in pictures:
    try:
        print(json.dumps({"picture": picture, "caption": model.describe_image(picture)}, ensure_ascii=False))
    except MiniCPMOError as error:
        print(json.dumps({"picture": picture, "error": str(error)}, ensure_ascii=False))
