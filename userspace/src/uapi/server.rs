//! The UAPI socket. Connections do not block, and each may carry any number of requests.

use std::fs;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use super::{apply, counters, parse};
use crate::device::Device;
use crate::features;
use crate::sandbox::sealed_path::SealedPath;
use crate::{log, sys};

/// Where `wg` looks for the sockets of userspace implementations.
pub(crate) const DIRECTORY: &str = "/var/run/wireguard";
/// The longest request in bytes. It has room for millions of allowed IPs.
const MAX_REQUEST: usize = 256 << 20;
const MAX_CONNECTIONS: usize = 64;
/// The lower bound of the connection limit, used when few descriptors are allowed.
const MIN_CONNECTIONS: usize = 2;
/// The file descriptors that the rest of the daemon needs.
const RESERVED_DESCRIPTORS: usize = 26;
/// A process that holds the socket counts as hanging if it does not answer within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The socket in the file system.
pub(crate) struct Server {
    listener: UnixListener,
    pub(crate) path: SealedPath,
    inode: u64,
    connections: Vec<Connection>,
    most_connections: usize,
}

struct Connection {
    stream: UnixStream,
    request: Vec<u8>,
    /// How much of the request has been searched for its end.
    searched: usize,
    answer: Vec<u8>,
    answered: usize,
    /// The time of the last activity, in milliseconds of `now_ms`.
    active: u64,
    closing: bool,
}

/// Binds a socket that only its owner can access from the start.
fn bind(path: &Path) -> io::Result<UnixListener> {
    // SAFETY: the call changes the mask of this process, which has one thread so far.
    let old = unsafe { libc::umask(0o177) };
    let listener = UnixListener::bind(path);
    // SAFETY: as above.
    unsafe { libc::umask(old) };
    listener
}

/// Removes a socket on which no process listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    loop {
        match sys::connect_within(ANSWER_TIMEOUT, path) {
            Ok(stream) if is_dying(&stream) => (),
            Ok(_) => return Err(in_use(path, "another process serves this interface already")),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(in_use(path, "another process holds it and accepts no connections"));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return fs::remove_file(path),
            Err(e) => return Err(e),
        }
    }
}

/// Locks the directory while a stale socket is removed and the new one is created. Without the lock, two daemons that
/// start at the same time could each remove the other's new socket as stale.
fn lock_directory() -> io::Result<fs::File> {
    let directory = fs::File::open(DIRECTORY)?;
    directory.lock().map(|()| directory)
}

fn in_use(path: &Path, by: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, format!("{} is in use: {by}", path.display()))
}

/// Whether the listening process is exiting. The socket of a killed process accepts connections until all its threads
/// are gone, and then closes them. A live process answers, and a hanging process sends nothing.
fn is_dying(mut stream: &UnixStream) -> bool {
    let sent = stream.set_read_timeout(Some(ANSWER_TIMEOUT)).and_then(|()| stream.write_all(b"get=1\n\n"));
    match sent.and_then(|()| stream.read(&mut [0; 16])) {
        Ok(count) => count == 0,
        Err(e) => matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
    }
}

impl Server {
    pub(crate) fn new(interface: &str) -> io::Result<Self> {
        let path = Path::new(DIRECTORY).join(format!("{interface}.sock"));
        Self::listen(&path).map_err(|e| match e.raw_os_error() {
            Some(_) => io::Error::new(e.kind(), format!("cannot create {}: {e}", path.display())),
            None => e,
        })
    }

    fn listen(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(DIRECTORY)?;
        let _locked = lock_directory()?;
        remove_stale(path)?;
        let listener = bind(path)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let path = SealedPath::new(path)?;
        let inode = path.inode()?;
        let spare = sys::descriptor_limit()?.saturating_sub(RESERVED_DESCRIPTORS);
        let most_connections = spare.clamp(MIN_CONNECTIONS, MAX_CONNECTIONS);
        Ok(Self { listener, path, inode, connections: Vec::new(), most_connections })
    }

    /// Whether this socket is still at its path.
    pub(crate) fn is_in_place(&self) -> bool {
        self.path.inode().is_ok_and(|found| found == self.inode)
    }

    /// Removes the socket unless another process has replaced it.
    pub(crate) fn remove(&self) {
        if self.is_in_place() {
            let _ = self.path.unlink();
        }
    }

    pub(crate) fn pollfds(&self, fds: &mut Vec<libc::pollfd>) {
        fds.push(poll_entry(self.listener.as_raw_fd(), libc::POLLIN));
        for connection in &self.connections {
            let events = if connection.has_answer() { libc::POLLOUT } else { libc::POLLIN };
            fds.push(poll_entry(connection.stream.as_raw_fd(), events));
        }
    }

