"""Writes /etc/resolv.conf while tunnels are up, on hosts where no program manages it, and restores it afterwards.

The file itself holds all state (`resolv_conf`). It is replaced by an atomic rename. If that is impossible, as for a
bind mount in a container, it is written in place. A file that another program has put in its place stays.
"""

from __future__ import annotations

import errno
import os
import stat

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING, contextmanager, suppress
from wgquick.net import pack_address
from wgquick.system.dns import COMMENT, RESOLV_CONF, links, resolv_conf
from wgquick.system.dns.resolv_conf import Record, Tunnel
from wgquick.system.runtime import locked
from wgquick.transcript import command, note

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.system.dns import LinkDns, LinkServers
    from wgquick.transcript import Line

_MODE = 0o644
# The end of the new content while the file is written in place; the rest of the old content follows.
_CUT = b"\n" + COMMENT + b"end\n"
_NO_FILE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})
_NOT_REPLACEABLE = frozenset({errno.EBUSY, errno.EROFS, errno.EACCES, errno.EPERM})


class ResolvConfFile:
    """Keeps the newest tunnel's DNS in the file; `directory` is for a lock against other wgq processes."""

    def __init__(self, directory: str, path: str = RESOLV_CONF, *, has_own_directory: bool = False) -> None:
        """With `has_own_directory` the file's directory is created, and removed once it is empty."""
        self._directory = f"{directory}/dns"
        self._path = path
        self._has_own_directory = has_own_directory
        self._next = f"{os.path.dirname(path)}/.{os.path.basename(path)}.wgq"

    def set(self, name: str, dns: LinkDns) -> None:
        """Write the tunnel's servers and search domains in place of all others."""
        _refuse_nonsense(dns.servers)
        with self._changing():
            if self._has_own_directory:
                os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
            record = self._record()
            newest = Tunnel(name, links.place(name), dns.servers, dns.search)
            self._write(resolv_conf.text(record._replace(tunnels=(*_others(record, name), newest))))

    def unset(self, name: str) -> None:
        """Remove the tunnel: the file gets the next newest tunnel's DNS, or its original content after the last."""
        with self._changing():
            record = self._record()
            self._keep(record, _others(record, name))

    def stale(self) -> tuple[str, ...]:
        """The names of the tunnels in the file that are gone; their servers do not answer."""
        return tuple(tunnel.name for tunnel in self._record().tunnels if links.is_gone(tunnel.place))

    def repair(self) -> tuple[str, ...]:
        """Remove the tunnels that are gone from the file; returns their names."""
        names = self.stale()
        if names:
            with self._changing():
                record = self._record()
                self._keep(record, _others(record))
        return names

    def _keep(self, record: Record, others: tuple[Tunnel, ...]) -> None:
        """Keep only these tunnels in the file; without any, restore the original."""
        if others and others != record.tunnels:
            self._write(resolv_conf.text(record._replace(tunnels=others)))
        elif not others:
            self._put_back(record)

    def current(self, name: str) -> LinkServers | None:
        """The tunnel's servers and search domains, if the file still has them."""
        found = (tunnel for tunnel in self._record().tunnels if tunnel.name == name)
        return next(((tunnel.servers, tunnel.search) for tunnel in found), None)

    def set_lines(self, name: str, dns: LinkDns) -> tuple[Line, ...]:
        """The transcript lines of `set`."""
        search = f", search {' '.join(dns.search)}" if dns.search else ""
        return (command(f"write {self._path} for {name}: nameserver {' '.join(dns.servers)}{search}"),)

    def unset_lines(self, name: str) -> tuple[Line, ...]:
        """The transcript lines of `unset`."""
        line = command(f"remove {name} from {self._path}")
        if _is_edited_link(self._record()):
            return line, note(f"{self._path} had additional lines: they are saved in {self._saved()}")
        return (line,)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock, and remove a temporary file that a killed process left."""
        try:
            with locked(self._directory):
                with suppress(OSError):
                    os.unlink(self._next)
                yield
        except OSError as refusal:
            raise _error(self._path, refusal) from None

    def _record(self) -> Record:
        """The file's record, or a new record of the file if it has none."""
        content = self._content()
        if self._is_link():
            return Record("link", os.fsencode(os.readlink(self._path)), resolv_conf.kept_lines(content or b""))
        if content is None:
            return Record("absent", b"")
        return resolv_conf.parse(content) or Record("file", content, resolv_conf.kept_lines(content))

    def _is_link(self) -> bool:
        """Whether the path is a symbolic link that can be replaced; if it cannot, the link's target is written."""
        return os.path.islink(self._path) and os.access(os.path.dirname(self._path), os.W_OK, effective_ids=True)

    def _content(self) -> bytes | None:
        """The file's content; None if there is no file: nothing, a directory, or a broken link."""
        try:
            return _contents(self._path).partition(_CUT)[0]
        except OSError as refusal:
            if refusal.errno not in _NO_FILE:
                raise
            return None

    def _put_back(self, record: Record) -> None:
        """Restore the original; a file without wgq's comments stays as it is."""
        content = resolv_conf.put_back(record)
        if not record.tunnels:
            self._finish_cut()
        elif record.kind == "link":
            self._put_back_link(record)
        elif record.kind == "file" or content:
            self._write(content)
        else:
            self._remove()

    def _finish_cut(self) -> None:
        """Finish the write in place of a process that was killed during it."""
        content = self._content()
        if content is not None and _contents(self._path) != content:
            self._overwrite(content)

    def _put_back_link(self, record: Record) -> None:
        if _is_edited_link(record):
            _write_new(self._saved(), resolv_conf.text(record), None)
        os.symlink(record.before, self._next)
        os.replace(self._next, self._path)

    def _saved(self) -> str:
        return f"{self._path}.wgq-saved"

    def _remove(self) -> None:
        try:
            os.unlink(self._path)
        except OSError as refusal:
            if refusal.errno not in _NOT_REPLACEABLE:
                raise
            self._overwrite(b"")
            return
        if self._has_own_directory:
            with suppress(OSError):  # not empty
                os.rmdir(os.path.dirname(self._path))

    def _write(self, content: bytes) -> None:
        try:
            _write_new(self._next, content, self._path)
            os.replace(self._next, self._path)
        except OSError as refusal:
            with suppress(OSError):
                os.unlink(self._next)
            if refusal.errno not in _NOT_REPLACEABLE:
                raise
            self._overwrite(content)

    def _overwrite(self, content: bytes) -> None:
        """Write in place: one write(2), then a truncation. A reader never sees an incomplete file."""
        earlier = _contents(self._path)
        file = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            _write_all(file, content + _CUT if len(earlier) > len(content) else content)
            os.ftruncate(file, len(content))
        except OSError:
            os.pwrite(file, earlier, 0)
            os.ftruncate(file, len(earlier))
            raise
        finally:
            os.fsync(file)
            os.close(file)


