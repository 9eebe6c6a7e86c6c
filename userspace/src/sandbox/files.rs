//! Landlock (landlock(7)): forbids almost all access to files, TCP ports and other processes.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::log::SYSLOG;

/// The newest version requested. Each kernel enforces the parts that it supports.
const NEWEST: ABI = ABI::V9;

/// Denies this thread, and the threads that it starts, all access to files and directories that Landlock controls, TCP,
/// and signals and abstract sockets of other processes (Linux 5.13; TCP since 6.7, signals and sockets since 6.12).
/// Removing files from one directory and writing to the system log remain allowed.
///
/// Open files are not affected. Returns the version of Landlock in force, or the reason why there is none.
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
        LandlockStatus::NotEnabled => "it is disabled in this kernel",
        LandlockStatus::NotImplemented => "this kernel does not support it",
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

/// The directories of the system log's socket, which may be a symbolic link. The socket itself changes when the log
/// daemon restarts.
fn log_directories() -> Vec<PathBuf> {
    let named = PathBuf::from(SYSLOG);
    let real = named.canonicalize().ok();
    [Some(named), real].into_iter().flatten().filter_map(|path| path.parent().map(Path::to_owned)).collect()
}
