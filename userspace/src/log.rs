//! Logs to standard error in the foreground and to syslog otherwise. Messages are rate-limited and contain no secret key.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::sys::{self, poll, pollfd};

/// The most messages per second. More are counted and dropped.
const MAX_PER_SECOND: u32 = 20;
/// The socket of syslog and the journal.
pub(crate) const SYSLOG: &str = "/dev/log";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Silent,
    Error,
    Verbose,
}

impl Level {
    /// Parses the values of wireguard-go's `LOG_LEVEL`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "silent" => Some(Self::Silent),
            "error" => Some(Self::Error),
            "verbose" | "debug" => Some(Self::Verbose),
            _ => None,
        }
    }
}

struct Log {
    level: Level,
    interface: String,
    syslog: Option<UnixDatagram>,
}

static LOG: OnceLock<Log> = OnceLock::new();
static SECOND: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Chooses where messages go. The socket is not connected, because syslog may start later or restart. It gets a name
/// from the kernel, so that no name in the file system is needed.
pub(crate) fn start(level: Level, interface: &str, foreground: bool) {
    let open = || {
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        sys::autobind(&socket).ok()?;
        Some(socket)
    };
    let syslog = if foreground { None } else { open() };
    let _ = LOG.set(Log { level, interface: interface.to_owned(), syslog });
}

fn within_rate() -> bool {
    let second = sys::now_ms() / 1000;
    if SECOND.swap(second, Relaxed) != second {
        COUNT.store(0, Relaxed);
    }
    COUNT.fetch_add(1, Relaxed) < MAX_PER_SECOND
}

/// The severities of syslog(3) in use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error = 3,
    Notice = 5,
    Debug = 7,
}

fn write(severity: Severity, message: std::fmt::Arguments<'_>) {
    let least = if severity == Severity::Debug { Level::Verbose } else { Level::Error };
    let Some(log) = LOG.get().filter(|log| least <= log.level) else {
        return;
    };
    if !within_rate() {
        return;
    }
    let logged = log.syslog.as_ref().is_some_and(|socket| {
        let priority = (libc::LOG_DAEMON as u32) | severity as u32;
        let line =
            format!("<{priority}>wgq-userspace[{}]: ({}) {message}", std::process::id(), log.interface);
        socket.send_to(line.as_bytes(), SYSLOG).is_ok()
    });
    // The caller's standard error, until the start is over. The caller wants only errors.
    if !logged && (log.syslog.is_none() || severity != Severity::Notice) {
        to_stderr(format_args!("({}) {message}", log.interface));
    }
}

/// Writes to standard error if that is possible at once. Unlike `eprintln!`, it neither panics nor blocks when the reader
/// is gone, the disk is full or the terminal is stopped.
pub fn to_stderr(message: std::fmt::Arguments<'_>) {
    let mut stderr = [pollfd(&std::io::stderr(), libc::POLLOUT)];
    if poll(&mut stderr, Some(Duration::ZERO)).is_ok() && stderr[0].revents & libc::POLLOUT != 0 {
        let _ = std::io::stderr().write_all(format!("wgq-userspace: {message}\n").as_bytes());
    }
}

/// Writes the output that the user asked for.
pub fn to_stdout(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            to_stderr(format_args!("cannot write to standard output: {e}"));
            ExitCode::FAILURE
        }
    }
}

pub(crate) fn error(message: std::fmt::Arguments<'_>) {
    write(Severity::Error, message);
}

/// Logs a message even without `LOG_LEVEL=verbose`.
pub(crate) fn notice(message: std::fmt::Arguments<'_>) {
    write(Severity::Notice, message);
}

pub(crate) fn verbose(message: std::fmt::Arguments<'_>) {
    write(Severity::Debug, message);
}
