//! Landlock (landlock(7)): what the daemon may do with files, TCP ports and other processes, which is next to nothing.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::log::SYSLOG;

/// The newest that is asked for: each kernel grants as much of it as it knows.
const NEWEST: ABI = ABI::V9;

/// Takes away from this thread, and from those that it starts, every access to files and directories that Landlock
/// knows, TCP, and signals and abstract sockets of others (Linux 5.13; TCP since 6.7, signals and sockets since 6.12).
/// What remains is to remove files from one directory, and to write to the system's log.
///
/// What is open already is not affected. Returns the version of Landlock that is in force, or why none is.
pub fn restrict(directory: &Path) -> Result<u32, String> {
    match apply(directory) {
        Ok((RulesetStatus::NotEnforced, status)) => Err(reason(&status)),
        Ok((_, LandlockStatus::Available { effective_abi, .. })) => Ok(effective_abi as u32),
        Ok((_, status)) => Err(reason(&status)),
        Err(e) => Err(e.to_string()),
    }
}

fn reason(status: &LandlockStatus) -> String {
    match status {
        LandlockStatus::NotEnabled => "it is switched off in this kernel",
        LandlockStatus::NotImplemented => "this kernel has none",
        LandlockStatus::Available { .. } => "the kernel enforces no part of it",
    }
    .to_owned()
}

fn apply(directory: &Path) -> Result<(RulesetStatus, LandlockStatus), RulesetError> {
    let removal = PathFd::new(directory).map(|place| PathBeneath::new(place, AccessFs::RemoveFile));
    let logs = log_directories().into_iter().filter_map(|place| PathFd::new(place).ok());
    let logs = logs.map(|place| PathBeneath::new(place, AccessFs::ResolveUnix));
    let rules = removal.into_iter().chain(logs).map(Ok::<_, RulesetError>);
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(rules)?
        .restrict_self()?;
    Ok((status.ruleset, status.landlock))
}

/// Where the system's log may listen: its socket is made anew when it starts again, and may be a link to another place.
fn log_directories() -> Vec<PathBuf> {
    let named = PathBuf::from(SYSLOG);
    let real = named.canonicalize().ok();
    [Some(named), real].into_iter().flatten().filter_map(|path| path.parent().map(Path::to_owned)).collect()
}
