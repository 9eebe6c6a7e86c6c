//! The option `--features`: asks a running daemon or this kernel, and prints the answer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use crate::features::{REQUEST, granted};
use crate::log;
use crate::sandbox;
use crate::tun::Tun;
use crate::uapi::server::DIRECTORY;

/// The features of a new device. A temporary device is opened in the daemon's sandbox to find them out.
fn of_kernel() -> std::io::Result<String> {
    let (tun, _) = Tun::open("wgqprobe%d")?;
    sandbox::prepare(Path::new(DIRECTORY));
    sandbox::confine(None);
    granted(&tun)
}

fn ask(interface: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(Path::new(DIRECTORY).join(format!("{interface}.sock")))?;
    stream.write_all(format!("{REQUEST}\n\n").as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.split_once("errno=0") {
        Some((features, _)) => Ok(features.to_owned()),
        None => Err(std::io::Error::other("it belongs to another implementation")),
    }
}

/// Prints the features of a running interface, or of this kernel.
pub fn show(interface: Option<&str>) -> ExitCode {
    match interface.map_or_else(of_kernel, ask) {
        Ok(text) => log::to_stdout(&text),
        Err(e) => {
            let subject = interface.unwrap_or("this kernel");
            log::to_stderr(format_args!("cannot read the features of {subject}: {e}"));
            ExitCode::FAILURE
        }
    }
}
