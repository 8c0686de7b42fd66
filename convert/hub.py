"""Published folders by hub id: the files a conversion needs, downloaded by huggingface_hub into its own cache.

The requests of one `download` are: the commit that the revision stands for, the listing of that commit's files and the
files, the latter two only where the cache lacks them. Once everything has arrived it works without the hub.
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
from uuid import uuid4

import httpx2  # the client of huggingface_hub, which passes its errors on
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

_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONFIG = "config.json"
_TEXT_ENCODER = "text_encoder/"
_TOKENIZER_FILES = ("vocab.txt", "merges.txt")
_TRAINING_RECORD = re.compile(r"trainer_state\.json|.*_results\.json")


@dataclass(frozen=True)
class Snapshot:
    """One commit of a repository in huggingface_hub's cache.

    folder: where its files are, and perhaps more than was asked for, since other programs share the cache
    model_id: the hub id
    revision: the commit's sha, 40 hexadecimal digits
    """

    folder: Path
    model_id: str
    revision: str


def looks_like_hub_id(text: str) -> bool:
    """Whether `text` is to be asked from the hub: "name" or "organisation/name", and no path that exists here."""
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return not os.path.exists(text)


def current_revision(model_id: str, revision: str | None = None) -> str | None:
    """The sha of the commit that `revision` (a branch, tag or commit; None: the main branch) stands for on the hub now.

    None where the hub can't be reached. A full sha is returned unasked. Downloads nothing and records nothing. Raises
    InvalidInput for an id that no repository can have, UnreadableInput where the hub has no such repository or
    revision or does not let this user see it.
    """
    _check_id(model_id)
    if _is_commit(revision):
        return revision
    try:
        return _ask_commit(model_id, revision)
    except _HubUnreachableError:
        return None


def download(model_id: str, revision: str | None = None, weights: str | None = None) -> Snapshot:
    """Fetch what a conversion needs of a repository, as `needed_files` says; what the cache holds is not fetched again.

    revision: a branch, tag or commit; None: the main branch. Where the hub can't be reached it stands for the commit of
    its last complete download. weights: None, "safetensors" or "bin", see `needed_files`.

    Raises InvalidInput for an id that no repository can have and for other weights, and UnreadableInput where the hub
    has no such repository, revision or weights, refuses access, can't be reached while the cache is incomplete, or
    where the download fails.
    """
    _check_id(model_id)
    if weights not in (None, "safetensors", "bin"):
        raise InvalidInput(f"weights {weights!r} are unknown; choose 'safetensors' or 'bin', or leave them out")
    if _is_commit(revision) and (cached := _find_cached(model_id, revision, weights)):
        return cached  # a commit never changes, so there is nothing to ask
    try:
        commit = _ask_commit(model_id, revision)
    except _HubUnreachableError as error:
        if cached := _find_cached(model_id, revision, weights, offline=True):
            return cached
        raise _not_cached(model_id, revision, error) from error
    snapshot = _find_cached(model_id, commit, weights) or _fetch(model_id, commit, weights)
    _record(snapshot, revision)
    return snapshot


def download_config(model_id: str, revision: str | None = None) -> Path:
    """Fetch config.json alone, which tells what kind of model a repository holds before gigabytes are downloaded.

    Raises InvalidInput and UnreadableInput as `download` does, and UnreadableInput where there is no config.json.
    """
    _check_id(model_id)
    try:
        commit = _ask_commit(model_id, revision)
    except _HubUnreachableError as error:
        cached = try_to_load_from_cache(model_id, _CONFIG, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        raise _not_cached(model_id, revision, error) from error
    with _explained(model_id, commit):
        try:
            return Path(hf_hub_download(model_id, _CONFIG, revision=commit, tqdm_class=_TerminalBar))
        except EntryNotFoundError as error:
            raise UnreadableInput(f"{_named(model_id, revision)} has no {_CONFIG}; pass another model id") from error


def needed_files(names: Collection[str], weights: str | None = None) -> list[str]:
    """The files of a repository that a conversion needs, of the `names` it lists; sorted.

    They are the configuration and tokenizer files at its top (*.json, vocab.txt, merges.txt, *.model; no records of
    the training) and the weights: model.safetensors or else its shards with their index. Where there are none, the
    pickles model.bin and pytorch_model.bin or their shards. Where there are, a model.bin comes along: the PyTorch
    toolkit loads it in their place, so the two must be compared. `weights` "safetensors" or "bin" takes only those.
    A frozen text encoder in the folder text_encoder/, as our export writes it, is another such set.
    """
    inner = {name.removeprefix(_TEXT_ENCODER) for name in names if name.startswith(_TEXT_ENCODER)}
    frozen = _needed_at_top(inner, None) if _CONFIG in inner else []
    return sorted(_needed_at_top(names, weights) + [_TEXT_ENCODER + name for name in frozen])


def _needed_at_top(names: Collection[str], weights: str | None) -> list[str]:
    safetensors = _weight_files("model.safetensors", names)
    model_bin = _weight_files("model.bin", names)
    pytorch_bin = _weight_files("pytorch_model.bin", names)
    if weights == "safetensors":
        chosen = safetensors
    elif weights == "bin" or not safetensors:
        chosen = model_bin + pytorch_bin
    else:
        chosen = safetensors + [name for name in model_bin if name == "model.bin"]
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
    """The snapshot that the cache holds for a revision; None where it lacks a file that is needed.

    Some programs fill a snapshot file by file and keep no listing. Offline, what is there must do.
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
    with _explained(model_id, commit):
        tree = HfApi().list_repo_tree(model_id, recursive=True, revision=commit)
        sizes = {file.path: file.size for file in tree if isinstance(file, RepoFile)}
    _refuse_unsafe_names(model_id, sizes)
    needed = needed_files(sizes, weights)
    if not _holds_weights(needed):
        wanted = f"{weights} weights" if weights else "weights in model.safetensors, model.bin or pytorch_model.bin"
        raise UnreadableInput(f"{model_id} holds no {wanted}; pass another model id, or choose other weights")
    patterns = [glob.escape(name) for name in needed]
    with _explained(model_id, commit):
        folder = Path(snapshot_download(model_id, revision=commit, allow_patterns=patterns, tqdm_class=_TerminalBar))
    _check_sizes(folder, {name: sizes[name] for name in needed})
    return Snapshot(folder, model_id, commit)


