"""Checkpoints on the hub: what is here already, what can be fetched, and why not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from prelabel.errors import ConfigError

__all__ = ["cached_on_hub", "find_on_hub"]

_LOGGER = logging.getLogger(__name__)


def cached_on_hub(hub_id: str, revision: str | None, files: Sequence[str]) -> Path | None:
    """The folder of what was fetched before, or None. The network is not asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=list(files), local_files_only=True
            )
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def find_on_hub(
    hub_id: str,
    revision: str | None,
    files: Sequence[str],
    *,
    complete: Callable[[Path], bool],
    key: str = "weights",
) -> Path:
    """The folder of a hub id's files: what is here if it is `complete`, else fetched.

    Args:
        hub_id: such as facebook/sam-vit-base.
        revision: branch, tag or commit; None: the main branch.
        files: patterns of the names that are needed.
        complete: whether a folder holds what is needed.
        key: of the config, that names it; for messages.

    Raises:
        ConfigError: it is not here and cannot be fetched; the message says how to bring it.
    """
    here = cached_on_hub(hub_id, revision, files)
    if here is not None and complete(here):
        return here
    _LOGGER.info("fetching %s from the hub", hub_id)
    return _fetch(hub_id, revision, files, key)


def _fetch(hub_id: str, revision: str | None, files: Sequence[str], key: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # OSError, and the error of the HTTP package, which is another one from version to version.
    unreachable = cast(
        "tuple[type[Exception], ...]", (*HfHubHTTPError.__bases__, LocalEntryNotFoundError)
    )
    named = "".join(f" {name}" for name in files if "*" not in name)
    pinned = f" --revision {revision}" if revision else ""
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(files)))
    except HFValidationError as error:
        raise ConfigError(
            f"{key} {hub_id!r} is neither an existing folder nor a hub id ({error})"
        ) from error
    except GatedRepoError as error:
        raise ConfigError(
            f"{hub_id} is given out only to those who accepted its terms: accept them on its page, "
            "run `hf auth login`, and run this again"
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigError(
            f"{hub_id} has no revision {revision!r} on the hub; look under its commits and tags"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"the hub knows no {hub_id}, or it is private; check the spelling against "
            "`prelabel models list`, or run `hf auth login`"
        ) from error
    except unreachable as error:
        raise ConfigError(
            f"the {key} {hub_id} cannot be found on this machine, and the hub cannot be reached. "
            f"Either connect and run again, which fetches what is missing; or run `hf download "
            f"{hub_id}{named}{pinned} --local-dir DIR` on a machine with a network, bring DIR here "
            f"and set `{key}: DIR`"
        ) from error
