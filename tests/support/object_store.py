"""An object store for fsspec, as buckets are: keys and bytes, no folders. Its addresses are bucket://name/key."""

from __future__ import annotations

import io
from typing import Any, ClassVar

import fsspec
from fsspec import AbstractFileSystem


class ObjectStore(AbstractFileSystem):
    """Objects in the memory of this process. An object is there when its file is closed."""

    protocol = "bucket"
    cachable = False
    objects: ClassVar[dict[str, tuple[bytes, int]]] = {}  # {key: (content, version)}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path).strip("/")
        found: dict[str, dict[str, Any]] = {}
        for key, (content, version) in self.objects.items():
            if key == path:
                found[key] = {"name": key, "type": "file", "size": len(content), "etag": str(version)}
            elif key.startswith(path + "/") or not path:
                rest = key[len(path) :].lstrip("/")
                name = f"{path}/{rest.partition('/')[0]}".lstrip("/")
                found[name] = (
                    {"name": name, "type": "directory", "size": 0}
                    if "/" in rest
                    else {"name": key, "type": "file", "size": len(content), "etag": str(version)}
                )
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else list(found)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        key = self._strip_protocol(path).strip("/")
        if "r" in mode:
            if key not in self.objects:
                raise FileNotFoundError(path)
            return io.BytesIO(self.objects[key][0])
        store = self.objects

        class Upload(io.BytesIO):
            def close(self) -> None:
                if not self.closed:
                    store[key] = (self.getvalue(), store.get(key, (b"", 0))[1] + 1)
                super().close()

        return Upload()

    def rm_file(self, path: str) -> None:
        del self.objects[self._strip_protocol(path).strip("/")]

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: there are no folders."""


fsspec.register_implementation("bucket", ObjectStore, clobber=True)