def _record(snapshot: Snapshot, revision: str | None) -> None:
    """Let the revision stand for this commit when the hub can't be reached, in the cache's own folder `refs`.

    huggingface_hub writes it before the files arrive, and an interrupted update then hides the complete older commit.
    """
    if _is_commit(revision):
        return
    ref = snapshot.folder.parent.parent / "refs" / (revision or constants.DEFAULT_REVISION)
    with suppress(OSError):  # a shared cache may be read-only
        if ref.is_file() and ref.read_text() == snapshot.revision:
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        part = ref.with_name(f"{ref.name}.{uuid4().hex}")
        part.write_text(snapshot.revision)
        part.replace(ref)


class _HubUnreachableError(Exception):
    """No answer from the hub; the message says why."""


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
    except ValueError as error:  # a login page of the network, for example
        raise _HubUnreachableError(f"{constants.ENDPOINT} answers with something else than JSON") from error
    except OSError as error:  # the user's token can't be read
        raise _explain(error, model_id, revision) from error
    if not _is_commit(commit):
        raise _HubUnreachableError(f"{constants.ENDPOINT} names no commit")
    return commit


@contextmanager
def _explained(model_id: str, revision: str) -> Iterator[None]:
    try:
        yield
    except (httpx2.HTTPError, OSError, RuntimeError) as error:  # RuntimeError: from the Xet client
        raise _explain(error, model_id, revision) from error


def _explain(error: Exception, model_id: str, revision: str | None) -> UnreadableInput:
    """What went wrong and what to do, in one sentence."""
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
    """Refuse a file that was cut off after it had arrived, by a full disk or a crash."""
    for name, size in sizes.items():
        if (found := (folder / name).stat().st_size) != size:
            raise UnreadableInput(
                f"{folder / name} has {found} bytes where the hub lists {size}; delete the folder "
                f"{folder.parent.parent} and download it again"
            )


def _refuse_unsafe_names(model_id: str, names: Iterable[str]) -> None:
    for name in names:
        path = PureWindowsPath(name)  # knows both separators, drives and shares
        if path.anchor or ".." in path.parts:
            raise UnreadableInput(f"{model_id} lists a file {name!r} outside its own folder; don't use this model")


def _holds_weights(names: Iterable[str]) -> bool:
    return any(name.endswith((".safetensors", ".bin")) and "/" not in name for name in names)


def _check_id(model_id: str) -> None:
    try:
        validate_repo_id(model_id)
    except HFValidationError as error:
        raise InvalidInput(f"{model_id!r} is no id of a model on the hub; write organisation/name") from error


def _is_commit(revision: str | None) -> TypeGuard[str]:
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def _named(model_id: str, revision: str | None) -> str:
    return model_id if revision is None else f"{model_id} at revision {revision}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _TerminalBar(tqdm):
    """huggingface_hub's bar, none of them where stderr is no terminal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("disable", None)
        super().__init__(*args, **kwargs)
