"""Write down a sound, then ask about it with and without that text: python examples/hear.py [SOUND] [QUESTION]"""

import sys
from importlib.resources import files

from minicpm_o import AudioPart, Message, MiniCPMO, TextPart

sound = sys.argv[1] if len(sys.argv) > 1 else str(files("minicpm_o") / "assets" / "samples" / "speech.wav")
question = sys.argv[2] if len(sys.argv) > 2 else "Answer the spoken question."

model = MiniCPMO.from_pretrained("nano")
print("Transcript:", model.transcribe(sound).text)

messages = [Message("user", (AudioPart(sound), TextPart(question)))]
print("Answer:", model.chat(messages))
print("Answer by its own ears alone:", model.chat(messages, transcript=False))
