"""Captures: transcripts of real kernels, and the model's answer to each line of them.

``replay`` lays prediction and answer side by side; ``dmas`` adds, for each DMA, what stopped it.
``boot_here`` makes a transcript on this machine. What a transcript is and how one is made stands in
the harness beside the package (``captures/`` in a checkout); those that are shipped lie in
``data/captures/``.
"""

from .booting import boot_here
from .faults import dmas, in_words
from .replay import replay, replay_files
from .transcript import TranscriptError

__all__ = ["TranscriptError", "boot_here", "dmas", "in_words", "replay", "replay_files"]
