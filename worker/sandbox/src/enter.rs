//! The only stage of `files`: applies Landlock and seccomp to itself and becomes the program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::launch::{SandboxStage, refuse};
use crate::message::{AtStep as _, SetupError, SetupStep, StageMessage, at_path};
use crate::{filter, rights, rules, show};

pub(crate) fn main(argv: &[OsString]) -> ! {
    let stage = SandboxStage::begin().unwrap_or_else(|refused| refuse(None, refused));
    if let Err(refused) = confine(&stage) {
        refuse(Some(&stage), refused);
    }
    let Some((program, arguments)) = argv.split_first() else {
        stage.report(&StageMessage::NotStarted("no program is given".to_owned()));
        std::process::exit(1)
    };
    let error = Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .exec();
    stage.report(&StageMessage::NotStarted(error.to_string()));
    std::process::exit(1)
}

fn confine(stage: &SandboxStage) -> Result<(), SetupError> {
    let plan = &stage.plan;
    // The program keeps this, but what it starts does not.
    rights::die_with_the_parent().at(SetupStep::Rights)?;
    let started_in = std::env::set_current_dir(&plan.directory);
    at_path(&plan.directory, started_in).at(SetupStep::View)?;
    rights::drop_capabilities().at(SetupStep::Rights)?;
    if plan.layers.landlock > 0 {
        let shown = show::entries(plan);
        rules::restrict(plan, &shown).at(SetupStep::Landlock)?;
    }
    if plan.layers.seccomp {
        filter::apply(&plan.layers, plan.gateway_port.is_some()).at(SetupStep::Seccomp)?;
    }
    Ok(())
}
