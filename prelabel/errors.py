"""The exceptions of prelabel, one tree.

PrelabelError
├── ConfigError      a config, an option or an argument is wrong: tell the user, exit 2
│   ├── LockedError  another process works on the same run folder, exit 11
│   └── ChangedError the run's labels were made with another config or other weights, exit 12
├── ImageError       one image cannot be read: a failure of that image, not of the job
├── ModelError       weights are missing or do not fit, or a network cannot do what is asked
│   └── LoadError    weights that loaded before do not load in the middle of a job: it ends
├── LabelError       a mask, a stage output or a label breaks its own rules
└── ConnectorError   a platform or a file of labels refuses; `retryable` says whether later may help

Every message is a sentence that names the file or key and says what to do.
"""

from __future__ import annotations

__all__ = [
    "ChangedError",
    "ConfigError",
    "ConnectorError",
    "ImageError",
    "LabelError",
    "LoadError",
    "LockedError",
    "ModelError",
    "PrelabelError",
]


class PrelabelError(Exception):
    """Anything that prelabel raises on purpose."""


class ConfigError(PrelabelError):
    """A config, an option or a command-line argument is wrong."""


class LockedError(ConfigError):
    """Another process works on the same run folder."""


class ChangedError(ConfigError):
    """A run's labels were made with another config or other weights than are asked for now."""


class ImageError(PrelabelError):
    """One image cannot be read.

    `kind` is a short machine-readable reason, such as "decode", "truncated" or "too-large".
    """

    def __init__(self, message: str, *, kind: str = "decode") -> None:
        super().__init__(message)
        self.kind = kind


class ModelError(PrelabelError):
    """Weights are missing or do not fit, or a network cannot do what is asked of it."""


class LoadError(ModelError):
    """A network that was needed in the middle of a job cannot be loaded; no image is to blame."""


class LabelError(PrelabelError):
    """A mask, a stage output or a label breaks its own rules."""


class ConnectorError(PrelabelError):
    """A platform or a label file refuses.

    `retryable` is True where the same call may succeed later (a busy server, a timeout). `kind` is
    a short machine-readable reason, such as "denied" or "gone", or "".
    """

    def __init__(self, message: str, *, retryable: bool = False, kind: str = "") -> None:
        super().__init__(message)
        self.retryable = retryable
        self.kind = kind
