"""Makes the bundled samples again: a CC0 photo from scikit-image, a question spoken by the package's own voice.

    pip install --no-deps scikit-image && python benchmarks/make_samples.py

The photo is `chelsea` by Stefan van der Walt (CC0), the spoken question is this project's own.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

SAMPLES = Path(__file__).resolve().parents[1] / "minicpm_o" / "assets" / "samples"
QUESTION = "What is the capital of France?"


def make_photo(path: Path, picture: str = "chelsea.png") -> None:
    """Write scikit-image's photo as a JPEG of the same size."""
    from PIL import Image

    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("the photo comes from scikit-image: pip install --no-deps scikit-image")
    with Image.open(Path(spec.origin).parent / "data" / picture) as photo:
        photo.convert("RGB").save(path, quality=90, optimize=True)


def make_speech(path: Path, text: str = QUESTION) -> None:
    """Speak the question and write it as 16 kHz mono, 16 bit."""
    import soundfile
    import soxr

    from minicpm_o import MiniCPMO
    from minicpm_o.rates import AUDIO_RATE_HZ

    speech = MiniCPMO.from_pretrained("nano").speak(text)
    waveform = soxr.resample(speech.waveform, speech.rate_hz, AUDIO_RATE_HZ)
    soundfile.write(path, waveform, AUDIO_RATE_HZ, subtype="PCM_16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["photo", "speech"], help="make one of the two")
    only = parser.parse_args().only
    SAMPLES.mkdir(parents=True, exist_ok=True)
    if only != "speech":
        make_photo(SAMPLES / "photo.jpg")
    if only != "photo":
        make_speech(SAMPLES / "speech.wav")


if __name__ == "__main__":
    main()
