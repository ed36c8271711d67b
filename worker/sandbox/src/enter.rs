//! The only stage of `files`: applies Landlock and seccomp to itself and becomes the program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::launch::{Stage, refuse};
use crate::message::{At as _, Message, Refused, Step};
use crate::{filter, rights, rules, show};

pub(crate) fn main(argv: &[OsString]) -> ! {
    let stage = Stage::begin().unwrap_or_else(|refused| refuse(None, refused));
    if let Err(refused) = confine(&stage) {
        refuse(Some(&stage), refused);
    }
    let Some((program, arguments)) = argv.split_first() else {
        stage.tell(&Message::NotStarted("no program is given".to_owned()));
        std::process::exit(1)
    };
    let error = Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .exec();
    stage.tell(&Message::NotStarted(error.to_string()));
    std::process::exit(1)
}

fn confine(stage: &Stage) -> Result<(), Refused> {
    let plan = &stage.plan;
    std::env::set_current_dir(&plan.directory).at(Step::View)?;
    rights::drop_capabilities().at(Step::Rights)?;
    if plan.layers.landlock > 0 {
        let shown = show::entries(plan);
        rules::restrict(plan, &shown).at(Step::Landlock)?;
    }
    if plan.layers.seccomp {
        filter::apply(&plan.layers, plan.gateway_port.is_some()).at(Step::Seccomp)?;
    }
    Ok(())
}
