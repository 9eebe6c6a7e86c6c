//! What the kernel takes off our hands, and how the rest is done, told to the user.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use crate::aead::Cipher;
use crate::device::Device;
use crate::log;
use crate::sandbox;
use crate::tun::{Offloads, Tun};
use crate::uapi::server::DIRECTORY;
use crate::udp;

/// The request that a running daemon answers with these lines.
pub const REQUEST: &str = "features=1";

fn lines(offloads: Offloads, segmentation: Option<bool>) -> String {
    let yes = |granted| if granted { "yes" } else { "no" };
    format!(
        "large TCP packets to and from the TUN device: {}\nlarge UDP packets to and from the TUN device: {}\n\
         large UDP sends to peers: {}\ncipher: {}\nsandbox: {}\n",
        yes(offloads.tcp),
        yes(offloads.udp),
        segmentation.map_or("unknown while the link is down", yes),
        Cipher::chosen().name(),
        sandbox::describe(),
    )
}

/// Those in use by a device.
pub fn of_device(device: &Device) -> String {
    lines(device.tun.offloads, device.sockets().map(|sockets| sockets.segments()))
}

/// Those that this kernel grants a device.
fn granted(tun: &Tun) -> std::io::Result<String> {
    Ok(lines(tun.offloads, Some(udp::can_segment()?)))
}

/// Those of a device that has just started, in one line.
pub fn at_start(tun: &Tun) -> std::io::Result<String> {
    Ok(granted(tun)?.trim_end().replace('\n', "; "))
}

/// Those of any device, found out with one that is gone again at once, in the sandbox that a daemon would be in.
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
        None => Err(std::io::Error::other("it is served by another implementation")),
    }
}

/// Prints them.
pub fn show(interface: Option<&str>) -> ExitCode {
    match interface.map_or_else(of_kernel, ask) {
        Ok(text) => log::to_stdout(&text),
        Err(e) => {
            let whose = interface.unwrap_or("this kernel");
            log::to_stderr(format_args!("cannot tell the features of {whose}: {e}"));
            ExitCode::FAILURE
        }
    }
}
