//! The first stage of `strict`: makes the namespaces and opens the gateway's socket in them.
//!
//! A socket belongs to the network namespace of the process that made it. The worker serves this
//! listener from outside, so the program reaches its gateway, and there is no other way out.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{getgid, getuid};

use crate::launch::{SandboxStage, refuse};
use crate::message::{AtStep as _, SetupError, SetupStep, StageMessage, send};
use crate::plan::Plan;
use crate::warm::{WarmRole, enter_server_namespace};
use crate::{network, rights, word};

pub(crate) fn main(argv: &[OsString]) -> ! {
    let stage = SandboxStage::begin().unwrap_or_else(|refused| refuse(None, refused));
    match make(&stage, argv) {
        Ok(status) => std::process::exit(status),
        Err(refused) => refuse(Some(&stage), refused),
    }
}

fn make(stage: &SandboxStage, argv: &[OsString]) -> Result<i32, SetupError> {
    rights::outlive_the_program().at(SetupStep::Rights)?;
    let own_network = stage.plan.layers.own_network;
    if stage.plan.warm == Some(WarmRole::Run) {
        enter_server_namespace(&stage.messages).at(SetupStep::Namespaces)?;
    }
    make_namespaces(&stage.plan).at(SetupStep::Namespaces)?;
    if own_network {
        network::bring_loopback_up().at(SetupStep::Network)?;
        if let Some(port) = stage.plan.gateway_port {
            let listener = network::listen(port).at(SetupStep::Network)?;
            send(&stage.messages, &StageMessage::Listening, Some(&listener))
                .at(SetupStep::Network)?;
        }
    }
    rustix::system::sethostname(b"sandbox").at(SetupStep::Namespaces)?;
    rights::keep_capabilities_over_exec().at(SetupStep::Rights)?;
    let init = stage.next(word::INIT, argv).at(SetupStep::Namespaces)?;
    // Process 1 must not write into this process's memory.
    rights::hide_process().at(SetupStep::Rights)?;
    loop {
        match waitpid(init, None) {
            Ok(WaitStatus::Exited(_, status)) => return Ok(status),
            Ok(WaitStatus::Signaled(..)) | Err(nix::errno::Errno::ECHILD) => return Ok(1),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Enters new namespaces. Only children enter the new process namespace. The user keeps its id, so
/// that files have the same owner inside and outside.
fn make_namespaces(plan: &Plan) -> std::io::Result<()> {
    let (uid, gid) = (getuid(), getgid());
    let mut first = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    // A process can enter only namespaces of processes below its own.
    if plan.warm != Some(WarmRole::Server) {
        first |= CloneFlags::CLONE_NEWPID;
    }
    unshare(first)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {uid} 1\n"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {gid} 1\n"))?;
    let mut rest = CloneFlags::empty();
    if plan.layers.own_network {
        rest |= CloneFlags::CLONE_NEWNET;
    }
    if Path::new("/proc/self/ns/cgroup").exists() {
        rest |= CloneFlags::CLONE_NEWCGROUP;
    }
    Ok(unshare(rest)?)
}