    /// Serves the descriptors that are ready.
    pub(crate) fn serve(&mut self, device: &Device, ready: &[libc::pollfd]) {
        let Some((listener, ready)) = ready.split_first() else {
            return;
        };
        for (connection, waited) in self.connections.iter_mut().zip(ready) {
            if waited.revents != 0 {
                connection.active = sys::now_ms();
                connection.serve(device);
            }
        }
        self.connections.retain(|c| !c.closing);
        if listener.revents != 0 {
            self.accept(device);
        }
    }

    fn accept(&mut self, device: &Device) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.take_in(stream, device),
                // No descriptor is free. The waiting connections would make poll return at once, forever.
                Err(e) if e.raw_os_error() == Some(libc::EMFILE) && !self.connections.is_empty() => {
                    self.close_most_idle();
                }
                Err(_) => return,
            }
        }
    }

    fn take_in(&mut self, stream: UnixStream, device: &Device) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let mut connection = Connection::new(stream);
        connection.serve(device);
        if !connection.closing {
            if self.connections.len() >= self.most_connections {
                self.close_most_idle();
            }
            self.connections.push(connection);
        }
    }

    /// Closes the connection that has been idle for longest, so that idle connections cannot block new ones.
    fn close_most_idle(&mut self) {
        let most_idle = (0..self.connections.len()).min_by_key(|&at| self.connections[at].active);
        if let Some(at) = most_idle {
            self.connections.swap_remove(at);
        }
    }
}

fn poll_entry(fd: RawFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd, events, revents: 0 }
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            request: Vec::new(),
            searched: 0,
            answer: Vec::new(),
            answered: 0,
            active: sys::now_ms(),
            closing: false,
        }
    }

    fn has_answer(&self) -> bool {
        self.answered < self.answer.len()
    }

    fn serve(&mut self, device: &Device) {
        loop {
            if self.has_answer() && !self.write() {
                return;
            }
            if let Some(end) = self.find_end() {
                // The request keeps its buffer, which the allocator wipes when it is freed.
                let rest = self.request.split_off(end);
                let request = mem::replace(&mut self.request, rest);
                self.searched = 0;
                self.answer = answer(device, &request);
                self.answered = 0;
                continue;
            }
            if !self.read() {
                return;
            }
        }
    }

    /// Returns true once the whole answer is written.
    fn write(&mut self) -> bool {
        while self.has_answer() {
            match self.stream.write(&self.answer[self.answered..]) {
                Ok(0) => self.closing = true,
                Ok(count) => {
                    self.answered += count;
                    continue;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => (),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.closing = true,
            }
            return false;
        }
        self.answer = Vec::new();
        self.answered = 0;
        true
    }

    fn read(&mut self) -> bool {
        const STEP: usize = 64 << 10;
        let old = self.request.len();
        if old > MAX_REQUEST {
            self.closing = true;
            return false;
        }
        self.request.resize(old + STEP, 0);
        let result = self.stream.read(&mut self.request[old..]);
        self.request.truncate(old + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) => self.closing = true,
            Ok(_) => return true,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return true,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => (),
            Err(_) => self.closing = true,
        }
        false
    }

    /// The end of the first request in the buffer: the position after its empty line.
    fn find_end(&mut self) -> Option<usize> {
        let from = self.searched.saturating_sub(1);
        let found = self.request[from..].windows(2).position(|pair| pair == b"\n\n");
        self.searched = self.request.len();
        found.map(|at| from + at + 2)
    }
}

/// The answer to one request, including its errno. The errno is negative, as in wireguard-go; wg(8) negates it again.
pub fn answer(device: &Device, request: &[u8]) -> Vec<u8> {
    let (mut out, errno) = match respond(device, request) {
        Ok(out) => (out, 0),
        Err(errno) => {
            log::verbose(format_args!(
                "refused a configuration request: {}",
                io::Error::from_raw_os_error(errno)
            ));
            (Vec::new(), errno)
        }
    };
    let _ = write!(out, "errno={}\n\n", -errno);
    out
}

fn respond(device: &Device, request: &[u8]) -> Result<Vec<u8>, parse::Errno> {
    let text = std::str::from_utf8(request).map_err(|_| libc::EINVAL)?;
    let (first, lines) = text.split_once('\n').ok_or(libc::EPROTO)?;
    match first {
        "get=1" if lines == "\n" => Ok(apply::get(device)),
        features::REQUEST if lines == "\n" => Ok(features::of_device(device).into_bytes()),
        counters::REQUEST if lines == "\n" => Ok(counters::of_device(device)),
        "handshake=1" => {
            let keys = parse::public_keys(lines.strip_suffix('\n').unwrap_or(lines))?;
            apply::begin_handshakes(device, &keys).map(|()| Vec::new())
        }
        "set=1" => {
            let request = parse::set(lines.strip_suffix('\n').unwrap_or(lines))?;
            apply::set(device, &request).map(|()| Vec::new())
        }
        _ => Err(libc::EPROTO),
    }
}
