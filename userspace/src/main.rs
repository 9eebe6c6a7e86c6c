//! `wgq-userspace`: a userspace WireGuard daemon for Linux with the command line of wireguard-go.

use std::process::ExitCode;

use wgq_userspace::{log, query, start, tun};

const HELP: &str = "\
Usage: wgq-userspace [-f] [-v] [--] INTERFACE
       wgq-userspace --features [INTERFACE] | --help | --version

Creates the TUN interface INTERFACE and runs WireGuard on it, to be configured with wg(8) or wgq.
Returns once /var/run/wireguard/INTERFACE.sock answers; the daemon ends when the interface is deleted,
when that socket is removed, or on SIGTERM.

  -f, --foreground  stay in the foreground
  -v, --verbose     log events, as LOG_LEVEL=verbose does
  --features        show the offloads and the sandbox that this kernel supports, or that a running INTERFACE uses
  -h, --help        show this help
  -V, --version     show the version

Environment:
  LOG_LEVEL=silent|error|verbose   the log level; the log is standard error in the foreground, else syslog
  WG_PROCESS_FOREGROUND=1          like --foreground
  WGQ_CIPHER=ring|avx2|avx512      use this cipher instead of the fastest one that the processor supports
";

/// The command that the arguments select.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Help,
    Version,
    Features(Option<String>),
    Run { interface: String, foreground: bool, verbose: bool },
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut interface, mut foreground, mut verbose, mut features) = (None, false, false, false);
    let mut options_ended = false;
    for argument in arguments {
        match argument.as_str() {
            "--" if !options_ended => options_ended = true,
            option if options_ended || !option.starts_with('-') => {
                if interface.replace(argument).is_some() {
                    return Err("more than one interface is named; see --help".to_owned());
                }
            }
            "-h" | "--help" => return Ok(Command::Help),
            "-V" | "--version" => return Ok(Command::Version),
            "-f" | "--foreground" => foreground = true,
            "-v" | "--verbose" => verbose = true,
            "--features" => features = true,
            option => return Err(format!("unknown option {option}; see --help")),
        }
    }
    if features {
        return Ok(Command::Features(interface));
    }
    let interface = interface.ok_or("no interface is named; see --help")?;
    tun::check_name(&interface).map_err(|_| {
        format!("`{interface}' cannot be the name of an interface: up to 15 letters, digits and _=+.-")
    })?;
    Ok(Command::Run { interface, foreground, verbose })
}

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned())) {
        Ok(Command::Help) => log::to_stdout(HELP),
        Ok(Command::Version) => log::to_stdout(concat!("wgq-userspace ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Command::Features(interface)) => query::show(interface.as_deref()),
        Ok(Command::Run { interface, foreground, verbose }) => start::run(&interface, foreground, verbose),
        Err(message) => {
            log::to_stderr(format_args!("{message}"));
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, String> {
        parse(arguments.iter().map(ToString::to_string))
    }

    #[test]
    fn the_command_line_is_that_of_wireguard_go() {
        let run = |foreground| Command::Run { interface: "wg0".to_owned(), foreground, verbose: false };
        assert_eq!(parsed(&["wg0"]), Ok(run(false)));
        assert_eq!(parsed(&["-f", "wg0"]), Ok(run(true)));
        assert_eq!(parsed(&["--foreground", "wg0"]), Ok(run(true)));
        assert_eq!(parsed(&["--version"]), Ok(Command::Version));
        assert_eq!(parsed(&["-f", "--", "wg0"]), Ok(run(true)));
        assert_eq!(parsed(&["--features"]), Ok(Command::Features(None)));
        assert_eq!(parsed(&["--features", "wg0"]), Ok(Command::Features(Some("wg0".to_owned()))));
    }

    #[test]
    fn an_argument_after_two_dashes_is_a_name() {
        for name in ["-x", "--help", "--"] {
            let run = Command::Run { interface: name.to_owned(), foreground: false, verbose: false };
            assert_eq!(parsed(&["--", name]), Ok(run));
        }
        assert!(parsed(&["--"]).is_err() && parsed(&["--", "-x", "-f"]).is_err());
    }

    #[test]
    fn an_invalid_command_line_is_rejected() {
        for arguments in [&[][..], &["wg0", "wg1"], &["--fast", "wg0"], &["a/b"]] {
            assert!(parsed(arguments).is_err(), "{arguments:?}");
        }
    }
}
