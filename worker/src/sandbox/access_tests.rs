use std::cell::Cell;

use super::*;

const STRICT: Proven = Proven {
    layers: Layers {
        level: Level::Strict,
        landlock: 2,
        seccomp: true,
        own_network: true,
    },
    own_proc: true,
};

fn failure(level: Level, is_transient: bool) -> LevelUnavailable {
    LevelUnavailable {
        level,
        cause: "a cause".to_owned(),
        remedy: "a remedy".to_owned(),
        is_transient,
    }
}

#[test]
fn auto_falls_back_only_when_the_machine_cannot_give_the_stronger_level() {
    let files = Proven {
        layers: Layers {
            level: Level::Files,
            ..STRICT.layers
        },
        ..STRICT
    };
    let never = |level| Err(failure(level, false));
    let not_now = |level| Err(failure(level, true));
    for (strict, settled) in [
        (Ok(STRICT), Some(SandboxLevel::Strict)),
        (never(Level::Strict), Some(SandboxLevel::Files)),
        (not_now(Level::Strict), None),
    ] {
        let prove = |level| match level {
            Level::Strict => strict.clone(),
            Level::Files => Ok(files),
        };
        let chosen = choose(SandboxLevel::Auto, prove);
        assert_eq!(
            chosen.as_ref().ok().map(|chosen| chosen.level),
            settled,
            "after {strict:?}"
        );
        if let Err(error) = chosen {
            let error = error.to_string();
            assert!(error.contains("a cause; a remedy"), "{error}");
        }
    }
    let chosen = choose(SandboxLevel::Auto, |level| match level {
        Level::Strict => never(level),
        Level::Files => not_now(level),
    });
    assert!(chosen.is_err(), "never off by itself");
}

#[test]
fn a_failure_that_may_pass_is_tried_again_and_no_other() {
    for (transient, passes_after, tries, works) in [
        (true, 1, 2, true),
        (true, 3, 4, true),
        (true, 9, 4, false),
        (false, 9, 1, false),
    ] {
        let (made, pauses) = (Cell::new(0), Cell::new(0));
        let prove = || {
            made.set(made.get() + 1);
            if made.get() > passes_after {
                Ok(STRICT)
            } else {
                Err(failure(Level::Strict, transient))
            }
        };
        let proven = patiently(prove, |_| pauses.set(pauses.get() + 1));
        assert_eq!(proven.is_ok(), works, "transient {transient}");
        assert_eq!(made.get(), tries, "tries, transient {transient}");
        assert_eq!(pauses.get(), tries - 1, "a pause between two tries");
    }
}

fn limits() -> pool::Sandbox {
    pool::Sandbox {
        level: SandboxLevel::Strict,
        network: SandboxNetwork::Gateway,
        read: Vec::new(),
        write: Vec::new(),
        env: Vec::new(),
        max_memory_bytes: 0,
        max_file_bytes: 0,
        max_processes: 0,
        max_total_memory_bytes: 0,
        max_disk_bytes: 0,
        max_output_bytes: 0,
    }
}

fn command(access: CommandAccess) -> SandboxCommand {
    SandboxCommand {
        argv: vec!["true".into()],
        cwd: "/tree".into(),
        env: Vec::new(),
        timeout: Duration::ZERO,
        silence: None,
        access,
        warm: crate::sandbox::warm::WarmPart::None,
    }
}

#[test]
fn a_program_of_the_pool_file_is_shown_from_among_the_repositories() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().canonicalize().expect("its path").join(name);
    std::fs::create_dir_all(at("elsewhere/bin")).expect("a directory");
    std::fs::write(at("elsewhere/bin/agent"), "").expect("a program");
    std::fs::create_dir(at("root")).expect("a directory");
    std::os::unix::fs::symlink(at("elsewhere"), at("root/agent")).expect("a link");
    let guarded = Guarded {
        repositories: vec![at("root")],
        ..Guarded::default()
    };
    let found = FoundToolchains::default();
    let confinement = Confinement::new(&limits(), STRICT.layers, guarded, &found);
    let program = at("root/agent/bin/agent");
    let shows = |access| confinement.plan(&command(access)).read.contains(&program);
    let named = CommandAccess {
        programs: vec![program.clone()],
        ..CommandAccess::default()
    };
    assert!(shows(named), "the operator has named it");
    assert!(!shows(CommandAccess::default()), "nobody else shows it");
}

#[test]
fn runs_use_the_layers_that_were_proven_and_nothing_else() {
    let found = FoundToolchains::default();
    for landlock in [0, 2, 7] {
        let layers = Layers {
            landlock,
            ..STRICT.layers
        };
        let confinement = Confinement::new(&limits(), layers, Guarded::default(), &found);
        let plan = confinement.plan(&command(CommandAccess::default()));
        assert_eq!(plan.layers, layers, "whatever this kernel has");
    }
}