def _refuse_nonsense(servers: tuple[str, ...]) -> None:
    """Refuse servers that no resolver can query: such a line would break the host's DNS (resolv.conf(5))."""
    for server in servers:
        host, zone, _ = server.partition("%")
        try:
            family = len(pack_address(host))
        except ValueError:
            family = 0
        if not family or (zone and family == 4):
            raise OperationError(f"`{server}' is not the address of a DNS server", remedy="Correct the DNS line.")


def _others(record: Record, name: str = "") -> tuple[Tunnel, ...]:
    """The tunnels with other names that are not gone."""
    return tuple(t for t in record.tunnels if t.name != name and not links.is_gone(t.place))


def _is_edited_link(record: Record) -> bool:
    return record.kind == "link" and bool(record.tunnels and record.added)


def _contents(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write_new(path: str, content: bytes, model: str | None) -> None:
    """Write a file and sync it, with owner, mode and attributes of `model` if that is given."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _write_all(file, content)
        os.fchmod(file, _MODE)
        if model is not None and os.path.isfile(model) and not os.path.islink(model):
            _copy_attributes(model, file)
        os.fsync(file)
    finally:
        os.close(file)


def _write_all(file: int, content: bytes) -> None:
    """Write all content from the start in one call; a short write, as on a full disk, is an error."""
    if os.pwrite(file, content, 0) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _copy_attributes(model: str, file: int) -> None:
    status = os.stat(model)
    os.fchown(file, status.st_uid, status.st_gid)
    os.fchmod(file, stat.S_IMODE(status.st_mode))
    with suppress(OSError):  # a file system without extended attributes
        for name in os.listxattr(model):
            os.setxattr(file, name, os.getxattr(model, name))


def _error(path: str, refusal: OSError) -> OperationError:
    code = refusal.errno or 0
    remedy = "Use `--dns off' to leave DNS alone."
    if code in _NOT_REPLACEABLE:
        remedy = "Run as root; `lsattr' shows whether the file is immutable. `--dns off' leaves DNS alone."
    return OperationError(f"{path} cannot be changed: {os.strerror(code)}", errno=code, remedy=remedy)
