"""An official MiniCPM-o behind transformers' Auto classes, without remote code.

    python examples/with_transformers.py --model openbmb/MiniCPM-o-4_5
"""

import argparse
from importlib.resources import files

from transformers import AutoModelForCausalLM, AutoProcessor

import minicpm_o.auto  # noqa: F401  makes the Auto classes know the checkpoints

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="openbmb/MiniCPM-o-4_5")
parser.add_argument("--picture", default=str(files("minicpm_o") / "assets" / "samples" / "photo.jpg"))
parser.add_argument("--max-tokens", type=int, default=64)
given = parser.parse_args()

processor = AutoProcessor.from_pretrained(given.model)
model = AutoModelForCausalLM.from_pretrained(given.model, dtype="auto", device_map="auto")

question = [{"role": "user", "content": [{"type": "image", "image": given.picture},
                                         {"type": "text", "text": "What is in this picture?"}]}]
inputs = processor(question, max_slice_nums=2).to(model.device)
made = model.generate(**inputs, max_new_tokens=given.max_tokens)
print("Answer:", processor.decode(made[0][inputs["input_ids"].shape[1]:]))
