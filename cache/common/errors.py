"""Errors that a person reads: what is wrong, where, what was expected, and what to do."""

from __future__ import annotations


class AvelError(Exception):
    """Base of every error that this project raises on purpose.

    The command lines print its text on one line and end with exit code 2, without a traceback.
    """


class ConfigError(AvelError):
    """A setting is unknown, of the wrong type, or contradicts another."""


class AnnotationError(AvelError):
    """An annotation or split file can't be understood; names the file and the line."""


class CacheError(AvelError):
    """A cache is damaged, foreign, locked, or made with other settings."""


class MediaError(AvelError):
    """A media file can't give the features asked of it.

    Parameters
    ----------
    path: the file.
    stage: "find", "audio" or "video": where it failed.
    problem: one sentence: what was expected, what was found.
    """

    def __init__(self, path: object, stage: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = str(path)
        self.stage = stage
        self.problem = problem

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str]]:
        return MediaError, (self.path, self.stage, self.problem)
