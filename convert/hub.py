"""Download the files of a hub repository that a conversion needs, into the cache of huggingface_hub.

`download` asks the hub for the commit of the revision. It asks for the listing of that commit's files, and for the
files, only if the cache does not hold them. After a complete download it works without the hub.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, TypeGuard

import httpx2  # huggingface_hub uses this client and passes its exceptions on.
from huggingface_hub import (
    HfApi,
    constants,
    get_cached_repo_tree,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import tqdm, validate_repo_id

from ..errors import InvalidInput, UnreadableInput
from ..runtime.atomic import atomic_file
from ..runtime.compat import hub_ref
from .record import TEXT_ENCODER
from .sources import CONFIG, SINGLE, TOOLKIT_BIN, TORCH_BIN

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TEXT_ENCODER = f"{TEXT_ENCODER}/"
_TOKENIZER_FILES = ("vocab.txt", "merges.txt")
_TRAINING_RECORD = re.compile(r"trainer_state\.json|.*_results\.json")


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository in the cache of huggingface_hub.

    Attributes:
        folder: Where the files are. Other programs share the cache, so it may hold more than was asked for.
        model_id: The hub id.
        revision: The SHA of the commit, 40 hexadecimal digits.
    """

    folder: Path
    model_id: str
    revision: str


