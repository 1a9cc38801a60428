"""Every error this package raises on purpose.

    MiniCPMOError                 base: catch this one
    ├── InputError                what the user gave cannot be used (CLI exit code 2)
    │   ├── ImageError            missing, empty, truncated, too large, not a picture
    │   ├── AudioError            missing, empty, NaN, not a sound
    │   ├── VideoError            missing, empty, not a video
    │   ├── MessageError          a chat message or history item of the wrong shape
    │   └── OptionError           an option out of range or unknown
    ├── FusionError               placeholder runs and encoder outputs disagree
    ├── ContextFullError          the prompt does not fit the context window
    ├── CheckpointError           weights on disk cannot be used (CLI exit code 2)
    │   ├── UnknownModelError     no model of that name
    │   ├── PartMissingError      a part of nano is not here and could not be had
    │   ├── HashError             a file is not the file that was pinned
    │   ├── DiskFullError         no room to write
    │   └── MemoryPlanError       the model would not fit this machine's memory; holds the plan
    ├── TrainingError             a run cannot go on: no numbers, no memory
    └── MissingExtraError         an optional package is needed; names the extra
"""

from __future__ import annotations


class MiniCPMOError(Exception):
    """Base of all errors raised on purpose; its text is one clear sentence."""


class InputError(MiniCPMOError, ValueError):
    """What the user gave cannot be used."""


class ImageError(InputError):
    """A picture is missing, empty, truncated, too large or not a picture."""


class AudioError(InputError):
    """A sound is missing, empty, not finite or not a sound."""


class VideoError(InputError):
    """A video is missing, empty or not a video."""


class MessageError(InputError):
    """A chat message or history item has the wrong shape."""


class OptionError(InputError):
    """An option is unknown or out of its range."""


class EndpointError(InputError):
    """A model behind a URL gave no usable reply; the text says what came, how often it was asked, and what to check."""


class FusionError(MiniCPMOError, ValueError):
    """Placeholder runs and encoder outputs disagree; going on would pair words with the wrong media."""


class ContextFullError(InputError):
    """The prompt does not fit the context window."""


class CheckpointError(MiniCPMOError):
    """Weights on disk cannot be used."""


class UnknownModelError(CheckpointError):
    """No model has that name."""


class PartMissingError(CheckpointError):
    """A part of nano is not on this machine and could not be had."""


class HashError(CheckpointError):
    """A file's sha256 is not the pinned one."""


class DiskFullError(CheckpointError):
    """There is no room to write a file."""


class MemoryPlanError(CheckpointError):
    """The model would not fit the memory; the text holds the plan and the nearest option that fits."""


class TrainingError(MiniCPMOError):
    """A training run cannot go on; the text says in which step, why, and what to change."""


class MissingExtraError(MiniCPMOError, ImportError):
    """An optional package is needed; the text names the extra that brings it."""