def looks_like_hub_id(text: str) -> bool:
    """Return whether `text` is a possible hub id, "name" or "organisation/name", and no path that exists here."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return not os.path.exists(text)


def current_revision(model_id: str, revision: str | None = None) -> str | None:
    """Return the SHA of the commit that a revision has on the hub now, or None if the hub can't be reached.

    A full SHA is returned without a request. Nothing is downloaded or recorded.

    Args:
        model_id: The hub id.
        revision: A branch, tag or commit. None selects the main branch.

    Raises:
        InvalidInput: No repository can have this id.
        UnreadableInput: The hub has no such repository or revision, or refuses access.
    """
    _check_id(model_id)
    if _is_commit(revision):
        return revision
    try:
        return _ask_commit(model_id, revision)
    except _HubUnreachableError:
        return None


def download(model_id: str, revision: str | None = None, weights: str | None = None) -> Snapshot:
    """Download what a conversion needs of a repository; see `needed_files`.

    Files that are in the cache are not downloaded again.

    Args:
        model_id: The hub id.
        revision: A branch, tag or commit. None selects the main branch. If the hub can't be reached, it stands for the
            commit of its last complete download.
        weights: None, "safetensors" or "bin"; see `needed_files`.

    Raises:
        InvalidInput: No repository can have this id, or the weights are unknown.
        UnreadableInput: The hub has no such repository, revision or weights, refuses access, or can't be reached while
            the cache is incomplete; or the download failed.
    """
    _check_id(model_id)
    if weights not in (None, "safetensors", "bin"):
        raise InvalidInput(f"weights {weights!r} are unknown; choose 'safetensors' or 'bin', or leave them out")
    if _is_commit(revision) and (cached := _find_cached(model_id, revision, weights)):
        return cached  # A commit never changes, so no request is needed.
    try:
        commit = _ask_commit(model_id, revision)
    except _HubUnreachableError as error:
        if cached := _find_cached(model_id, revision, weights, offline=True):
            return cached
        raise _not_cached(model_id, revision, error) from error
    snapshot = _find_cached(model_id, commit, weights) or _fetch(model_id, commit, weights)
    _write_ref(snapshot, revision)
    return snapshot


def download_config(model_id: str, revision: str | None = None) -> Path:
    """Download config.json alone. It tells the kind of a model before gigabytes are downloaded.

    Args:
        model_id: The hub id.
        revision: A branch, tag or commit. None selects the main branch.

    Raises:
        InvalidInput: No repository can have this id.
        UnreadableInput: The repository has no config.json, or as in `download`.
    """
    _check_id(model_id)
    try:
        commit = _ask_commit(model_id, revision)
    except _HubUnreachableError as error:
        cached = try_to_load_from_cache(model_id, CONFIG, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        raise _not_cached(model_id, revision, error) from error
    with _explaining_errors(model_id, commit):
        try:
            return Path(hf_hub_download(model_id, CONFIG, revision=commit, tqdm_class=_TerminalBar))
        except EntryNotFoundError as error:
            raise UnreadableInput(f"{_named(model_id, revision)} has no {CONFIG}; pass another model id") from error


def needed_files(names: Collection[str], weights: str | None = None) -> list[str]:
    """Return the files of a repository that a conversion needs, sorted.

    They are the configuration and tokenizer files at the top level (*.json, vocab.txt, merges.txt, *.model), without
    records of the training, and the weights: model.safetensors, or its shards with their index. If there are no
    safetensors, they are the pickles model.bin and pytorch_model.bin, or their shards. If there are, model.bin is
    included, because the PyTorch toolkit loads it in their place and the two must be compared. The folder
    text_encoder/, which our own published folders have, is treated in the same way.

    Args:
        names: All files of the repository.
        weights: "safetensors" or "bin" selects only those weights.
    """
    inner = {name.removeprefix(_TEXT_ENCODER) for name in names if name.startswith(_TEXT_ENCODER)}
    frozen = _needed_at_top(inner, None) if CONFIG in inner else []
    return sorted(_needed_at_top(names, weights) + [_TEXT_ENCODER + name for name in frozen])


def _needed_at_top(names: Collection[str], weights: str | None) -> list[str]:
    safetensors = _weight_files(SINGLE, names)
    model_bin = _weight_files(TOOLKIT_BIN, names)
    pytorch_bin = _weight_files(TORCH_BIN, names)
    if weights == "safetensors":
        chosen = safetensors
    elif weights == "bin" or not safetensors:
        chosen = model_bin + pytorch_bin
    else:
        chosen = safetensors + [name for name in model_bin if name == TOOLKIT_BIN]
    return chosen + [name for name in names if _describes_model(name)]


def _weight_files(name: str, names: Collection[str]) -> list[str]:
    if name in names:
        return [name]
    stem, suffix = name.split(".")
    shards = [other for other in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", other)]
    index = f"{name}.index.json"
    return [*shards, index] if shards and index in names else shards


def _describes_model(name: str) -> bool:
    if "/" in name:
        return False
    if name.endswith(".json"):
        return ".index." not in name and not _TRAINING_RECORD.fullmatch(name)
    return name in _TOKENIZER_FILES or name.endswith(".model")


def _find_cached(model_id: str, revision: str | None, weights: str | None, *, offline: bool = False) -> Snapshot | None:
    """Return the snapshot of a revision in the cache, or None if a needed file is missing.

    Some programs fill a snapshot file by file and leave no listing of its files. Offline, the files that are there are
    taken for all.
    """
    try:
        folder = Path(snapshot_download(model_id, revision=revision, local_files_only=True, allow_patterns=[]))
    except LocalEntryNotFoundError:
        return None
    try:
        sizes = {file.path: file.size for file in get_cached_repo_tree(model_id, revision=folder.name)}
    except CachedRepoTreeNotFoundError:
        if not offline:
            return None
        files = [path for path in folder.rglob("*") if path.is_file()]
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    _refuse_unsafe_names(model_id, sizes)
    needed = needed_files(sizes, weights)
    if not _holds_weights(needed) or not all((folder / name).is_file() for name in needed):
        return None
    _check_sizes(folder, {name: sizes[name] for name in needed})
    return Snapshot(folder, model_id, folder.name)


def _fetch(model_id: str, commit: str, weights: str | None) -> Snapshot:
    with _explaining_errors(model_id, commit):
        tree = HfApi().list_repo_tree(model_id, recursive=True, revision=commit)
        sizes = {file.path: file.size for file in tree if isinstance(file, RepoFile)}
    _refuse_unsafe_names(model_id, sizes)
    needed = needed_files(sizes, weights)
    if not _holds_weights(needed):
        missing = f"{weights} weights" if weights else f"weights in {SINGLE}, {TOOLKIT_BIN} or {TORCH_BIN}"
        raise UnreadableInput(f"{model_id} holds no {missing}; pass another model id, or choose other weights")
    patterns = [glob.escape(name) for name in needed]
    with _explaining_errors(model_id, commit):
        folder = Path(snapshot_download(model_id, revision=commit, allow_patterns=patterns, tqdm_class=_TerminalBar))
    _check_sizes(folder, {name: sizes[name] for name in needed})
    return Snapshot(folder, model_id, commit)


def _write_ref(snapshot: Snapshot, revision: str | None) -> None:
    """Record in the cache's folder `refs` that the revision stands for this commit, for when the hub can't be reached.

    huggingface_hub writes the ref before the files arrive. After an interrupted update it names an incomplete commit
    and hides the complete older one.
    """
    if _is_commit(revision):
        return
    ref = hub_ref(snapshot.folder.parent.parent, revision or constants.DEFAULT_REVISION)
    with suppress(OSError):  # A shared cache may be read-only.
        if ref.is_file() and ref.read_text() == snapshot.revision:
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(ref) as file:
            file.write(snapshot.revision.encode())


class _HubUnreachableError(Exception):
    """The hub did not answer. The message says why."""


def _not_cached(model_id: str, revision: str | None, reason: _HubUnreachableError) -> UnreadableInput:
    return UnreadableInput(
        f"{_named(model_id, revision)} is not completely in the cache {constants.HF_HUB_CACHE} and the hub can't "
        f"be reached ({reason}); connect once to download it, or pass a local folder instead of the id"
    )


def _ask_commit(model_id: str, revision: str | None) -> str:
    try:
        commit = HfApi().model_info(model_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha
    except OfflineModeIsEnabled as error:
        raise _HubUnreachableError("HF_HUB_OFFLINE is set") from error
    except httpx2.RequestError as error:
        raise _HubUnreachableError(_first_line(error)) from error
    except HfHubHTTPError as error:
        if error.response.status_code >= 500 or error.response.status_code in (408, 429):
            raise _HubUnreachableError(_first_line(error)) from error
        raise _explain(error, model_id, revision) from error
    except ValueError as error:  # For example, a login page of the network.
        raise _HubUnreachableError(f"{constants.ENDPOINT} answers with something else than JSON") from error
    except OSError as error:  # The user's token can't be read.
        raise _explain(error, model_id, revision) from error
    if not _is_commit(commit):
        raise _HubUnreachableError(f"{constants.ENDPOINT} names no commit")
    return commit


@contextmanager
def _explaining_errors(model_id: str, revision: str) -> Iterator[None]:
    try:
        yield
    except (httpx2.HTTPError, OSError, RuntimeError) as error:  # The Xet client raises RuntimeError.
        raise _explain(error, model_id, revision) from error


def _explain(error: Exception, model_id: str, revision: str | None) -> UnreadableInput:
    """Return an error that says in one sentence what went wrong and what to do."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    name = _named(model_id, revision)
    if isinstance(error, RevisionNotFoundError):
        return UnreadableInput(f"the hub has no {name}; check the branch, tag or commit")
    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        return UnreadableInput(
            f"{model_id} is neither a folder here nor a public model on the hub; check the name, or log in with "
            "`hf auth login` if the model is private"
        )
    if status in (401, 403):
        return UnreadableInput(
            f"the hub refuses access to {model_id}; ask for it on {constants.ENDPOINT}/{model_id}, "
            "then log in with `hf auth login`"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return UnreadableInput(
            f"{name} can't be stored in {constants.HF_HUB_CACHE} ({_first_line(error)}); make room or give access "
            "there, or let HF_HOME name another folder"
        )
    return UnreadableInput(
        f"the download of {name} broke off ({_first_line(error)}); run it again, the files that arrived are kept"
    )


def _check_sizes(folder: Path, sizes: dict[str, int]) -> None:
    """Refuse a file that was truncated after it had arrived, by a full disk or a crash."""
    for name, size in sizes.items():
        if (actual := (folder / name).stat().st_size) != size:
            raise UnreadableInput(
                f"{folder / name} has {actual} bytes where the hub lists {size}; delete the folder "
                f"{folder.parent.parent} and download it again"
            )


def _refuse_unsafe_names(model_id: str, names: Iterable[str]) -> None:
    for name in names:
        path = PureWindowsPath(name)  # Understands both separators, drives and network shares.
        if path.anchor or ".." in path.parts:
            raise UnreadableInput(f"{model_id} lists a file {name!r} outside its own folder; don't use this model")


def _holds_weights(names: Iterable[str]) -> bool:
    return any(name.endswith((".safetensors", ".bin")) and "/" not in name for name in names)


def _check_id(model_id: str) -> None:
    try:
        validate_repo_id(model_id)
    except HFValidationError as error:
        raise InvalidInput(f"{model_id!r} is not a valid hub id; write organisation/name") from error


def _is_commit(revision: str | None) -> TypeGuard[str]:
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def _named(model_id: str, revision: str | None) -> str:
    return model_id if revision is None else f"{model_id} at revision {revision}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _TerminalBar(tqdm):
    """The progress bar of huggingface_hub, shown only if stderr is a terminal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("disable", None)
        super().__init__(*args, **kwargs)
